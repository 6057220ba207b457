"""Histograms that cannot be: counts below zero, too many images, parts that do not add up."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Final

from fedmed.evaluation.pooled.histograms import EVERYBODY, Array, Spec

MISSED: Final = 1e-9
"""Probability that an honest hospital's noised histograms are called impossible."""

EVALUATED: Final = 2
"""Evaluation units at most, in units that were declared for training."""

IMAGES: Final = 16
"""Images at most of one unit, where no cap is set."""


def most_images(declared: float, spec: Spec) -> float:
    """Most evaluation images of a hospital that declares so many units."""
    return EVALUATED * declared * (spec.cap or IMAGES)


def why_impossible(
    spec: Spec, counts: Mapping[str, Array], deviation: float, most: float = math.inf
) -> str:
    """Why counts [split, group, label, bin] by family are nobody's; empty where they could be.

    ``deviation`` is that of the noise in each cell (0: exact whole counts), ``most`` how many
    images there can be. Every image is in one cell of each family, so that the groups of a family
    add up to everybody. Each of m comparisons under noise allows the quantile at 1 - MISSED / m.
    """
    total = counts[EVERYBODY].sum()
    comparisons = 1 + sum(cells.size for cells in counts.values()) + 4 * spec.bins * len(counts)
    allowed = deviation * NormalDist().inv_cdf(1 - MISSED / (2 * comparisons))
    if not deviation and any((cells != cells.round()).any() for cells in counts.values()):
        return "counts that are not whole"
    if any((cells < -allowed).any() for cells in counts.values()):
        return "counts below zero"
    if total > most + allowed * math.sqrt(counts[EVERYBODY].size):
        return "more images than its declared size allows"
    whole = counts[EVERYBODY][:, 0]
    for family, cells in counts.items():
        apart = abs(cells.sum(axis=1) - whole)
        if family != EVERYBODY and (apart > allowed * math.sqrt(1 + cells.shape[1])).any():
            return f"groups of {family} that do not add up"
    return ""
