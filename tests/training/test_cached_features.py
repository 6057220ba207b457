"""Cached features: the same training as on the images, computed once, never of other pixels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import goes_red, make, refuses, tiny_shard
from torch import Tensor

from fedmed.config import Settings
from fedmed.models import build, without_weights
from fedmed.models.features import FeatureNetwork
from fedmed.models.scattering import Scattering
from fedmed.training import cached_features as module
from fedmed.training.cached_features import compute, featured, is_fixed
from fedmed.training.local import predict, train_plain

PROBE = make(
    model={"name": "probe", "weights": "somewhere", "feature-size": 32},
    train={"batch-size": 8, "local-epochs": 2.0, "learning-rate": 1.0},
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))


def network(seed: int = 0, **keys: Any) -> FeatureNetwork:
    settings = PROBE.replaced({f"model.{key}": value for key, value in keys.items()})
    torch.manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a body of other weights, under the same head
        found = build(without_weights(settings.model, 16), 16, 3)
    assert isinstance(found, FeatureNetwork)
    return found


def head(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.fc.parameters()])  # type: ignore[union-attr]  # a layer


def test_training_and_scores_on_features_are_those_on_the_images() -> None:
    shard = tiny_shard()
    on_images, on_features = network(), network()
    before = head(on_images).clone()
    given = featured(on_features, shard, 1)
    assert given.images.shape == (24, 512)
    for model, used in ((on_images, shard), (on_features, given)):
        train_plain(model, used, PROBE, ("h", 1))
    torch.testing.assert_close(head(on_features), head(on_images), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(head(on_images), before, atol=1e-3)
    np.testing.assert_allclose(
        predict(on_features, given.images, 1), predict(on_images, shard.images, 1), atol=1e-5
    )


def test_features_are_computed_once_for_the_same_pixels_and_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    real = module.compute

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(module, "compute", counted)
    shard = tiny_shard()
    first = featured(network(), shard, 1)
    # Another process has other arrays; an equal shard is the same one.
    again = featured(network(), dataclasses.replace(shard, images=shard.images.copy()), 1)
    assert len(calls) == 1
    assert np.array_equal(first.images, again.images)
    other = shard.images.copy()
    other[5, 3, 3] ^= 1
    featured(network(), dataclasses.replace(shard, images=other), 1)
    featured(network(seed=4), shard, 1)
    featured(network(pooling="stages"), shard, 1)
    featured(network(**{"feature-size": 40}), shard, 1)
    assert len(calls) == 5


def test_noised_images_have_features_of_their_own_under_the_same_key() -> None:
    """A cache keyed by the shard's name would hand out the clean images' features."""
    shard = tiny_shard()
    noised = np.random.default_rng(0).random((24, 16, 16), dtype=np.float32)
    released = dataclasses.replace(shard, images=noised)
    assert released.key == shard.key

    def check() -> None:
        clean = featured(network(), shard, 1)
        found = featured(network(), released, 1)
        assert not np.array_equal(found.images, clean.images)
        expected = module.compute(network(), noised, 1)
        np.testing.assert_allclose(found.images, expected, atol=1e-5)

    check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_digest", lambda _: shard.key)
        goes_red(check)


def test_only_a_frozen_body_without_augmentation_has_features() -> None:
    shard = tiny_shard()
    whole = build(make(model={"name": "squeezenet1_1", "feature-size": 32}).model, 16, 0)
    own_head = build(
        make(model={"name": "squeezenet1_1", "trains": "head", "feature-size": 32}).model, 16, 0
    )
    plain = build(make(model={"name": "resnet9", "trains": "head"}).model, 16, 0)
    assert [is_fixed(model) for model in (whole, own_head, plain)] == [False, True, False]
    assert not is_fixed(own_head, "flip")
    assert featured(whole, shard, 1) is shard
    assert featured(own_head, shard, 1, "flip") is shard


def test_an_image_whose_features_are_not_finite_has_zeros_and_no_other_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error would tell that one patient's film overflows the body that a server sent."""
    model, shard = network(), tiny_shard()
    plain = np.array(featured(model, shard, 1).images)

    asked = iter(range(len(shard)))  # each image goes alone: kernels round by the size of a batch

    def overflowing(given: torch.Tensor) -> torch.Tensor:
        (found,) = pooled(given)
        if next(asked) == 5:
            found[3] = float("inf")
        return found[None]

    pooled = model.pooled
    monkeypatch.setattr(model, "pooled", overflowing)
    found = compute(model, shard.images, 1)
    assert np.array_equal(found[5], np.zeros_like(found[5]))
    others = np.arange(len(shard)) != 5
    assert np.array_equal(found[others], plain[others])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.name": "probe"}, ["model.weights", "squeezenet1_1"]),
        ({"model.features": "resnet18"}, ["model.features", "'resnet18'", "probe"]),
        ({"model.pooling": "grid"}, ["model.pooling", "squeezenet1_1"]),
        ({"model.hidden": 4}, ["model.hidden"]),
        ({"model.weights-origin": "public"}, ["model.weights-origin", "model.weights"]),
        (
            {"model.name": "probe", "model.weights": "w", "model.trains": "head"},
            ["model.trains", "'probe'"],
        ),
        (
            {"model.name": "probe", "model.weights": "w", "model.components": 4},
            ["model.components", "model.standardise"],
        ),
        (
            {"model.name": "probe", "model.weights": "w", "train.augment": "flip"},
            ["train.augment", "'none'"],
        ),
        (
            {"model.name": "squeezenet1_1", "model.norm": "frozen-batch", "model.weights": "w"},
            ["model.norm", "squeezenet1_1"],
        ),
        ({"model.name": "squeezenet1_1", "model.trains": "norms"}, ["model.trains", "'norms'"]),
        (
            {
                "model.name": "squeezenet1_1",
                "model.trains": "last-block",
                "model.pooling": "middle",
            },
            ["model.pooling", "'stages'"],
        ),
        (
            {"model.trains": "norms", "model.norm": "frozen-batch", "model.weights": "w"},
            ["model.trains", "'head'"],
        ),
    ],
)
def test_keys_that_a_model_does_not_read_are_refused(
    changes: dict[str, Any], words: list[str]
) -> None:
    refuses(lambda: Settings().replaced(changes), *words)


def test_scattering_is_cached_by_its_scales_as_it_has_no_weights() -> None:
    """A key of weights alone would hand out the features of other scales, sides and dimensions."""
    keys = {"model.weights": "none", "model.features": "scattering", "model.feature-size": 0}
    shard = tiny_shard()

    def check() -> None:
        for scales, width in ((2, 81), (3, 217)):
            settings = PROBE.replaced(keys | {"model.scales": scales})
            model = build(settings.model, 16, 3)
            assert is_fixed(model)
            given = featured(model, shard, 1)
            assert given.images.shape == (24, width)
            expected = compute(model, shard.images, 1)  # type: ignore[arg-type]  # a probe
            assert np.array_equal(given.images, expected)

    check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scattering, "extra_repr", lambda _: "")
        goes_red(check)
