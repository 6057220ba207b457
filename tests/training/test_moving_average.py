"""The average of parameters over a round's steps."""

import torch
from support import goes_red
from torch import nn

from fedmed.training.moving_average import ParameterAverage


def run(decay: float, values: list[float]) -> float:
    parameter = nn.Parameter(torch.zeros(3))
    average = ParameterAverage([parameter], decay)
    for value in values:
        parameter.data.fill_(value)
        average.update()
    average.apply()
    return float(parameter.detach().mean())


def check(found: float, decay: float, values: list[float]) -> None:
    weights = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert abs(found - expected) < 1e-5


def test_weights_fall_by_the_decay_and_sum_to_one() -> None:
    values = [4.0, -2.0, 1.0, 3.0]
    for decay in (0.1, 0.9, 0.999):
        check(run(decay, values), decay, values)
    goes_red(check, run(0.9, values), 0.5, values)


def test_no_decay_is_the_last_step_and_no_step_changes_nothing() -> None:
    assert run(0.0, [4.0, -2.0]) == -2.0
    assert run(0.9, []) == 0.0
