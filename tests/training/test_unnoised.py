"""DP-SGD's recipe without its noise: the same batches, the same clipped sum, and nothing else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import goes_red, gradient_plan, make, refuses, tiny_network, tiny_shard
from support.training import SETTINGS, flat
from torch import Tensor

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import GradientPlan, UnnoisedPlan
from fedmed.training import local
from fedmed.training.local import LocalResult, train_private, train_unnoised

WIDE = 1e4  # beyond every gradient of the tiny network
FAINT = 1e-12  # noise that no float32 holds beside a gradient


def unnoised(plan: GradientPlan, *, clips: bool) -> UnnoisedPlan:
    return UnnoisedPlan(sampling=plan.sampling, clipping_norm=plan.clipping_norm if clips else None)


def change(
    train: Callable[..., LocalResult], plan: Any, settings: Settings = SETTINGS, films: int = 1
) -> Tensor:
    """Change of all parameters by one round, of the same batches whatever the plan."""
    model = tiny_network()
    before = flat(model)
    train(model, tiny_shard(24, films=films), settings, plan, NoiseSource(1), ("h", 1, "m"))
    return flat(model) - before


def all_three(plan: GradientPlan, settings: Settings = SETTINGS, films: int = 1) -> list[Tensor]:
    """Under DP-SGD, with clipping alone, and with neither."""
    return [
        change(train_private, plan, settings, films),
        change(train_unnoised, unnoised(plan, clips=True), settings, films),
        change(train_unnoised, unnoised(plan, clips=False), settings, films),
    ]


def coincide(first: Tensor, second: Tensor) -> None:
    assert float(first.norm()) > 1e-3
    assert float((first - second).norm() / first.norm()) < 1e-5


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("batch", [1, 8, 20])
def test_without_noise_and_beyond_every_gradient_the_three_are_one(views: int, batch: int) -> None:
    """Sabotage: a batch mean in place of the sum over the expected batch."""
    more = {"views": views, "augment": "flip" if views > 1 else "none"}
    settings = make(
        train={"optimizer": "sgd", "learning-rate": 0.05, "momentum": 0.0, **more},
        privacy={"arm": "dp-sgd", "physical-batch-size": 5},
    )
    plan = gradient_plan(
        units=12,
        expected_batch=batch if batch < 12 else 12,
        steps_per_round=7,
        clipping_norm=WIDE,
        noise_multiplier=FAINT,
    )
    private, clipped, recipe = all_three(plan, settings, films=2)
    coincide(private, clipped)
    coincide(private, recipe)
    wrong = dataclasses.replace(plan.sampling, expected_batch=max(2, batch - 1))
    goes_red(
        coincide,
        private,
        change(train_unnoised, UnnoisedPlan(sampling=wrong, clipping_norm=None), settings, 2),
    )


class NoNoise:
    """The division by the expected batch, and no noise."""

    def __init__(self, stream: object) -> None:
        pass

    def noised_mean(
        self, sums: dict[str, Tensor], deviation: float, expected_batch: float
    ) -> dict[str, Tensor]:
        return {name: value.mul_(1 / expected_batch) for name, value in sums.items()}


def test_with_clipping_it_is_dp_sgds_clipped_sum_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "SumNoise", NoNoise)
    plan = gradient_plan(units=24, expected_batch=7, steps_per_round=5, clipping_norm=0.01)

    def check(clips: bool) -> None:
        found = change(train_unnoised, unnoised(plan, clips=clips))
        assert torch.equal(change(train_private, plan), found)

    check(True)
    goes_red(check, False)  # the norm binds


def test_a_clipped_step_is_at_most_the_norm_and_an_unclipped_one_is_not() -> None:
    plan = gradient_plan(units=24, expected_batch=24, steps_per_round=1, clipping_norm=0.01)
    clipped, recipe = (change(train_unnoised, unnoised(plan, clips=c)) for c in (True, False))
    assert float(clipped.norm()) <= 0.01 * (1 + 1e-6)
    assert float(recipe.norm()) > 0.05


def test_every_planned_step_is_taken_and_other_units_are_refused() -> None:
    plan = gradient_plan(units=24, expected_batch=1, steps_per_round=40)
    for clips in (True, False):
        result = train_unnoised(
            *(tiny_network(), tiny_shard(24), SETTINGS, unnoised(plan, clips=clips)),
            *(NoiseSource(1), ("h", 1)),
        )
        assert (result.steps, result.loss) == (40, None)  # also those of nobody
        refuses(
            lambda clips=clips: train_unnoised(  # type: ignore[misc]  # the default binds this turn
                *(tiny_network(), tiny_shard(25), SETTINGS, unnoised(plan, clips=clips)),
                *(NoiseSource(1), ("h", 1)),
            ),
            "25 patients",
            error=RunError,
        )
