"""What the network is given and what it answers: pixels, views, labels and scores."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from support import SIZE, goes_red, gradient_plan, make, refuses, tiny_network, tiny_shard
from support.training import SETTINGS, flat
from torch import Tensor

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.training import local
from fedmed.training.local import predict, to_input, train_plain, train_private


def check_input_is_constant(to: Callable[..., Tensor]) -> None:
    """An image's input does not depend on the other images of its batch or hospital."""
    cpu = torch.device("cpu")
    images = tiny_shard().images
    together = to(images, 1, cpu)
    for row in (0, 5):
        assert torch.equal(to(images[row : row + 1], 1, cpu)[0], together[row])
    ends = to(np.array([[[0]], [[255]]], dtype=np.uint8), 1, cpu)
    assert ends.flatten().tolist() == [-2.0, 2.0]


def by_own_statistics(
    images: NDArray[np.uint8], channels: int, device: torch.device, dimensions: int = 2
) -> Tensor:
    """Pitfall 15: mean and spread of private images."""
    tensor = torch.from_numpy(images).float()
    return ((tensor - tensor.mean()) / (tensor.std() + 1e-6)).unsqueeze(1)


def test_normalisation_uses_public_constants() -> None:
    check_input_is_constant(to_input)
    goes_red(check_input_is_constant, by_own_statistics)


def test_noised_images_and_channels() -> None:
    cpu = torch.device("cpu")
    noised = np.array([[[0.0, 1.0]], [[-3.0, 2.5]]], dtype=np.float32)
    kept = noised.copy()
    given = to_input(noised, 3, cpu)
    assert given.shape == (2, 3, 1, 2)
    assert given[1, 2].tolist() == [[-14.0, 8.0]]
    np.testing.assert_array_equal(noised, kept)


def test_volumes_and_slices_find_their_axes() -> None:
    cpu = torch.device("cpu")
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    volumes = to_input(images, 2, cpu, dimensions=3)
    assert volumes.shape == (2, 2, 3, 4, 5)
    assert torch.equal(volumes[:, 0], volumes[:, 1])
    assert volumes[1, 0, 2, 3, 4].item() == pytest.approx((119 / 255 - 0.5) / 0.25)
    slices = to_input(images, 3, cpu)
    assert torch.equal(slices, volumes[:, 0])
    refuses(lambda: to_input(images, 1, cpu), "3 channels", "data.slices", error=RunError)


def test_large_images_are_scored_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return x.flatten(1).mean(1, keepdim=True) * self.weight

    monkeypatch.setattr(local, "_POINTS_AT_ONCE", 2 * 6**3)
    volumes = np.zeros((5, 6, 6, 6), dtype=np.uint8)
    assert predict(Recorder(), volumes, 1, dimensions=3).shape == (5,)
    assert seen == [(2, 1, 6, 6, 6), (2, 1, 6, 6, 6), (1, 1, 6, 6, 6)]


def test_uncertain_labels_are_trained_on_as_declared() -> None:
    shard = tiny_shard(4)
    soft = pd.Series([pd.NA, 0.7, pd.NA, pd.NA], dtype="Float32")
    smoothed = dataclasses.replace(shard, table=shard.table.assign(soft=soft))
    assert smoothed.labels.tolist() == pytest.approx([0, 0.7, 0, 1])
    assert smoothed.labels.dtype == np.float32
    assert shard.labels.tolist() == [0, 1, 0, 1]


def test_scores_do_not_depend_on_the_batch_size_and_take_read_only_images() -> None:
    images = tiny_shard().images.copy()
    images.flags.writeable = False  # as a memory map is
    scores = predict(tiny_network(), images, 1)
    np.testing.assert_allclose(predict(tiny_network(), images, 1, batch_size=5), scores, atol=1e-6)
    assert scores.shape == (24,)
    assert 0 < scores.min() < scores.max() < 1
    assert predict(tiny_network(), images[:0], 1).shape == (0,)


def test_scores_that_are_not_finite_stop_the_run() -> None:
    model = tiny_network()
    with torch.no_grad():
        model[0].bias.fill_(float("nan"))
    images = np.zeros((1, SIZE, SIZE), dtype=np.uint8)
    refuses(lambda: predict(model, images, 1), "train.learning-rate", error=RunError)


def test_views_of_an_image_are_averaged_before_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three equal views are one; counted as three samples they would move three times as far."""
    keys = {"train.augment": "flip", "train.views": 3}
    monkeypatch.setattr(
        local, "augment", lambda images, kind, views, _: images.repeat_interleave(views, dim=0)
    )
    plan = gradient_plan(noise_multiplier=1e-9, steps_per_round=1, expected_batch=24)

    def moved(settings: Settings) -> Tensor:
        model = tiny_network()
        before = flat(model)
        train_private(model, tiny_shard(), settings, plan, NoiseSource(1), ("h", 1, "m"))
        return flat(model) - before

    def check(settings: Settings) -> None:
        torch.testing.assert_close(moved(settings), moved(SETTINGS), rtol=1e-4, atol=1e-6)

    check(SETTINGS.replaced(keys))
    engine = local.make_engine

    def as_samples(*arguments: Any) -> Any:
        made = engine(*arguments)
        inner = made.clipped_sum
        made.clipped_sum = lambda images, labels, bound, views: inner(images, labels, bound)  # type: ignore[method-assign]  # the mistake
        return made

    monkeypatch.setattr(local, "make_engine", as_samples)
    goes_red(check, SETTINGS.replaced(keys))


def test_the_views_of_private_training_are_drawn_from_the_secret_source() -> None:
    """Views tied to a public seed and a place in the batch would let one patient move others'."""
    settings = SETTINGS.replaced({"train.augment": "shift"})
    plan = gradient_plan(noise_multiplier=1e-9, steps_per_round=1, expected_batch=24)

    def moved(source: NoiseSource) -> Tensor:
        model = tiny_network()
        train_private(model, tiny_shard(), settings, plan, source, ("h", 1, "m"))
        return flat(model)

    assert torch.allclose(moved(NoiseSource(1)), moved(NoiseSource(1)), atol=1e-6)
    assert not torch.allclose(moved(NoiseSource()), moved(NoiseSource()), atol=1e-4)


def test_plain_training_draws_new_views_by_seed_hospital_and_round() -> None:
    settings = make(train={"augment": "shift", "batch-size": 24, "local-epochs": 1.0})

    def moved(settings: Settings, *context: str | int) -> Tensor:
        model = tiny_network()
        train_plain(model, tiny_shard(), settings, context)
        return flat(model)

    first = moved(settings, "h", 1)
    assert torch.equal(first, moved(settings, "h", 1))
    others = [("g", 1), ("h", 2)]
    assert not any(torch.equal(first, moved(settings, *other)) for other in others)
    plain = settings.replaced({"train.augment": "none"})
    assert not torch.equal(first, moved(plain, "h", 1))


def test_an_image_without_a_finite_score_is_no_error_where_scores_are_private() -> None:
    model = tiny_network()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    images = tiny_shard().images[:3]
    refuses(lambda: predict(model, images, 1), "not finite", error=RunError)
    assert predict(model, images, 1, unscored=0.0).tolist() == [0.5] * 3
