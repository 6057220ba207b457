"""Central and distributed DP-SGD in one process: the same sums, dropouts, lost keys, refusals."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from safetensors.torch import load_file
from support import refuses, summed_plan

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.coordinator import stepping
from fedmed.coordinator.bounds import largest_number, most_units
from fedmed.coordinator.evaluation import initial_model
from fedmed.coordinator.strategies import Start
from fedmed.coordinator.summed import CentralSum
from fedmed.federation.sums import member_file
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
from fedmed.hospital.rounds import Round
from fedmed.hospital.terms import in_sum, terms_for
from fedmed.launch import run_inline
from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.grid import Grid
from fedmed.privacy.plans import Plan
from fedmed.privacy.statement.contents import check as check_statement
from fedmed.training import local

ASKED: dict[str, Any] = {
    "data.patients": 80,
    "data.image-size": 16,
    "data.hospitals": 4,
    "model.name": "resnet9",
    "model.trains": "head",
    "train.rounds": 3,
    "train.sampling-rate": 0.5,
    "train.learning-rate": 0.1,
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-3,
    "run.device": "cpu",
}


def asked(arm: str, **changes: Any) -> Settings:
    return Settings().replaced({**ASKED, "privacy.arm": arm, **changes})


def run(folder: Path, arm: str, on_round: Callable[..., None] = lambda *_: None, **changes: Any
        ) -> dict[str, Any]:  # fmt: skip
    result: dict[str, Any] = run_inline(asked(arm, **changes), folder, arm, on_round)
    return result


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def weights(folder: Path) -> torch.Tensor:
    arrays = load_file(folder / "model.safetensors")
    return torch.cat([arrays[name].flatten().double() for name in sorted(arrays)])


def everybody(units: list[np.ndarray], rate: float, rng: np.random.Generator) -> np.ndarray:
    """A batch of all patients, each with the first image: the same under every arm and seed."""
    return np.array([rows[0] for rows in units])


def test_distributed_gives_the_weights_of_central_with_that_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: the masks leave nothing, and the sum of the shares is the server's noise."""
    whole = {"train.sampling-rate": 1.0}
    monkeypatch.setattr(local, "poisson_batch", everybody)
    noised, added = Grid.noised, []

    def noticed(self: Grid, vector: np.ndarray, key: bytes | None = None) -> np.ndarray:
        result = noised(self, vector, key)
        added.append(result - vector)
        return result

    monkeypatch.setattr(Grid, "noised", noticed)
    run(tmp_path / "distributed", "distributed-dp-sgd", **whole)
    shares = [sum(added[k : k + 4], np.zeros_like(added[0])) for k in range(0, 12, 4)]
    monkeypatch.setattr(Grid, "noised", lambda self, vector, key=None: vector + shares.pop(0))
    run(tmp_path / "central", "central-dp-sgd", **whole)
    mine, theirs = weights(tmp_path / "distributed"), weights(tmp_path / "central")
    assert torch.equal(mine, theirs)
    assert len(added) == 12
    assert not shares
    # The noise is what was told: another share of one hospital is another model.
    assert float((mine - weights_before(tmp_path)).abs().max()) > 1e-3


def weights_before(folder: Path) -> torch.Tensor:
    state = initial_model(asked("central-dp-sgd")).state_dict()
    arrays = load_file(folder / "central" / "model.safetensors")
    return torch.cat([state[name].flatten().double() for name in sorted(arrays)])


def test_central_takes_the_step_of_pooled_clipped_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise and with everybody in the batch both are one step on the mean of all."""
    monkeypatch.setattr(Grid, "noised", lambda self, vector, key=None: vector)
    monkeypatch.setattr(local, "poisson_batch", everybody)
    monkeypatch.setattr(
        SumNoise,
        "noised_mean",
        lambda self, sums, deviation, batch: {n: v / batch for n, v in sums.items()},
    )
    one = {"train.rounds": 1, "train.momentum": 0.0}
    run(tmp_path / "central", "central-dp-sgd", **one, **{"train.sampling-rate": 1.0})
    patients = 0
    for each in json.loads((tmp_path / "central" / "privacy.json").read_text())["hospitals"]:
        patients += each["size"]
    run(
        tmp_path / "pooled", "dp-sgd", **one,
        **{"train.scheme": "pooled", "train.batch-size": patients, "train.local-epochs": 1.0},
    )  # fmt: skip
    moved = weights(tmp_path / "pooled") - weights_before(tmp_path)
    apart = weights(tmp_path / "pooled") - weights(tmp_path / "central")
    assert float(moved.norm()) > 0.01
    assert float(apart.norm()) < 0.01 * float(moved.norm())  # the grid's half steps


def failing(monkeypatch: pytest.MonkeyPatch, gone: dict[int, set[str]]) -> None:
    """Hospitals that are not there in some steps."""
    train = Hospital.train

    def absent(self: Hospital, name: str, number: int, *rest: Any) -> Any:
        if self.name in gone.get(number, set()):
            raise Refusal("memory")
        return train(self, name, number, *rest)

    monkeypatch.setattr(Hospital, "train", absent)


def test_who_is_gone_in_a_step_ends_no_run_and_too_few_unmask_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {1: {"hospital-2"}, 2: {"hospital-1", "hospital-3"}}
    failing(monkeypatch, gone)
    loose = {"train.on-failure": "continue", "privacy.threshold": 3, "privacy.colluding": 0}
    taken_steps: list[int] = []
    step = stepping.ServerSteps.step

    def noticed(self: Any, parameters: Any, gradient: Any, number: int) -> Any:
        taken_steps.append(number)
        return step(self, parameters, gradient, number)

    monkeypatch.setattr(stepping.ServerSteps, "step", noticed)
    result = run(tmp_path / "run", "distributed-dp-sgd", **loose)
    assert taken_steps == [1, 3]
    lines = history(tmp_path / "run")
    assert [line["hospitals"] for line in lines] == [0, 3, 2, 4]
    assert [line.get("given_up") for line in lines] == [None, None, 1.0, None]
    assert lines[2]["auroc"] == lines[1]["auroc"]
    # What was reserved stays spent: who answered the step that was given up paid for it.
    taken = {each["hospital"]: each["steps"] for each in statement(tmp_path / "run")["hospitals"]}
    assert taken == {"hospital-1": 2, "hospital-2": 2, "hospital-3": 2, "hospital-4": 3}
    assert result["rounds"] == 3


def statement(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "privacy.json").read_text())
    check_statement(told)
    return told


def test_below_the_threshold_a_run_that_must_not_go_on_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, {2: {"hospital-1"}})
    refuses(
        lambda: run(tmp_path / "run", "distributed-dp-sgd"), "hospital-1: memory", error=RunError
    )
    monkeypatch.undo()
    again = run(tmp_path / "run", "distributed-dp-sgd")  # the step that broke off was paid for
    lines = history(tmp_path / "run")
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert again["rounds"] == 2
    assert max(each["steps"] for each in statement(tmp_path / "run")["hospitals"]) == 3


def test_a_member_that_lost_its_keys_makes_all_meet_again(tmp_path: Path) -> None:
    def lose(number: int, *_: Any) -> None:
        if number == 1:
            path = member_file(tmp_path / "run", "hospital-3")
            held = json.loads(path.read_text())
            path.write_text(json.dumps({**held, "key": "", "secrets": {}}))

    loose = {"train.on-failure": "continue", "privacy.threshold": 3, "privacy.colluding": 0}
    run(tmp_path / "run", "distributed-dp-sgd", lose, **loose)
    lines = history(tmp_path / "run")
    assert [line["hospitals"] for line in lines] == [0, 4, 3, 4]
    assert lines[2]["failures"] == [{"hospital": "hospital-3", "code": "meeting"}]


def test_statements_name_whom_to_trust(tmp_path: Path) -> None:
    for arm, trust in (
        ("distributed-dp-sgd", "the hospital and all but a stated number of the other hospitals"),
        ("central-dp-sgd", "the hospital and the server"),
    ):
        run(tmp_path / arm, arm, **{"train.rounds": 1})
        told = statement(tmp_path / arm)
        assert told["trust"] == trust
        assert told["unit"] == "patient"
        assert told["epsilon"] == pytest.approx(8.0, abs=0.05)
        own = [text for text in told["not_covered"] if "its own share alone" in text]
        assert len(own) == (arm == "distributed-dp-sgd")


def test_a_hospital_that_joins_late_is_in_the_divisor() -> None:
    """Its plan comes when it joins: the sizes are not those of the first step."""
    plans: dict[str, Plan] = {"a": summed_plan("server", units=30)}
    model = {"w": torch.zeros(3)}
    start = Start(asked("central-dp-sgd").train, {2: "a"}, ArrayRecord())
    strategy = CentralSum(start, model, summed_plan("server"), plans, None, None)  # type: ignore[arg-type]  # no step is taken
    assert strategy.expected_batch(["a"]) == pytest.approx(0.2 * 30)
    plans["b"] = summed_plan("server", units=50)
    assert strategy.expected_batch(["a", "b"]) == pytest.approx(0.2 * 80)


def test_a_huge_declared_size_makes_no_step_small() -> None:
    """Ten times the median of the others' at most: else one hospital could stop all learning."""
    plans: dict[str, Plan] = {
        name: summed_plan("server", units=units, declared=True)
        for name, units in {"a": 20, "b": 30, "c": 10**9}.items()
    }
    start = Start(asked("central-dp-sgd").train, {}, ArrayRecord())
    strategy = CentralSum(start, {"w": torch.zeros(3)}, summed_plan("server"), plans, None, None)  # type: ignore[arg-type]  # no step is taken
    assert strategy.expected_batch(plans) == pytest.approx(0.2 * (20 + 30 + 300))
    counted = {name: summed_plan("server", units=plan.units) for name, plan in plans.items()}  # type: ignore[attr-defined]  # all are summed
    strategy.plans = counted
    assert strategy.expected_batch(plans) == pytest.approx(0.2 * (50 + 10**9)), "they are true"


def test_no_hospital_adds_more_than_its_patients_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """2^30 in every coordinate is as much as the largest sum of what it declares, and is logged."""
    plan = summed_plan("server", units=30)
    grid = plan.grid(3)
    limit = largest_number(plan, 30, grid)
    # 12 of 60 patients are expected in a batch; of 60 no more than the tail allows, and no more.
    assert limit * grid.step == pytest.approx(min(most_units(6), 60) * 1.01, rel=0.01)
    assert limit < grid.limit
    many = largest_number(summed_plan("server", units=3000), 3000, grid)
    assert many * grid.step == pytest.approx(most_units(600) * 1.01, rel=0.01)

    sums: list[torch.Tensor] = []
    step, noised = Round.step, Grid.noised

    def hostile(self: Round, *given: Any) -> np.ndarray:
        vector = step(self, *given)
        return np.full_like(vector, 2**30) if self.name == "hospital-2" else vector

    def noticed(self: Grid, vector: np.ndarray, key: bytes | None = None) -> np.ndarray:
        sums.append(torch.from_numpy(self.opened(vector)))
        return noised(self, vector, key)

    monkeypatch.setattr(Round, "step", hostile)
    monkeypatch.setattr(Grid, "noised", noticed)
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "run", "central-dp-sgd")
    assert caplog.text.count("hospital-2 sent numbers above what its size can give") == 3
    assert len(sums) == 3
    for total in sums:  # 12 patients or so at each of four
        assert 20 < float(total.median()) < 40


def test_another_arm_takes_no_part_in_a_sum() -> None:
    terms = terms_for(asked("dp-sgd", **{"train.batch-size": 4}), 0, 1)
    with pytest.raises(Refusal) as caught:
        in_sum(None, terms, "r", "hello", "1")  # type: ignore[arg-type]  # refused before it is asked
    assert caught.value.code == "plan"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam"])
def test_the_server_s_optimiser_is_one_over_the_run(optimizer: str) -> None:
    """Ten steps of :class:`ServerSteps`, its state written down between them, are torch's own."""
    train = Settings().replaced(
        {"train.optimizer": optimizer, "train.rounds": 10, "train.schedule": "cosine",
         "train.learning-rate": 0.1, "train.weight-decay": 0.01}
    ).train  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    arrays = {"a": torch.randn(3, 2, generator=generator), "b": torch.randn(4, generator=generator)}
    own = [torch.nn.Parameter(value.clone()) for value in arrays.values()]
    torchs = stepping.make_optimizer(own, train)
    state: dict[str, Any] = {}
    for number in range(1, 11):
        gradients = {n: torch.randn(v.shape, generator=generator) for n, v in arrays.items()}
        steps = stepping.ServerSteps(train, state)
        arrays = steps.step(arrays, {n: g.clone() for n, g in gradients.items()}, number)
        state = {key: {n: v.clone() for n, v in each.items()} for key, each in steps.state.items()}
        for group in torchs.param_groups:
            group["lr"] = 0.1 * stepping.schedule(train, number - 1, 10)
        for parameter, gradient in zip(own, gradients.values(), strict=True):
            parameter.grad = gradient
        torchs.step()
    for value, wanted in zip(arrays.values(), own, strict=True):
        torch.testing.assert_close(value, wanted.detach(), rtol=1e-6, atol=1e-7)
