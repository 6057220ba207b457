"""Mistakes with images, patients and scores: each test is named after one, and fails where made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from support import SIZE, goes_red, make, refuses, tiny_shard
from support.pitfalls import model, settings_of, tiny_hospital
from torch import Tensor

from fedmed.config import Data
from fedmed.data import split
from fedmed.data.cohort import Cohort, validate
from fedmed.data.network import Network, load_network
from fedmed.data.partition import assign_hospitals
from fedmed.data.released import released_shard
from fedmed.data.shard import Shard
from fedmed.data.split import assign_splits
from fedmed.data.stores import ArrayStore
from fedmed.evaluation import summary, thresholds
from fedmed.evaluation.summary import evaluate
from fedmed.privacy.mechanisms.images import BrightnessShift, PixelLaplace
from fedmed.privacy.mechanisms.noise import GENERATORS, NoiseSource
from fedmed.privacy.mechanisms.step import laplace
from fedmed.privacy.plans.making import make_plan
from fedmed.training import local

SCALE = 0.7
MECHANISM = PixelLaplace(SCALE, SIZE**2)


@pytest.fixture(autouse=True)
def _quick(
    tmp_path: Path, tiny_hospitals_on_one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))


def check_pixels_have_their_own_noise() -> None:
    """Means over images scatter by sqrt(2) scale / 16; one of 50 beyond six of them: 1e-7."""
    images = tiny_shard(50).images
    noise = MECHANISM.apply(images, NoiseSource().numpy()) - images / 255
    assert np.abs(noise.mean(axis=(1, 2))).max() < 6 * np.sqrt(2) * SCALE / 16
    assert noise.std(axis=(1, 2)).min() > SCALE / 2


def check_a_change_of_brightness_claims_nothing() -> None:
    settings = make(privacy={"arm": "brightness-shift", "epsilon": 4.0})
    plan = make_plan(settings, 24, "hospital-1")
    assert (plan.unit, plan.step, plan.epsilon(), plan.per_patient()) == ("none", None, None, None)
    assert "no differential privacy" in plan.words("federated").mechanism


def test_pitfall_12_one_draw_for_a_whole_image_is_no_privacy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_pixels_have_their_own_noise()
    check_a_change_of_brightness_claims_nothing()
    monkeypatch.setattr(PixelLaplace, "apply", BrightnessShift(SCALE).apply)
    goes_red(check_pixels_have_their_own_noise)
    monkeypatch.setattr(BrightnessShift, "step", laplace(SCALE, 1))
    goes_red(check_a_change_of_brightness_claims_nothing)


def predictions(n: int = 400) -> pd.DataFrame:
    """Scores with some signal at three hospitals, whose scores lie on other levels."""
    draw = np.random.default_rng(0)
    patient = np.arange(n)
    label = draw.integers(0, 2, n)
    return pd.DataFrame(
        {
            "image": [f"i{i}" for i in range(n)],
            "patient_id": [f"p{p}" for p in patient],
            "hospital": [f"hospital-{p % 3 + 1}" for p in patient],
            "split": np.where(patient < 60, "val", "test"),
            "label": label,
            "score": 1 / (1 + np.exp(-(label + patient % 3 + draw.normal(size=n)))),
            "age": draw.uniform(0, 95, n),
            "sex": draw.choice(["F", "M"], n),
            "view": None,
        }
    )


def check_nothing_is_learnt_from_patients_in_training() -> None:
    """Threshold and best epoch come from patients whom the server holds, and no hospital trains."""
    network = load_network(Data(patients=60, image_size=SIZE, partition="even"))
    held_out, _ = network.held_out()
    assert set(held_out.table["split"]) == {"val", "test"}
    for hospital in network.names:
        trained = set(network.training(hospital).table["patient_id"])
        assert not trained & set(held_out.table["patient_id"])


def test_pitfall_15_no_threshold_or_best_epoch_comes_from_private_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights and normalisation are in test_pitfalls_training."""
    check_nothing_is_learnt_from_patients_in_training()
    monkeypatch.setattr(Network, "held_out", lambda self: (self.cohort, self.hospital))
    goes_red(check_nothing_is_learnt_from_patients_in_training)


def check_the_threshold_is_chosen_once_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_on: list[int] = []
    real = thresholds.youden_threshold
    with monkeypatch.context() as patch:
        patch.setattr(
            thresholds, "youden_threshold", lambda y, s: (chosen_on.append(len(y)), real(y, s))[1]
        )
        found = evaluate(predictions(), resamples=50)
    assert chosen_on == [60], "once, whatever is resampled afterwards"
    rows = predictions()
    test = rows["split"] == "test"
    rows.loc[test, "score"] = 1 - rows.loc[test, "score"]
    turned = evaluate(rows, resamples=50)
    assert turned["threshold"] == found["threshold"]
    assert turned["accuracy"] < 0.5 < found["accuracy"]


def test_pitfall_16_the_threshold_is_not_chosen_on_the_evaluated_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_the_threshold_is_chosen_once_on_validation(monkeypatch)
    real, measured = summary.choose, summary.panels
    with monkeypatch.context() as patch:
        patch.setattr(summary, "choose", lambda val, at: real(predictions()[60:], at))
        goes_red(check_the_threshold_is_chosen_once_on_validation, monkeypatch)

    def again_in_each_replicate(tests: Any, *arguments: Any, **options: Any) -> Any:
        for _ in range(3):
            thresholds.youden_threshold(tests[""]["label"], tests[""]["score"])
        return measured(tests, *arguments, **options)

    monkeypatch.setattr(summary, "panels", again_in_each_replicate)
    goes_red(check_the_threshold_is_chosen_once_on_validation, monkeypatch)


def images_trained_on(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Every picture that the network saw in two rounds of three passes."""
    seen: set[bytes] = set()
    real = local.to_input

    def notice(images: NDArray[np.float32], *arguments: Any) -> Tensor:
        seen.update(np.asarray(image).tobytes() for image in images)
        return real(images, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(local, "to_input", notice)
        settings = settings_of("pixel-laplace", local_epochs=3.0)
        one = tiny_hospital("pixel-laplace", shard=shard, settings=settings)
        for round_number in (1, 2):
            one.train("run", round_number, model(), {})
    return seen


class NoisedOnReading(Shard):
    """Noise in the loader: every access to an image draws it again."""

    @property
    def images(self) -> NDArray[np.float32]:
        return MECHANISM.apply(tiny_shard().images, NoiseSource().numpy())

    @images.setter
    def images(self, value: object) -> None:
        pass


def check_every_image_is_released_once(
    noised: Callable[[], Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = images_trained_on(noised(), monkeypatch)
    assert len(seen) == 24
    assert images_trained_on(noised(), monkeypatch) == seen, "in the next run too"


def test_pitfall_23_noise_on_an_image_is_drawn_once_not_each_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_every_image_is_released_once(
        lambda: released_shard(tiny_shard(), MECHANISM, NoiseSource()), monkeypatch
    )
    shard = tiny_shard()
    goes_red(
        check_every_image_is_released_once,
        lambda: NoisedOnReading(shard.key, shard.images, shard.table),
        monkeypatch,
    )


def zero_first() -> np.random.Generator:
    """A generator whose first uniform draw is exactly 0: two zero words of its state."""
    bits = np.random.MT19937(1)
    state = bits.state
    state["state"]["key"][:2] = 0
    state["state"]["pos"] = 0
    bits.state = state
    return np.random.Generator(bits)


def inverse_cdf(
    self: PixelLaplace, images: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.float32]:
    """u = -1/2 gives infinity."""
    u = rng.random(images.shape) - 0.5
    with np.errstate(divide="ignore"):
        noise = -self.scale * np.sign(u) * np.log1p(-2 * np.abs(u))
    return (images / 255 + noise).astype(np.float32)


def check_the_worst_draw_is_finite() -> None:
    assert zero_first().random() == 0.0
    noised = MECHANISM.apply(tiny_shard(2).images, zero_first())
    assert np.isfinite(noised).all()


def test_pitfall_25_no_laplace_draw_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    check_the_worst_draw_is_finite()
    assert "is not covered" in GENERATORS
    monkeypatch.setattr(PixelLaplace, "apply", inverse_cdf)
    goes_red(check_the_worst_draw_is_finite)


def films(patients: int = 120) -> pd.DataFrame:
    """Three films of every patient; a patient's films may differ in label."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(patients), 3)
    return pd.DataFrame(
        {
            "image": [f"i{i}" for i in range(len(rows))],
            "patient_id": [f"p{row}" for row in rows],
            "label": (rng.random(len(rows)) < 0.4).astype(int),
        }
    )


Assign = Callable[[pd.DataFrame, Data], pd.Series]


def check_patients_are_in_one_place(assign: Assign = assign_hospitals) -> None:
    cohort = Cohort("films.csv", validate(films(), "films.csv"), ArrayStore({}))
    for how in ("even", "label-skew", "size-skew"):
        data = Data.model_validate({"partition": how, "hospitals": 4})
        table = assign_splits(cohort, data).table
        assert table.groupby("patient_id")["split"].nunique().max() == 1
        assert assign(table, data).groupby(table["patient_id"]).nunique().max() == 1


def check_given_splits_are_checked() -> None:
    table = films().assign(split="train")
    table.loc[table.index % 9 == 0, "split"] = "val"  # one film of every third patient
    table.loc[200:, "split"] = "test"
    cohort = Cohort("films.csv", validate(table, "films.csv"), ArrayStore({}))
    refuses(lambda: assign_splits(cohort, Data()), "also in another split")


def check_given_sites_are_checked(assign: Assign = assign_hospitals) -> None:
    table = films().assign(split="train", site="north")
    table.loc[table.index % 9 == 0, "site"] = "south"
    refuses(lambda: assign(table, Data(hospitals=2)), "also at another site")


def dealt_by_image(table: pd.DataFrame, data: Data) -> pd.Series:
    """Every image is taken for a patient of its own."""
    return assign_hospitals(table.assign(patient_id=table["image"]), data)


def test_pitfall_26_no_patient_is_in_two_splits_or_two_hospitals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_patients_are_in_one_place()
    goes_red(check_patients_are_in_one_place, dealt_by_image)
    check_given_sites_are_checked()
    goes_red(check_given_sites_are_checked, dealt_by_image)
    check_given_splits_are_checked()
    monkeypatch.setattr(split, "_check_disjoint", lambda *_: None)
    goes_red(check_given_splits_are_checked)
    draw = split._draw
    monkeypatch.setattr(
        split, "_draw", lambda table, *rest: draw(table.assign(patient_id=table["image"]), *rest)
    )
    goes_red(check_patients_are_in_one_place)


def check_auroc_is_pooled() -> None:
    rows = predictions()
    test = rows[rows["split"] == "test"]
    assert evaluate(rows)["auroc"] == pytest.approx(roc_auc_score(test["label"], test["score"]))


def test_pitfall_27_auroc_is_pooled_not_the_mean_of_the_hospitals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_auroc_is_pooled()
    real = summary.number

    def mean_of_hospitals(found: Any) -> float | None:
        return None if real(found) is None else by_hospital

    rows = predictions()
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    by_hospital = float(
        np.mean(
            [
                roc_auc_score(part["label"], part["score"])
                for _, part in test.groupby(np.arange(len(test)) % 3)  # as predictions() deals them
            ]
        )
    )
    monkeypatch.setattr(summary, "number", mean_of_hospitals)
    goes_red(check_auroc_is_pooled)
