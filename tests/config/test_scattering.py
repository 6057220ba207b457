"""Scattering's keys: what it needs, what it does not read, and numbers that fit into memory."""

from typing import Any

import pytest
from support import goes_red, refuses

from fedmed.config import Settings
from fedmed.config.scattering import parts_of, paths_of

PROBE = {"model.name": "probe", "model.features": "scattering"}
CUBE = {"data.source": "medmnist", "data.path": "volumes", "data.dimensions": 3}


def test_maps_are_counted_as_in_the_literature() -> None:
    assert [paths_of(scales, 2) for scales in (1, 2, 3)] == [9, 81, 217]
    assert [paths_of(scales, 3) for scales in (1, 2, 3)] == [7, 49, 127]
    assert [parts_of(pooling, 30, 2, 3) for pooling in ("mean", "grid", "all")] == [1, 4, 343]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.pooling": "all", "model.standardise": "validation", "model.components": 64},
        {"model.pooling": "grid", "model.hidden": 8, "model.scales": 3},
        {"model.pooling": "mean", "model.standardise": "validation"},
        {"data.image-size": 16, "model.scales": 4},
        {"data.image-size": 224, "model.pooling": "all", "model.scales": 5},
        {"data.image-size": 224, "model.pooling": "all", "model.feature-size": 32},
        {**CUBE, "data.image-size": 28, "model.pooling": "all"},
        {**CUBE, "data.image-size": 256, "model.feature-size": 64},
    ],
)
def test_what_scattering_takes(changes: dict[str, Any]) -> None:
    assert Settings().replaced(PROBE | changes).model.features == "scattering"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.weights": "w.npz"}, ["model.weights", "has no weights", "remove"]),
        ({"model.weights": "imagenet"}, ["model.weights", "has no weights"]),
        ({"model.stem": "small"}, ["model.stem", "remove"]),
        ({"model.activation": "mish"}, ["model.activation", "remove"]),
        ({"model.weight-standardisation": True}, ["model.weight-standardisation", "remove"]),
        ({"model.channels": 3}, ["model.channels", "use 1"]),
        ({"model.pooling": "stages"}, ["model.pooling", "'grid'"]),
        ({"data.image-size": 31, "model.scales": 5}, ["data.image-size", "32 pixels", "scales"]),
        (
            {"model.feature-size": 7, "model.scales": 3},
            ["model.feature-size", "8 pixels or more", "model.scales = 3"],
        ),
        ({"data.image-size": 31, "model.scales": 4, "model.pooling": "grid"}, ["'mean'"]),
        ({"data.image-size": 224, "model.pooling": "all"}, ["model.pooling", "254016", "'grid'"]),
        (
            {"model.pooling": "all", "model.standardise": "validation"},
            ["model.components", "5184", "64"],
        ),
        ({**CUBE, "data.image-size": 160}, ["data.image-size", "memory", "128"]),
        ({**CUBE, "data.image-size": 28, "model.feature-size": 200}, ["model.feature-size", "128"]),
    ],
)
def test_what_it_does_not_take_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    refuses(lambda: Settings().replaced(PROBE | changes), *words)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model.scales": 3}, "model.scales"),
        ({"model.pooling": "all"}, "model.pooling"),
        ({"model.name": "probe", "model.weights": "w", "model.scales": 3}, "model.scales"),
        ({"model.name": "probe", "model.weights": "w", "model.pooling": "all"}, "model.pooling"),
        ({"model.name": "squeezenet1_1", "model.pooling": "all"}, "model.pooling"),
        ({"model.features": "scattering"}, "model.features"),
    ],
)
def test_its_keys_are_for_it_alone(changes: dict[str, Any], key: str) -> None:
    refuses(lambda: Settings().replaced(changes), key, "remove it")


def test_a_probe_of_pretrained_features_still_needs_weights() -> None:
    refuses(lambda: Settings().replaced({"model.name": "probe"}), "model.weights", "'scattering'")
    goes_red(lambda: refuses(lambda: Settings().replaced(PROBE), "model.weights"))


def test_slices_are_channels_of_their_own() -> None:
    settings = Settings().replaced(
        PROBE
        | {"data.source": "medmnist", "data.path": "volumes"}
        | {"data.slices": 3, "model.channels": 3}
    )
    assert settings.model.channels == 3
