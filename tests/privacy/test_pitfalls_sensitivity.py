"""Mistakes of how far one patient moves a sum: tests that fail where one is made."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import (
    goes_red,
    gradient_plan,
    refuses,
    tiny_network,
    tiny_shard,
)
from support.pitfalls import (
    flat,
    settings_of,
    some_rows,
    tiny_hospital,
)
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import fedmed.models
from fedmed.federation import messages
from fedmed.hospital import hospital as module
from fedmed.hospital.refusals import Refusal
from fedmed.privacy.gradients import ClippedSum, make_engine
from fedmed.training import local

pytestmark = pytest.mark.usefixtures("tiny_hospitals_on_one_thread")


# How far one patient moves the sum that DP-SGD releases, noise aside.

BOUND = 0.1


def released_sum(
    rows: list[int], labels: list[int] | None = None, network: nn.Module | None = None
) -> Tensor:
    """Of the patients in these rows, everybody sampled: the update times the expected batch."""
    shard = some_rows(tiny_shard(), rows)
    if labels is not None:
        shard = dataclasses.replace(shard, table=shard.table.assign(label=labels))
    plan = gradient_plan(
        declared=True,
        expected_batch=24,
        steps_per_round=1,
        clipping_norm=BOUND,
        noise_multiplier=1e-9,
    )
    settings = settings_of("dp-sgd", learning_rate=1.0)
    one = tiny_hospital("dp-sgd", shard=shard, plan=plan, settings=settings)
    started = network or tiny_network()
    parameters, frozen = messages.parameters_of(started), messages.frozen_of(started)
    return flat(one.train("run", 1, parameters, frozen).update) * 24


def check_one_patient_moves_the_sum_by_the_clipping_norm(
    rows: list[int], labels: list[int] | None = None, network: nn.Module | None = None
) -> None:
    """Add or remove one: the relation that the accountant composes."""
    whole = released_sum(rows, labels, network)
    for left_out in range(len(rows)):
        kept = [i for i in range(len(rows)) if i != left_out]
        rest = None if labels is None else [labels[i] for i in kept]
        moved = float((whole - released_sum([rows[i] for i in kept], rest, network)).norm())
        assert 0 < moved <= BOUND * (1 + 1e-3)


class Broken:
    """The real engine with something done wrongly around it."""

    def __init__(self, name: str, network: nn.Module, physical: int, *options: Any) -> None:
        self.network = network
        self.engine = make_engine(name, network, physical, *options)

    def close(self) -> None:
        self.engine.close()


class MicroBatches:
    """The mean gradient of four samples is clipped, not each sample's."""

    def __init__(self, name: str, network: nn.Module, physical: int, *options: Any) -> None:
        self.network = network

    def close(self) -> None:
        pass

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        parameters = dict(self.network.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for start in range(0, len(images), 4):
            part = slice(start, start + 4)
            logits = self.network(images[part]).squeeze(1)
            loss = binary_cross_entropy_with_logits(logits, labels[part])
            found = torch.autograd.grad(loss, list(parameters.values()))
            size = float(torch.cat([g.flatten() for g in found]).norm())
            for name, gradient in zip(parameters, found, strict=True):
                total[name] += len(images[part]) * gradient * min(1.0, clipping_norm / size)
        return ClippedSum(total, clipping_norm, len(images), 0)


class Scaled(Broken):
    """The sum is multiplied by something that the batch decides."""

    def factor(self, labels: Tensor) -> float:
        raise NotImplementedError

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        found = self.engine.clipped_sum(images, labels, clipping_norm)
        factor = self.factor(labels)
        scaled = {name: factor * gradient for name, gradient in found.gradients.items()}
        return dataclasses.replace(found, gradients=scaled)


class DividesByTheBatch(Scaled):
    """Undoes the division by the expected 24 and divides by those who came."""

    def factor(self, labels: Tensor) -> float:
        return 24 / max(1, len(labels))


class WeightsPositives(Broken):
    """``pos_weight``: negatives over positives of the private labels."""

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        positive = labels == 1
        weight = float((~positive).sum()) / max(1.0, float(positive.sum()))
        total = self.engine.clipped_sum(images[~positive], labels[~positive], clipping_norm)
        more = self.engine.clipped_sum(images[positive], labels[positive], clipping_norm)
        for name, gradient in more.gradients.items():
            total.gradients[name].add_(gradient, alpha=weight)
        return total


def test_pitfall_13_samples_are_clipped_not_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(8))
    check_one_patient_moves_the_sum_by_the_clipping_norm(rows)
    monkeypatch.setattr(local, "make_engine", MicroBatches)
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, rows)


def with_batch_norm(*_: object, **__: object) -> nn.Module:
    network = tiny_network()
    network[1] = nn.BatchNorm2d(4)
    return network


class Unchecked:
    """Per-sample gradients of one pass over the batch, whatever the layers do."""

    def __init__(self, name: str, network: nn.Module, physical: int, *options: Any) -> None:
        self.network = network

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        parameters = dict(self.network.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        losses = binary_cross_entropy_with_logits(
            self.network(images).squeeze(1), labels, reduction="none"
        )
        for loss in losses:
            found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
            size = float(torch.cat([g.flatten() for g in found]).norm())
            for name, gradient in zip(parameters, found, strict=True):
                total[name] += gradient * min(1.0, clipping_norm / size)
        return ClippedSum(total, clipping_norm, len(images), 0)

    def close(self) -> None:
        pass


def check_a_network_that_mixes_patients_is_refused() -> None:
    network = with_batch_norm()
    parameters, frozen = messages.parameters_of(network), messages.frozen_of(network)
    one = tiny_hospital("dp-sgd")
    refuses(lambda: one.train("run", 1, parameters, frozen), "plan", error=Refusal)


def test_pitfall_14_no_batch_norm_mixes_patients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fedmed.models, "build", with_batch_norm)
        module._model.cache_clear()
        check_a_network_that_mixes_patients_is_refused()
        assert "BatchNorm2d" in caplog.text
        patch.setattr(local, "make_engine", Unchecked)
        goes_red(check_a_network_that_mixes_patients_is_refused)
    module._model.cache_clear()
    # And what it would do: one patient moves the sum by more than its clipped gradient.
    monkeypatch.setattr(local, "make_engine", Unchecked)
    rows = list(range(8))
    check_one_patient_moves_the_sum_by_the_clipping_norm(rows)
    monkeypatch.setattr(fedmed.models, "build", with_batch_norm)
    module._model.cache_clear()
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, rows, None, with_batch_norm())


class Sees(nn.Sequential):
    """The tiny network, noting what it is given."""

    def __init__(self) -> None:
        super().__init__(*tiny_network())
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.given.append(images)
        return super().forward(images)  # type: ignore[no-any-return]  # torch has no types here


def by_own_statistics(
    images: NDArray[np.uint8], channels: int, device: torch.device, dimensions: int = 2
) -> Tensor:
    """Mean and spread of the hospital's own images."""
    tensor = torch.from_numpy(np.asarray(images)).float()
    return ((tensor - tensor.mean()) / tensor.std()).unsqueeze(1)


def check_input_is_the_images_own() -> None:
    """What the network sees of an image does not depend on the hospital's other images."""
    network = Sees()
    for rows in ([0], [0, 1, 2]):
        shard = some_rows(tiny_shard(), rows)
        local.train_plain(network, shard, settings_of("none"), ("h", 1))
    alone, together = network.given
    assert any(torch.equal(alone[0], image) for image in together)


def test_pitfall_15_no_weight_or_statistic_comes_from_private_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights and normalisation; thresholds and best epochs are in test_pitfalls_data."""
    check_input_is_the_images_own()
    with monkeypatch.context() as patch:
        patch.setattr(local, "to_input", by_own_statistics)
        goes_red(check_input_is_the_images_own)
    rows, labels = [0, 2, 4, 5], [0, 0, 0, 1]
    check_one_patient_moves_the_sum_by_the_clipping_norm(rows, labels)
    monkeypatch.setattr(local, "make_engine", WeightsPositives)
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, rows, labels)


def test_pitfall_17_the_expected_batch_divides_not_the_actual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_one_patient_moves_the_sum_by_the_clipping_norm([0, 1])
    monkeypatch.setattr(local, "make_engine", DividesByTheBatch)
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, [0, 1])
