"""Local steps: the rate of the schedule, the pull of FedProx, the same after an interruption."""

from typing import Any

import pytest
import torch
from support import goes_red, make
from torch import nn

from fedmed.config import Train
from fedmed.training.optimiser import LocalSteps, make_optimizer, schedule


def train(**keys: Any) -> Train:
    return make(train={"learning-rate": 0.5, "momentum": 0.0} | keys).train


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_the_rate_falls_over_the_whole_run(kind: str, expected: list[float]) -> None:
    given = train(schedule=kind)
    found = [schedule(given, step, 8) for step in (0, 2, 4, 6, 8)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_warm_up_rises_in_equal_steps_and_the_rest_falls_from_the_full_rate() -> None:
    given = train(schedule="linear", warmup=0.4)
    found = [schedule(given, step, 10) for step in range(10)]
    assert found == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def taken(given: Train, rounds: list[int]) -> list[float]:
    """What each step of one unit of gradient moved, in these rounds of a model of its own."""
    weight = nn.Parameter(torch.zeros(1))
    moved = []
    for number in rounds:
        steps = LocalSteps([weight], given, number, 3)
        for _ in range(3):
            weight.grad = torch.ones(1)
            before = weight.item()
            steps.step()
            moved.append(before - weight.item())
            assert weight.grad is None
        steps.finish()
    return moved


def test_a_round_starts_where_the_last_one_ended_also_when_resumed() -> None:
    given = train(schedule="linear", rounds=2)
    whole = taken(given, [1, 2])
    assert whole == pytest.approx([0.5 * (1 - k / 6) for k in range(6)])

    def check(rounds: list[int]) -> None:
        assert taken(given, rounds) == pytest.approx(whole[3:])

    check([2])
    goes_red(check, [1])


def test_the_proximal_term_pulls_towards_the_rounds_model() -> None:
    """Steps of w <- w - 0.5 (1 + mu (w - w0)) with mu = 1 from w0 = 4: 3.5, 3.25, 3.125."""
    weight = nn.Parameter(torch.tensor([4.0]))
    steps = LocalSteps([weight], train(proximal=1.0), 1, 3)
    found = []
    for _ in range(3):
        weight.grad = torch.ones(1)
        steps.step()
        found.append(weight.item())
    assert found == pytest.approx([3.5, 3.25, 3.125])


def test_adamw_decays_apart_from_the_gradient() -> None:
    """Without gradient Adam's decay moves by the whole rate, AdamW's by rate x decay x weight."""
    moved = {}
    for name in ("adam", "adamw"):
        weight = nn.Parameter(torch.tensor([2.0]))
        optimizer = make_optimizer([weight], train(optimizer=name, **{"weight-decay": 0.1}))
        weight.grad = torch.zeros(1)
        optimizer.step()
        moved[name] = 2.0 - weight.item()
    assert moved == pytest.approx({"adam": 0.5, "adamw": 0.5 * 0.1 * 2.0})
