"""Mistakes of training: each test is named after one, and fails where it is made."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import SIZE, goes_red, gradient_plan, refuses, tiny_network
from support.pitfalls import (
    STILL,
    batch_sizes,
    check_noise,
    check_uncorrelated,
    flat,
    keyed_by,
    model,
    settings_of,
    tiny_hospital,
)
from torch import Tensor, nn

from fedmed.config import Settings
from fedmed.federation import exchange, messages
from fedmed.hospital import rounds as module
from fedmed.hospital.refusals import Refusal
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.training import local

Update = dict[str, Tensor]


pytestmark = pytest.mark.usefixtures("tiny_hospitals_on_one_thread")


class WithCounter(nn.Sequential):
    """The tiny network with a buffer as batch norm has one: an integer, and large."""

    def __init__(self) -> None:
        super().__init__(*tiny_network())
        self.register_buffer("num_batches_tracked", torch.tensor(1000))


def naive_clip(update: Update, clipping_norm: float) -> Update:
    """No case for zero, and NaN passes."""
    size = torch.sqrt(sum((v.double() ** 2).sum() for v in update.values()))  # type: ignore[arg-type]  # sum starts at the number 0
    return {name: (v * (clipping_norm / size)).float() for name, v in update.items()}


def check_only_finite_parameters_are_clipped() -> None:
    one = tiny_hospital("central-fixed", settings=settings_of("central-fixed", learning_rate=STILL))
    parameters = messages.parameters_of(WithCounter())
    assert list(parameters) == list(model()), "no buffer is exchanged, none enters the norm"
    update = flat(one.train("run", 1, model(), {}).update)
    assert float(update.abs().max()) < 1e-9, "an update of almost nothing is no NaN"
    loud = {name: value * 1e38 for name, value in model().items()}
    refuses(lambda: one.train("run", 1, loud, {}), "not-finite", error=Refusal)
    bright = dataclasses.replace(one.shard, images=np.full((24, SIZE, SIZE), 3e38, np.float32))
    blinded = dataclasses.replace(one, settings=settings_of("central-fixed"), shard=bright)
    update = flat(blinded.train("run", 1, model(), {}).update)
    assert torch.equal(update, torch.zeros(len(update))), "what is no number becomes 0, and is sent"


def test_pitfall_03_no_state_dict_is_clipped_no_zero_divides_and_no_nan_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_only_finite_parameters_are_clipped()
    with monkeypatch.context() as patch:
        patch.setattr(module, "clip", naive_clip)
        goes_red(check_only_finite_parameters_are_clipped)
    monkeypatch.setattr(exchange, "trainable", lambda network: network.state_dict())
    goes_red(check_only_finite_parameters_are_clipped)


def check_batches_are_poisson(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 patients at rate 1/5: mean 8, variance 6.4; five standard errors, false alarm 1e-6."""
    sizes = batch_sizes(
        monkeypatch, gradient_plan(units=40, expected_batch=8, steps_per_round=600), 40
    )
    assert len(sizes) == 600
    assert abs(np.mean(sizes) - 8) < 5 * math.sqrt(6.4 / 600)
    assert abs(np.var(sizes) / 6.4 - 1) < 5 * math.sqrt(2 / 600)


class ShuffledLoader:
    """Batches of a fixed size from one shuffled pass after the other."""

    def __init__(self) -> None:
        self.order: list[int] = []

    def __call__(
        self, units: list[NDArray[np.int64]], rate: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        if not self.order:
            self.order = rng.permutation(len(units)).tolist()
        size = round(rate * len(units))
        batch, self.order = self.order[:size], self.order[size:]
        return np.array([units[unit][0] for unit in batch], dtype=np.int64)


def test_pitfall_04_the_poisson_batches_are_those_that_are_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_batches_are_poisson(monkeypatch)
    monkeypatch.setattr(local, "poisson_batch", ShuffledLoader())
    goes_red(check_batches_are_poisson, monkeypatch)


def check_hospitals_noise_is_their_own(source: NoiseSource) -> None:
    settings = settings_of("local-update", learning_rate=STILL)
    updates = [
        flat(
            tiny_hospital("local-update", name=f"hospital-{i}", source=source, settings=settings)
            .train("run", 1, model(), {})
            .update
        )
        for i in range(4)
    ]
    check_uncorrelated(updates[0], updates[1])
    # Noise of multiplier 1 and sensitivity 2 averages out: half of it is left over four.
    check_noise(torch.stack(updates).mean(dim=0), 2 / 2)


@pytest.mark.parametrize("source", [NoiseSource(), NoiseSource(3)])
def test_pitfall_06_no_two_sites_share_a_seed(
    source: NoiseSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_hospitals_noise_is_their_own(source)
    monkeypatch.setattr(NoiseSource, "_key", keyed_by(lambda context: "seed"))
    goes_red(check_hospitals_noise_is_their_own, source)


def no_rows(*_: object) -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


def check_empty_batches_are_noised_steps() -> None:
    """Four steps of noise 1000 x 0.5 on the sum, six expected in a batch, learning rate 0.1."""
    plan = gradient_plan(clipping_norm=0.5, noise_multiplier=1000.0)
    one = tiny_hospital("dp-sgd", plan=plan)
    update = flat(one.train("run", 1, model(), {}).update)
    check_noise(update, 0.1 * math.sqrt(4) * 1000 * 0.5 / 6)


def test_pitfall_07_an_empty_poisson_batch_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = batch_sizes(monkeypatch, gradient_plan(expected_batch=1, steps_per_round=100), 24)
    assert len(sizes) == 100, "a step for every batch"
    assert 0 in sizes, "36 % are empty: none among 100 once in 1e19 runs"
    monkeypatch.setattr(local, "poisson_batch", no_rows)
    check_empty_batches_are_noised_steps()
    real, empty = local.to_input, []

    def notice(images: Any, *arguments: Any) -> Tensor:
        empty.append(len(images) == 0)
        return real(images, *arguments)

    class SkipsEmptyBatches(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return None if empty[-1] else super().step(closure)

    monkeypatch.setattr(local, "to_input", notice)
    monkeypatch.setattr(torch.optim, "SGD", SkipsEmptyBatches)
    goes_red(check_empty_batches_are_noised_steps)


def check_a_late_hospital_is_private() -> None:
    plan = gradient_plan(noise_multiplier=1000.0, rounds=5)
    late = tiny_hospital("dp-sgd", plan=plan)
    check_noise(flat(late.train("run", 3, model(), {}).update), 0.1 * math.sqrt(4) * 1000 / 6)
    assert late.ledger.steps("run") == 4


def test_pitfall_09_nothing_of_the_privacy_is_made_in_round_one_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_a_late_hospital_is_private()
    real = local.train_private

    def first_round_only(network: nn.Module, *arguments: Any) -> local.LocalResult:
        shard, settings, plan, _, context, _ = arguments
        if context[1] == 1:
            return real(network, *arguments)
        local.train_plain(network, shard, settings, context[:2])
        return local.LocalResult(plan.steps_per_round, None)

    monkeypatch.setattr(module, "train_private", first_round_only)
    goes_red(check_a_late_hospital_is_private)


def check_noise_grows_with_the_steps() -> None:
    """Each step's sum has its own noise, so the weights' noise grows with their square root."""
    for steps in (1, 4, 16):
        plan = gradient_plan(noise_multiplier=1000.0, steps_per_round=steps)
        one = tiny_hospital("dp-sgd", plan=plan)
        update = flat(one.train("run", 1, model(), {}).update)
        check_noise(update, 0.1 * math.sqrt(steps) * 1000 / 6)


def test_pitfall_10_noise_is_not_added_once_to_the_final_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_noise_grows_with_the_steps()
    real = local.train_private

    def at_the_end(
        network: nn.Module, shard: Any, settings: Settings, plan: Any, *rest: Any
    ) -> Any:
        result = real(
            network, shard, settings, dataclasses.replace(plan, noise_multiplier=1e-9), *rest
        )
        deviation = plan.noise_standard_deviation / plan.expected_batch
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * deviation * 0.1)
        return result

    monkeypatch.setattr(module, "train_private", at_the_end)
    goes_red(check_noise_grows_with_the_steps)
