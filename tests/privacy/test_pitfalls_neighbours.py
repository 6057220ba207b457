"""Mistakes with who is a neighbour: a patient or an image more may change nothing but itself."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from support import goes_red
from support.pitfalls import settings_of

from fedmed.config import Data
from fedmed.data import network as network_module
from fedmed.data import partition, split
from fedmed.data.cohort import Cohort, validate
from fedmed.data.network import Network
from fedmed.data.partition import assign_hospitals
from fedmed.data.sources import medmnist
from fedmed.data.split import assign_splits
from fedmed.data.stores import ArrayStore
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import gaussian
from fedmed.privacy.plans import GradientPlan
from fedmed.privacy.plans.making import make_plan

CAP = 2
PATIENTS = 90
Places = dict[str, tuple[str, str, bool]]

_PIXELS = np.random.default_rng(5).integers(0, 256, (4 * PATIENTS, 2, 2), dtype=np.uint8)


def films(**columns: Any) -> pd.DataFrame:
    """Up to four films of each of 90 patients at three sites, in an order that mixes patients."""
    rng = np.random.default_rng(3)
    person = rng.permutation(np.repeat(np.arange(PATIENTS), rng.integers(1, 5, PATIENTS)))
    table = pd.DataFrame({"image": [f"x/{row}" for row in range(len(person))]})
    table["patient_id"] = [f"p{number}" for number in person]
    table["label"] = (rng.random(len(person)) < 0.4).astype(int)
    table["site"] = [f"s{number % 3}" for number in person]
    given = np.array(["train", "train", "val", "test"])[person % 4]
    return table.assign(split=given, **columns)


def of_table(table: pd.DataFrame) -> Cohort:
    return Cohort("films.csv", validate(table, "films.csv"), ArrayStore({"x": _PIXELS}))


def uncertain(cohort: Cohort) -> Cohort:
    """Every fifth patient's labels soft, and every other film of the next."""
    number = cohort.table["patient_id"].str[1:].astype(int)
    odd = np.arange(len(cohort)) % 2 == 0
    soft = (number % 5 == 0) | ((number % 5 == 1) & odd)
    told = pd.Series(0.5, index=cohort.table.index, dtype="Float32").mask(~soft)
    return cohort.with_table(cohort.table.assign(soft=told))


def places(cohort: Cohort, data: Data) -> Places:
    """By content of the image: its split, its hospital, and whether a cap of two keeps it."""
    done = assign_splits(cohort, data)
    network = Network(done, assign_hospitals(done.table, data), seed=data.seed)
    counted = {
        image
        for hospital in network.names
        for part in (network.training(hospital, CAP), network.evaluation(hospital, CAP))
        for image in part.table["image"]
    }
    return {
        done.images.digest(image): (where, str(hospital), image in counted)
        for image, where, hospital in zip(
            done.table["image"], done.table["split"], network.hospital, strict=True
        )
    }


def check_nobody_else_moves(data: Data, whole: Cohort, without: Iterable[Cohort]) -> None:
    before, gone = places(whole, data), 0
    for cohort in without:
        after = places(cohort, data)
        assert len(after) >= len(before) - 4, "one patient's films alone are gone"
        assert after == {image: before[image] for image in after}
        gone += len(before) - len(after)
    assert gone > 0


def leaving_out_each(cohort: Cohort) -> list[Cohort]:
    names = cohort.table["patient_id"].unique()[::3]
    left = (cohort.table[cohort.table["patient_id"] != name] for name in names)
    return [cohort.with_table(table.reset_index(drop=True)) for table in left]


HOW: list[dict[str, Any]] = [
    {"split": "patient", "partition": "even"},
    {"split": "patient", "partition": "label-skew"},
    {"split": "patient", "partition": "size-skew"},
    {"split": "patient", "partition": "site"},
    {"split": "given", "partition": "even"},
    {"split": "given-test", "partition": "label-skew"},
]


def permuted(names: Iterable[object], seed: int, purpose: str) -> NDArray[np.float64]:
    """As it was: one permutation of everybody, from the public seed."""
    count = len(list(names))
    return np.random.default_rng([seed, len(purpose)]).permutation(count) / count


def first_of_a_shuffle(
    patients: pd.Series, images: Iterable[str], cap: int, seed: int
) -> NDArray[np.bool_]:
    """A patient's first films in one permutation of all."""
    order = pd.Series(permuted(images, seed, "cap"), index=patients.index)
    return (order.groupby(patients).rank() <= cap).to_numpy(dtype=bool)


@pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(how.values()))
def test_pitfall_38_a_patient_who_leaves_moves_nobody_else(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data.model_validate(how | {"hospitals": 3, "partition_alpha": 2.0, "seed": 1})
    whole = of_table(films())
    rest = leaving_out_each(whole)
    check_nobody_else_moves(data, whole, rest)
    soft = uncertain(whole)
    check_nobody_else_moves(data, soft, leaving_out_each(soft))
    for module, name, broken in (
        (split, "uniform", permuted),
        (partition, "uniform", permuted),
        (network_module, "kept", first_of_a_shuffle),
    ):
        fixed = {"split": data.split == "given", "partition": data.partition == "site"}
        if fixed.get(module.__name__.rpartition(".")[2]):
            continue  # the table says it, nothing is drawn
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            goes_red(check_nobody_else_moves, data, whole, rest)


def medmnist_of(path: Path, rows: pd.DataFrame, out: list[str]) -> Cohort:
    """A set as MedMNIST makes it, its rows numbered, without ``out``; every second is unknown."""
    kept = rows[~rows["patient_id"].isin(out)].copy()
    arrays: dict[str, Any] = {}
    index = []
    for name in ("train", "val", "test"):
        here = kept[kept["split"] == name]
        arrays[f"{name}_images"] = _PIXELS[here.index]
        arrays[f"{name}_labels"] = here["label"].to_numpy(dtype=np.uint8)[:, None]
        known = [p if int(p[1:]) % 2 else "" for p in here["patient_id"]]
        index.append(pd.DataFrame({"split": name, "row": range(len(here)), "patient_id": known}))
    np.savez(path / "setmnist.npz", **arrays)
    pd.concat(index).to_csv(path / "index.csv", index=False)
    return medmnist.load(
        Data(
            source="medmnist",
            path=str(path / "setmnist.npz"),
            index=str(path / "index.csv"),
            unknown_patients="separate",
        )
    )


def check_numbered_rows_do_not_matter(path: Path) -> None:
    rows = films()
    data = Data(split="patient", partition="even", hospitals=3, unknown_patients="separate")
    known = [f"p{number}" for number in range(1, PATIENTS, 8)]
    first = rows[rows["patient_id"].isin([f"p{number}" for number in range(0, PATIENTS, 8)])]
    alone = [p for p, count in first["patient_id"].value_counts().items() if count == 1]
    assert len(alone) > 1, "an image without a patient is a patient of its own"
    whole = medmnist_of(path, rows, [])
    without = (medmnist_of(path, rows, [str(p)]) for p in [*known, *alone])
    check_nobody_else_moves(data, whole, without)


def test_pitfall_38_the_number_of_a_row_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is taken out of a set of numbered rows renames all that follow."""
    check_numbered_rows_do_not_matter(tmp_path)
    monkeypatch.setattr(ArrayStore, "identity", lambda self, name: name)
    goes_red(check_numbered_rows_do_not_matter, tmp_path)


def kept_images(table: pd.DataFrame) -> set[str]:
    data = Data(split="given", partition="site", hospitals=3)
    return {image for image, place in places(of_table(table), data).items() if place[2]}


def moved_by_an_image() -> list[tuple[int, int]]:
    """For each film: how many others come and go when it is left out, under a cap of two."""
    table, moves = films(), []
    store = ArrayStore({"x": _PIXELS})
    whole = kept_images(table)
    for row in range(0, len(table), 7):
        without = kept_images(table.drop(index=row))
        own = {store.digest(table["image"][row])}
        moves.append((len(without - whole), len(whole - without - own)))
    return moves


def image_plan(cap: int = 4) -> GradientPlan:
    """1,000 images, batches of 64, 20 epochs, epsilon 8 at delta 1e-5."""
    privacy = {"epsilon": 8.0, "unit": "image", "images-per-patient": cap}
    settings = settings_of("dp-sgd", rounds=1, local_epochs=20.0, batch_size=64)
    settings = settings.replaced({f"privacy.{key}": value for key, value in privacy.items()})
    plan = make_plan(settings.replaced({"privacy.delta": 1e-5}), 1000, "hospital-1")
    assert isinstance(plan, GradientPlan)
    return plan


def replacement(noise: float, rate: float, steps: int, delta: float) -> tuple[float, float]:
    """Epsilon of a replaced record from below and above, by plain convolution of its loss.

    Independent of the accountant: the record pulls one way with probability ``rate`` under one data
    set and the other way under its neighbour. Losses are rounded down, or up, to a grid.
    """
    step, half = 5e-4, 1 << 18
    x = np.linspace(-1 - 13 * noise, 1 + 13 * noise, 2_000_001)

    def density(shift: float) -> NDArray[np.float64]:
        found = (1 - rate) * np.exp(-(x**2) / (2 * noise**2))
        found += rate * np.exp(-((x - shift) ** 2) / (2 * noise**2))
        return np.asarray(found)

    one, other = density(1.0), density(-1.0)
    loss, weight = np.log(one / other), one / one.sum()
    bounds = []
    for rounded in (np.floor, np.ceil):
        place = rounded(loss / step).astype(int) + half
        histogram = np.bincount(place, weights=weight, minlength=2 * half)
        # Circular with the origin first; losses of all steps stay far inside.
        spectrum = np.fft.rfft(np.roll(histogram, -half))
        total = np.fft.irfft(spectrum**steps, 2 * half)
        values = np.fft.fftfreq(2 * half, 1 / (2 * half)) * step

        def over(
            epsilon: float,
            total: NDArray[np.float64] = total,
            values: NDArray[np.float64] = values,
        ) -> float:
            return float((total * np.clip(1 - np.exp(epsilon - values), 0, None)).sum()) - delta

        bounds.append(float(brentq(over, 0, 40, xtol=1e-4)))
    return bounds[0], bounds[1]


def check_the_image_units_epsilon_is_that_of_a_replacement(plan: GradientPlan) -> None:
    low, high = replacement(plan.noise_multiplier, plan.sampling_rate, plan.steps, plan.delta)
    assert high - low < 0.2
    assert low - 0.02 < plan.epsilon() < high + 0.02
    assert plan.epsilon() <= 8.0


def test_pitfall_38_under_a_cap_one_image_more_replaces_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Printed was 7.998 for adding one, where 12.57 is true of the swap."""
    moves = moved_by_an_image()
    assert max(moves) == (1, 0), "at most one other film takes the place"
    assert moves.count((1, 0)) > 5
    noise = accounting.noise_multiplier(8.0, 1e-5, 0.064, 312)
    assert accounting.epsilon(noise, 0.064, 312, 1e-5) == pytest.approx(7.998, abs=5e-4)
    assert accounting.epsilon(noise, 0.064, 312, 1e-5, "replace-one") == pytest.approx(
        12.573, abs=5e-4
    )
    low, high = replacement(noise, 0.064, 312, 1e-5)
    assert low < 12.573 < high < low + 0.4

    check_the_image_units_epsilon_is_that_of_a_replacement(image_plan())
    monkeypatch.setattr(
        GradientPlan, "step", property(lambda self: gaussian(self.noise_multiplier, 0.064))
    )
    goes_red(check_the_image_units_epsilon_is_that_of_a_replacement, image_plan())
