"""Clipping and noising a model update: the same object at a hospital or at the server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmed.base.errors import UserError
from fedmed.privacy.mechanisms.normals import Normals

Update = dict[str, Tensor]


class BadUpdate(ValueError):
    """An update that must not be released or aggregated: not finite, or of the wrong form."""


def norm(update: Mapping[str, Tensor]) -> float:
    """L2 norm over all arrays, accumulated in float64; raises :class:`BadUpdate` if not finite."""
    total = 0.0
    for name, value in update.items():
        if not value.is_floating_point():
            raise BadUpdate(f"array '{name}' is {value.dtype}, not floating point")
        size = float(torch.linalg.vector_norm(value, dtype=torch.float64))
        total += size * size  # ** 2 would raise OverflowError where this is infinite
    if not total < float("inf"):
        raise BadUpdate("the update holds NaN or infinite numbers")
    return math.sqrt(total)


def finite(update: Mapping[str, Tensor]) -> bool:
    """Whether every number is finite (a norm beyond float32's range counts as not)."""
    return all(bool(torch.isfinite(torch.linalg.vector_norm(v))) for v in update.values())


def clip(update: Mapping[str, Tensor], clipping_norm: float) -> Update:
    """The update scaled to L2 norm at most ``clipping_norm``; a zero update stays zero.

    Raises :class:`BadUpdate` for NaN, infinity or arrays that are not floating point.
    """
    if not clipping_norm > 0:
        raise UserError(f"privacy.clipping-norm = {clipping_norm}: it must be above 0")
    size = norm(update)
    if size <= clipping_norm:
        return {name: value.clone() for name, value in update.items()}
    # In two steps: clipping_norm / size alone can be too small for float32 to hold exactly.
    return {name: value / size * clipping_norm for name, value in update.items()}


def clip_factor(update: Mapping[str, Tensor], clipping_norm: float) -> float:
    """What :func:`clip` multiplies an update with, for a sum in float64; 1 where it is short.

    Raises as :func:`clip` does.
    """
    if not clipping_norm > 0:
        raise UserError(f"privacy.clipping-norm = {clipping_norm}: it must be above 0")
    size = norm(update)
    return 1.0 if size <= clipping_norm else clipping_norm / size


@dataclass(frozen=True)
class GaussianNoise:
    """Adds N(0, standard_deviation^2) to every coordinate of an update."""

    standard_deviation: float

    def add(self, update: Mapping[str, Tensor], normals: Normals) -> Update:
        """Noised copy; the arrays are visited in the mapping's order, one draw per coordinate."""
        noised = {name: value.clone() for name, value in update.items()}
        for value in noised.values():
            normals.add_(value, self.standard_deviation)
        return noised
