"""Intervals of sums and differences of rates and of AUROCs, where few events are seen.

They are put together from those of the terms, so that the asymmetry of each is kept (MOVER: Zou and
Donner 2008, equations 3 and 7; of two rates it is Newcombe's 1998, method 10, with the limits of
:mod:`rates`). Where events are many the bootstrap, which knows everything else, is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Term(Protocol):
    """A rate or an AUROC, under every column, whose interval knows of few events.

    ``place`` names the images that it is of: terms of one place are of the same patients, of two of
    other patients. ``models`` [columns] tells models apart: of one place and model a term is the
    same number.
    """

    @property
    def place(self) -> Hashable:
        """The images that it is of."""

    @property
    def models(self) -> tuple[Hashable, ...]:
        """The model of each column."""

    @property
    def values(self) -> Floats:
        """Its values [columns]."""

    @property
    def influence(self) -> Callable[[], Floats]:
        """What gives its derivatives [patients, columns]."""

    def few(self, column: int) -> bool:
        """Whether so few events are behind a column that the bootstrap does not know its spread."""

    def reach(self, column: int, z: float) -> tuple[float, float]:
        """How far the interval of z standard deviations goes down and up from the value."""

    def select(self, chosen: Sequence[int]) -> Term:
        """Only these columns."""

    def mean(self) -> Term:
        """The mean over columns."""


Terms = tuple[tuple[float, Term], ...]
"""A quantity as a sum of terms, each with its factor."""


def few(terms: Terms, column: int) -> bool:
    """Whether any of the terms has few events."""
    return any(term.few(column) for _, term in terms)


def reach(terms: Terms, column: int, z: float) -> tuple[float, float]:
    """How far the interval of a sum of terms goes down and up from its value (MOVER)."""
    whole = _gathered(terms, column)
    if not whole:
        return 0.0, 0.0
    parts = [(factor, *term.reach(column, z)) for factor, term in whole]
    signs = np.array([math.copysign(1.0, factor) for factor, _, _ in parts])
    down = np.array([abs(f) * (low if f > 0 else high) for f, low, high in parts])
    up = np.array([abs(f) * (high if f > 0 else low) for f, low, high in parts])
    together = _correlation([term for _, term in whole], column) * np.outer(signs, signs)
    lower, upper = (math.sqrt(max(0.0, float(side @ together @ side))) for side in (down, up))
    return lower, upper


def _gathered(terms: Terms, column: int) -> Terms:
    """The terms with those of the same number together: a rate less itself is nothing."""
    factors: dict[Hashable, float] = {}
    by_key: dict[Hashable, Term] = {}
    for factor, term in terms:
        key = term.place, term.models[column]
        factors[key] = factors.get(key, 0.0) + factor
        by_key.setdefault(key, term)
    return tuple((factor, by_key[key]) for key, factor in factors.items() if factor != 0.0)


def level_of_zero(terms: Terms, column: int) -> float:
    """Standard deviations z at which the interval just reaches zero; at most 40."""
    value = sum(factor * float(term.values[column]) for factor, term in terms)
    side = 0 if value > 0.0 else 1
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if reach(terms, column, middle)[side] < abs(value):
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _correlation(terms: Sequence[Term], column: int) -> Floats:
    """Correlations of terms of the same patients; 0 of others, and where nothing is seen."""
    result = np.eye(len(terms))
    for i, one in enumerate(terms):
        for j, other in enumerate(terms[:i]):
            if one.place != other.place:
                continue
            a, b = one.influence()[:, column], other.influence()[:, column]
            size = math.sqrt(float(a @ a) * float(b @ b))
            result[i, j] = result[j, i] = float(a @ b) / size if size > 0.0 else 0.0
    return result
