"""A hospital's evaluation: reserved before scoring, noised, the same bytes again, codes only."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Message, MessageType, RecordDict
from support import goes_red, make, tiny_network
from torch import Tensor

from clients import app as client_app
from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.data.network import Network, evaluation_shard, load_network
from fedmed.data.shard import Shard
from fedmed.evaluation.pooled.histograms import Spec, equal_width
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Histograms
from fedmed.hospital import histograms as module
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import NoPrivacy

RUN = "a run"
EDGES = equal_width(6)
ARMS = ("pixel-laplace", "dp-sgd", "local-update", "central-fixed")

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


def settings_of(arm: str, **evaluation: Any) -> Settings:
    return make(
        data={"patients": 60, "hospitals": 2},
        privacy={"arm": arm, "epsilon": 5.0, "delta": 1e-3},
        evaluation={"where": "hospitals", **evaluation},
    )


def hospital(arm: str, folder: Path, **changes: Any) -> Hospital:
    given = changes.pop("settings", settings_of(arm))
    values: dict[str, Any] = {
        "name": "hospital-1",
        "settings": given,
        "shard": evaluation_shard(given.data, "hospital-1"),
        "plan": NoPrivacy(),  # evaluation never looks at the plan of training
        "ledger": Ledger(folder / "hospital-1.sqlite"),
        "source": NoiseSource(),
    }
    return Hospital(**(values | changes))


def model(seed: int = 0) -> dict[str, Tensor]:
    return messages.parameters_of(tiny_network(seed))


def ask(one: Hospital, seed: int = 0, run: str = RUN, edges: Any = EDGES) -> Histograms:
    return module.evaluate(one, run, model(seed), {}, edges)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


def kinds(one: Hospital) -> list[str]:
    return [row.kind for row in one.ledger.rows()]


def same(first: Histograms, second: Histograms) -> bool:
    assert first.counts is not None
    assert second.counts is not None
    return all(np.array_equal(first.counts[f], second.counts[f]) for f in first.counts)


def test_exact_counts_where_nothing_is_protected(tmp_path: Path) -> None:
    one = hospital("none", tmp_path)
    found = ask(one)
    assert found.counts is not None
    table = evaluation_shard(one.settings.data, "hospital-1").table
    assert found.counts["all"].sum() == len(table)
    by_split = [int((table["split"] == split).sum()) for split in ("val", "test")]
    assert found.counts["all"].sum((1, 2, 3)).tolist() == by_split
    women = int((table["sex"] == "F").sum())
    assert found.counts["sex"][:, 0].sum() == women
    assert found.counts["age"].sum() == len(table)
    assert found.clustering == pytest.approx(module.clustering(table["patient_id"]))
    assert found.clustering > 1
    assert same(found, ask(one))
    assert not one.ledger.path.exists()


def test_a_hospital_counts_its_own_images_and_the_pooled_one_all() -> None:
    settings = settings_of("none")
    network = load_network(settings.data)
    sizes = [len(network.evaluation(name)) for name in ("hospital-1", "hospital-2", "pooled")]
    assert sizes[0] + sizes[1] == sizes[2] == len(network.held_out()[0])
    mine = network.evaluation("hospital-1").table
    train = network.training("hospital-1").table
    assert not set(mine["patient_id"]) & set(train["patient_id"])


@pytest.mark.parametrize("arm", ARMS)
def test_under_an_arm_that_protects_counts_are_noised_and_paid_for(
    arm: str, tmp_path: Path
) -> None:
    one = hospital(arm, tmp_path)
    found = ask(one)
    assert found.counts is not None
    for cells in found.counts.values():
        assert not np.equal(cells, np.round(cells)).any()
    assert found.clustering == 1
    assert kinds(one) == ["plan", "reserve", "commit"]
    assert {row.account for row in one.ledger.rows()} == {"hospital-1/patient/evaluation"}
    assert {row.run for row in one.ledger.rows()} == {f"{RUN}/evaluation"}
    plan = one.ledger.rows()[0].body
    assert plan["steps"] == 1
    assert plan["arm"] == f"{arm} (evaluation)"
    one.ledger.verify()


def test_the_same_request_gets_the_stored_bytes(tmp_path: Path) -> None:
    one = hospital("dp-sgd", tmp_path)
    first = ask(one)

    def again(other: Histograms) -> None:
        assert same(first, other)

    again(ask(one))
    again(ask(hospital("dp-sgd", tmp_path)))  # another process
    assert kinds(one) == ["plan", "reserve", "commit"]
    goes_red(again, ask(hospital("dp-sgd", tmp_path), run="another run"))


def test_other_noise_is_another_spend_and_a_plan_pays_for_one(tmp_path: Path) -> None:
    one = hospital("dp-sgd", tmp_path)
    ask(one)
    assert code_of(lambda: ask(one, seed=1)) == "budget"
    assert code_of(lambda: ask(one, edges=equal_width(7))) == "budget"
    assert kinds(one) == ["plan", "reserve", "commit"]
    ask(one, run="another run")
    assert kinds(one)[3:] == ["plan", "reserve", "commit"]
    _, total = one.ledger.state("hospital-1/patient/evaluation")
    step = module.evaluation_plan(one.settings)
    assert step is not None
    assert total == pytest.approx([2 * d for d in step.step.rdp()])


def test_the_release_is_reserved_before_an_image_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hospital("dp-sgd", tmp_path)
    seen: list[list[str]] = []
    scored = module.predict

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(kinds(one))
        return scored(*arguments, **options)

    monkeypatch.setattr(module, "predict", watched)
    ask(one)
    assert seen == [["plan", "reserve"]]


def test_a_crash_before_the_reply_leaves_the_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hospital("dp-sgd", tmp_path)

    class Killed(BaseException):
        """The process ends."""

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "predict", killed)
        with pytest.raises(Killed):
            ask(one)
    assert kinds(one) == ["plan", "reserve"]
    assert code_of(lambda: ask(one)) == "budget"


def with_one_extreme_image(settings: Settings) -> Shard:
    """The hospital's evaluation images, one of them so bright that no score of it is finite."""
    shard = evaluation_shard(settings.data, "hospital-1")
    images = np.ones(shard.images.shape, dtype=np.float32)
    images *= np.linspace(0.1, 0.9, len(images))[:, None, None]
    images[3] = 3e38
    return dataclasses.replace(shard, images=images)


def test_membership_leaks_not_by_an_image_whose_score_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted with logit 0: neither an error nor a missing count tells that it is there."""
    extreme = with_one_extreme_image(settings_of("none"))
    scored = module.predict
    row = extreme.table.iloc[3]
    split, label = ("val", "test").index(row["split"]), int(row["label"])

    def counted(predict: Callable[..., Any], shard: Shard) -> None:
        monkeypatch.setattr(module, "predict", predict)
        monkeypatch.setattr(module, "evaluation_shard", lambda *_: shard)
        try:
            found = ask(hospital("none", tmp_path), edges=(0.4999, 0.5001))
            ask(hospital("dp-sgd", tmp_path / predict.__name__))
        except Refusal as refused:
            raise AssertionError(refused.code) from refused
        assert found.counts is not None
        assert found.counts["all"].sum() == len(extreme.table)
        assert found.counts["all"][split, 0, label, 1] == 1

    counted(scored, extreme)

    def raising(*arguments: Any, unscored: float, **options: Any) -> Any:
        return scored(*arguments, **options)

    def lowest(*arguments: Any, unscored: float, **options: Any) -> Any:
        return scored(*arguments, unscored=-30.0, **options)

    left_out = dataclasses.replace(
        extreme,
        images=np.delete(extreme.images, 3, axis=0),
        table=extreme.table.drop(index=3).reset_index(drop=True),
    )
    goes_red(counted, raising, extreme)
    goes_red(counted, lowest, extreme)
    goes_red(counted, scored, left_out)


def test_without_a_ledger_nothing_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    one = hospital("dp-sgd", tmp_path, ledger=Ledger(tmp_path / "file" / "h.sqlite"))
    monkeypatch.setattr(module, "predict", lambda *_, **__: pytest.fail("scored"))
    assert code_of(lambda: ask(one)) == "ledger"


@pytest.mark.parametrize("arm", ["dp-sgd", "none"])
def test_a_policy_that_forbids_evaluation_is_kept_whatever_is_asked(
    arm: str, tmp_path: Path
) -> None:
    one = hospital(arm, tmp_path, policy=Policy(evaluation="refuse"))
    assert code_of(lambda: ask(one)) == "policy"
    assert not one.ledger.path.exists()


def test_a_limit_without_room_refuses_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "predict", lambda *_, **__: pytest.fail("scored"))
    policy = Policy(maximum_epsilon=2.0, delta=1e-3)
    assert code_of(lambda: ask(hospital("dp-sgd", tmp_path, policy=policy))) == "policy"


def test_under_a_limit_the_account_is_that_of_training(tmp_path: Path) -> None:
    one = hospital("dp-sgd", tmp_path, policy=Policy(maximum_epsilon=20.0, delta=1e-3))
    ask(one)
    assert {row.account for row in one.ledger.rows()} == {"hospital-1/patient"}


def test_exact_counts_of_a_site_with_a_policy_are_noted(tmp_path: Path) -> None:
    one = hospital("none", tmp_path, policy=Policy(arms=["none"]))
    ask(one)
    lines = one.ledger.log.entries()
    assert [line["what"] for line in lines] == ["evaluated without a guarantee"]


def test_a_delta_too_large_for_the_patients_is_refused(tmp_path: Path) -> None:
    one = hospital("dp-sgd", tmp_path, settings=settings_of("dp-sgd", delta=0.5))
    assert code_of(lambda: ask(one)) == "plan"
    assert not one.ledger.path.exists()


@pytest.mark.parametrize("edges", [(0.5, 0.4), (float("nan"),), tuple(np.linspace(0.1, 0.9, 5000))])
def test_edges_from_outside_are_checked(edges: tuple[float, ...], tmp_path: Path) -> None:
    assert code_of(lambda: ask(hospital("dp-sgd", tmp_path), edges=edges)) == "plan"


def test_a_cohort_that_changes_meanwhile_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hospital("dp-sgd", tmp_path)
    real = evaluation_shard(one.settings.data, "hospital-1")
    keys = iter(["before", "after"])
    changing = dataclasses.replace(real)
    monkeypatch.setattr(Shard, "fingerprint", lambda self: next(keys))
    monkeypatch.setattr(module, "evaluation_shard", lambda *_: changing)
    assert code_of(lambda: ask(one)) == "data"
    assert kinds(one) == ["plan", "reserve"]


def test_reproducible_noise_repeats_for_a_request_and_only_for_it(tmp_path: Path) -> None:
    def seeded(folder: str, run: str = RUN) -> Histograms:
        return ask(hospital("dp-sgd", tmp_path / folder, source=NoiseSource(4)), run=run)

    assert same(seeded("a"), seeded("b"))
    other = ask(hospital("dp-sgd", tmp_path / "c", source=NoiseSource(4)), edges=equal_width(7))
    assert other.counts is not None
    first = seeded("a").counts
    assert first is not None
    assert not np.isclose(other.counts["all"].ravel()[0] % 1, first["all"].ravel()[0] % 1)


def test_groups_in_the_words_of_the_public_lists() -> None:
    table = pd.DataFrame(
        {
            "sex": pd.Series(["F", pd.NA, "M"], dtype="string"),
            "age": pd.Series([29.5, 80, None], dtype="Float32"),
            "comorbidities": pd.Series([2, 7, None], dtype="Int16"),
        }
    )
    assert module._groups(table, "sex").tolist() == ["F", "unknown", "M"]
    assert module._groups(table, "age").tolist() == ["0-29", "80+", "unknown"]
    assert module._groups(table, "sex_age").tolist() == ["F 0-29", "unknown", "unknown"]
    assert module._groups(table, "comorbidities").tolist() == ["2", "3+", "unknown"]
    assert module._groups(table, "view").tolist() == ["unknown"] * 3


# Through the app: what crosses the wire.


def through_the_app(settings: Settings, folder: Path, edges: Any = EDGES) -> Message:
    given = settings.replaced({"run.ledgers": str(folder), "run.out": str(folder)})
    grid = InlineGrid(client_app.app, 2, given.to_flat())
    content = messages.evaluate_content(model(), messages.encode_arrays({}), edges, RUN)
    (reply,) = grid.send_and_receive([Message(content, 2, MessageType.EVALUATE)])
    return reply


def test_the_reply_holds_noised_counts_and_a_name(tmp_path: Path) -> None:
    reply = through_the_app(settings_of("local-update"), tmp_path)
    assert sorted(reply.content) == ["histograms", "reply"]
    assert dict(reply.content.config_records["reply"]) == {"hospital": "hospital-1"}
    read = messages.read_histograms(reply, "hospital-1", Spec(edges=EDGES, cap=1))
    assert read.error is None
    again = messages.read_histograms(
        through_the_app(settings_of("local-update"), tmp_path), "hospital-1", Spec(edges=EDGES)
    )
    assert same(read, again)


@pytest.mark.parametrize(
    "error",
    [
        UserError("patient Umbrella"),
        ValueError("patient Umbrella"),
        MemoryError("patient Umbrella"),
    ],
)
def test_a_failure_leaves_as_a_code(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "evaluation_shard", fails)
    caplog.set_level(logging.CRITICAL)
    reply = through_the_app(settings_of("none"), tmp_path)
    assert sorted(reply.content) == ["error"]
    told = dict(reply.content.config_records["error"])
    assert "Umbrella" not in str(told)
    assert told["code"] in ("data", "internal", "memory")


def test_a_request_without_edges_is_a_code(tmp_path: Path) -> None:
    settings = settings_of("none").replaced({"run.ledgers": str(tmp_path)})
    grid = InlineGrid(client_app.app, 2, settings.to_flat())
    (reply,) = grid.send_and_receive([Message(RecordDict(), 2, MessageType.EVALUATE)])
    assert dict(reply.content.config_records["error"])["code"] == "internal"


def test_a_network_says_whether_its_table_has_the_split() -> None:
    assert not load_network(settings_of("none").data).fixed_split
    assert Network.__dataclass_fields__["fixed_split"].default is False
