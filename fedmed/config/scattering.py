"""How many numbers wavelet scattering makes, and what it asks of the settings; no torch."""

from typing import Final

from fedmed.config.tables import Data, Model

ANGLES: Final = 8
"""Directions in the plane."""
AXES: Final = 6
"""Directions in space: the axes through opposite corners of an icosahedron."""
_LARGEST_CUBE: Final = 128  # 400 MB and some seconds a volume; eight times that at 256
_MOST_NUMBERS: Final = 65_536  # of one image: 256 KB in the cache
_MOST_PROJECTED: Final = 4096  # numbers whose components are all kept


def paths_of(scales: int, dimensions: int) -> int:
    """Maps per channel: 1 + J L + L^2 J (J - 1) / 2 for J scales and L directions."""
    count = ANGLES if dimensions == 2 else AXES
    return 1 + scales * count + count**2 * scales * (scales - 1) // 2


def parts_of(pooling: str, side: int, scales: int, dimensions: int) -> int:
    """Numbers that pooling leaves of a map: 1 ("mean"), 4 ("grid"), or its positions ("all")."""
    return {"mean": 1, "grid": 4, "all": int((side >> scales) ** dimensions)}[pooling]


def check_scattering(model: Model, data: Data) -> None:
    """Images that scattering takes, numbers that fit into memory, no key without a meaning."""
    if model.name != "probe" or model.features != "scattering":
        own = {"scales": model.scales != 2, "pooling": model.pooling == "all"}
        for key in (key for key, given in own.items() if given):
            raise ValueError(
                f"model.{key}: {getattr(model, key)!r} is for model.features = 'scattering' of a "
                "probe alone; set that, or remove it"
            )
        return
    if model.weights != "none":
        raise ValueError(
            "model.weights: scattering has no weights; remove it, or choose other model.features"
        )
    if model.channels != 1 and not data.slices:
        raise ValueError(
            f"model.channels: {model.channels} repeat the grey image, and scattering makes the "
            "same numbers of each; use 1"
        )
    _check_sides(model, data)
    _check_numbers(model, data)


def _check_sides(model: Model, data: Data) -> None:
    """Maps that are not empty, volumes that fit into memory."""
    key = "model.feature-size" if model.feature_size else "data.image-size"
    side = model.feature_size or data.image_size
    if side < 2**model.scales:
        raise ValueError(
            f"{key}: images of {side} pixels have no map at model.scales = {model.scales}; use "
            f"{2**model.scales} pixels or more, or fewer scales"
        )
    if data.dimensions == 3 and side > _LARGEST_CUBE:
        raise ValueError(
            f"{key}: scattering of a cube of {side} does not fit into memory; set "
            f"model.feature-size to {_LARGEST_CUBE} or less"
        )
    if model.pooling in ("stages", "middle"):
        raise ValueError(
            "model.pooling: scattering has maps of one size and no stages; use 'mean', 'grid' or "
            "'all'"
        )
    if model.pooling == "grid" and side < 2 ** (model.scales + 1):
        raise ValueError(
            f"model.pooling: maps of {side} pixels at model.scales = {model.scales} have one "
            "position and no grid; use 'mean', or fewer scales"
        )


def _check_numbers(model: Model, data: Data) -> None:
    """As many numbers as a cache and a head hold."""
    side = model.feature_size or data.image_size
    parts = parts_of(model.pooling, side, model.scales, data.dimensions)
    numbers = model.channels * paths_of(model.scales, data.dimensions) * parts
    if numbers > _MOST_NUMBERS:
        raise ValueError(
            f"model.pooling: '{model.pooling}' makes {numbers} numbers of an image, more than "
            f"{_MOST_NUMBERS}; use 'grid' or 'mean', or set model.feature-size lower"
        )
    if model.standardise == "validation" and not model.components and numbers > _MOST_PROJECTED:
        raise ValueError(
            f"model.components: all of {numbers} numbers are too many to project on; give how "
            "many to keep, for example 64"
        )
