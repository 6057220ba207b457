"""DeLong's variance of AUROC: one interval, and the paired comparison of two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class DeLong:
    """AUROC, its standard error and interval on the logit scale."""

    auroc: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Difference first minus second of two AUROCs on the same images, z and two-sided p."""

    difference: float
    standard_error: float
    z: float
    p: float


def delong(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    patients: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    logit: bool = True,
) -> DeLong | str:
    """DeLong's interval, or the reason why there is none, as text.

    Reasons: a patient has several images (the formula takes images as independent), or fewer than
    two images of a class.
    """
    raise NotImplementedError


def paired(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: npt.ArrayLike | None = None,
) -> Paired | str:
    """Test of two AUROCs on the same images, or the reason why there is none, as text."""
    raise NotImplementedError
