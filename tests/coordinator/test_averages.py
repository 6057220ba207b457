"""The average over rounds: the run ends with it, and hospitals go on from the last model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support import goes_red, refuses
from support.runs import run, tiny_text, weights, written
from torch import Tensor

import fedmed.coordinator.coordinator
from fedmed.coordinator.averages import RoundAverages, without_averages

pytestmark = pytest.mark.usefixtures("tiny_hospitals")
DECAY = 0.6


def model(value: float) -> dict[str, dict[str, Tensor]]:
    return {"global": {"fc.bias": torch.full((2,), value)}}


def test_it_is_the_weighted_mean_of_the_models_so_far_without_the_bias_of_the_start() -> None:
    averages = RoundAverages(DECAY, {})
    first = model(5.0)
    assert averages.after(0, first) is first
    values = [3.0, -1.0, 7.0]
    for number, value in enumerate(values, 1):
        averages.update(number, model(value))
    weights = [DECAY**2, DECAY, 1.0]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    left = averages.after(3, model(7.0))["global"]["fc.bias"]
    torch.testing.assert_close(left, torch.full((2,), expected))


def test_a_checkpoint_keeps_it_apart_from_the_strategys_own_state() -> None:
    averages = RoundAverages(DECAY, {})
    averages.update(1, model(4.0))
    kept = {"first": {"fc.bias": torch.zeros(2)}, **averages.state}
    assert without_averages(kept).keys() == {"first"}
    again = RoundAverages(DECAY, kept)
    averages.update(2, model(1.0))
    again.update(2, model(1.0))
    one, other = (a.after(2, model(1.0))["global"]["fc.bias"] for a in (averages, again))
    assert torch.equal(one, other)


def test_a_checkpoint_without_its_averages_is_refused() -> None:
    """Else the sum would begin at 0 and the model shrink without a word."""
    refuses(lambda: RoundAverages(DECAY, {}).update(2, model(1.0)), "no average", "run again")


def test_of_decay_0_nothing_is_kept_and_the_last_model_is_the_result() -> None:
    averages = RoundAverages(0.0, {})
    last = model(4.0)
    averages.update(1, last)
    assert averages.state == {}
    assert averages.after(1, last) is last


def test_a_run_ends_with_the_average_and_its_hospitals_trained_from_the_last_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: an average that hospitals go on from is another recipe."""
    file = written(tmp_path, tiny_text(["none"], rounds=3, train="learning-rate = 0.05"))

    def models_of(out: Path, rounds: int) -> dict[str, Tensor]:
        settings = [f"train.rounds={rounds}", "train.schedule=constant"]
        run(file, out, "none", assignments=settings)
        return weights(out / "none" / "seed-0")

    plain = [models_of(tmp_path / str(rounds), rounds) for rounds in (1, 2, 3)]
    run(file, tmp_path / "mean", "none", assignments=[f"train.round-average={DECAY}"])
    shares = [DECAY**2, DECAY, 1.0]

    def check(mean: Mapping[str, Tensor]) -> None:
        for name, value in mean.items():
            expected = sum(w * p[name].double() for w, p in zip(shares, plain, strict=True))
            torch.testing.assert_close(
                value.double(), expected / math.fsum(shares), rtol=1e-4, atol=1e-6
            )

    check(weights(tmp_path / "mean" / "none" / "seed-0"))

    class GoesOn(RoundAverages):
        def update(self, rounds: int, models: Mapping[str, Any]) -> None:
            super().update(rounds, models)
            for owner, arrays in self.after(1, models).items():
                for name, value in arrays.items():
                    models[owner][name].copy_(value * 1.1)

    monkeypatch.setattr(fedmed.coordinator.coordinator, "RoundAverages", GoesOn)
    run(file, tmp_path / "wrong", "none", assignments=[f"train.round-average={DECAY}"])
    goes_red(check, weights(tmp_path / "wrong" / "none" / "seed-0"))
