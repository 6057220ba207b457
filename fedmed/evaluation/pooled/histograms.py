"""Score histograms: what one hospital counts of its evaluation images, in public cells.

Everything about the cells is fixed before an image is read: edges of the scores, labels, splits,
attributes and the list of each attribute's groups. What a hospital holds decides the counts alone.
Noise is added elsewhere (:mod:`fedmed.privacy.plans.evaluation`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed.base.errors import UserError
from fedmed.base.sexes import SEXES
from fedmed.evaluation.tables.groups import AGE_LABELS, UNKNOWN

SPLITS: Final = ("val", "test")
EVERYBODY: Final = "all"  # the family of one group that holds every image
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "sex": (*SEXES, UNKNOWN),
    "age": (*AGE_LABELS, UNKNOWN),
    "sex_age": (*(f"{sex} {band}" for sex in SEXES for band in AGE_LABELS), UNKNOWN),
    "view": ("AP", "PA", "lateral", UNKNOWN),
    "comorbidities": ("0", "1", "2", "3+", UNKNOWN),
}
"""Public lists of groups; a value outside its list counts as unknown."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The public cells, and how much one patient may put into them.

    ``edges`` are the rising inner edges of the scores' bins: bin i holds scores from ``edges[i-1]``
    up to, but not with, ``edges[i]``. ``cap`` is the most images of one patient that count (0: all,
    which no noise covers). Families of histograms: everybody, and one for each of ``attributes``.
    """

    edges: tuple[float, ...]
    attributes: tuple[str, ...] = ("sex", "age")
    cap: int = 0

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, dtype=np.float64)
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise UserError("histograms: the edges must be numbers that rise; correct them")
        unknown = [name for name in self.attributes if name not in GROUPS]
        if unknown or len(set(self.attributes)) < len(self.attributes):
            raise UserError(
                f"histograms: attributes {', '.join(self.attributes)}; use each of "
                f"{', '.join(GROUPS)} at most once"
            )

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.edges) + 1

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """Groups of each family of histograms; within a family every image is in one group."""
        return {EVERYBODY: (EVERYBODY,), **{name: GROUPS[name] for name in self.attributes}}

    def shape(self, family: str) -> tuple[int, int, int, int]:
        """Splits, groups, labels, bins."""
        return len(SPLITS), len(self.families[family]), 2, self.bins

    @property
    def sensitivity(self) -> float:
        """Most that all histograms together, as one vector, move in L2 norm by one patient.

        Neighbours: add or remove one patient with all images. Whatever the other patients hold, the
        same at most ``cap`` = k images of this patient count, as they are chosen by the patient's
        own image names. In one family each of them adds 1 to exactly one cell (its split, group,
        label and bin), so the family's vector moves by counts c >= 0 with sum(c) <= k, and
        sum(c^2) <= (sum c)^2 <= k^2. The 1 + a families are disjoint coordinates, therefore

            ||move||_2 <= sqrt((1 + a) k^2) = k sqrt(1 + a),

        reached where all k images share split, label, bin and groups. Leaving out the overlap
        (k alone) would understate it by sqrt(1 + a).
        """
        return self.cap * math.sqrt(1 + len(self.attributes)) if self.cap else math.inf


def equal_width(bins: int) -> tuple[float, ...]:
    """Edges of bins of equal width in the score."""
    return _inner(np.linspace(0, 1, bins + 1)[1:-1])


def around(centre: float, scale: float, bins: int) -> tuple[float, ...]:
    """Edges of bins that hold equal shares of a logistic distribution of the scores' logits.

    Scores of a model that was trained under noise pile up; where and how narrowly, a public sample
    tells (``centre`` and ``scale`` of its logits). The bins are narrow there, and still reach from
    0 to 1 wherever the hospitals' scores lie.
    """
    share = np.arange(1, bins) / bins
    logit = centre + scale * (np.log(share) - np.log1p(-share))
    return _inner(1 / (1 + np.exp(-np.clip(logit, -700, 700))))


def located(scores: npt.ArrayLike, widen: float = 1.5) -> tuple[float, float]:
    """Centre and scale for :func:`around` from public ``scores``, rounded.

    Median and interquartile range of the logits; ``widen`` as other images spread more than a
    sample of one kind. Rounded, so that the last digits of a machine's arithmetic do not make
    another request of the same one.
    """
    values = np.clip(np.asarray(scores, dtype=np.float64), 1e-300, 1 - 1e-16)
    logits = np.log(values) - np.log1p(-values)
    low, middle, high = np.quantile(logits, (0.25, 0.5, 0.75))
    scale = float(f"{max(widen * (high - low) / (2 * math.log(3)), 1e-6):.2g}")
    return round(float(middle) / scale, 1) * scale, scale


def _inner(edges: Array) -> tuple[float, ...]:
    inside = np.unique(edges)
    return tuple(float(edge) for edge in inside[(inside > 0) & (inside < 1)])


def chosen(images: npt.ArrayLike, patients: npt.ArrayLike, cap: int) -> npt.NDArray[np.bool_]:
    """Which images count: at most ``cap`` of a patient (0: all), the first by their names' hashes.

    No other patient's images decide which. A patient that is None is a patient of its own.
    """
    names, owners = np.asarray(images, dtype=object), _owners(patients)
    if not cap:
        return np.ones(len(names), dtype=bool)
    digest = np.array([hashlib.sha256(str(n).encode()).hexdigest() for n in names], dtype=str)
    order = np.lexsort((digest, owners))
    first = np.flatnonzero(np.append(True, np.diff(owners[order]) != 0)[: len(order)])
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    kept = np.zeros(len(order), dtype=bool)
    kept[order] = rank < cap
    return kept


def count(
    spec: Spec,
    *,
    splits: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    images: npt.ArrayLike,
    patients: npt.ArrayLike,
    groups: Mapping[str, npt.ArrayLike],
) -> dict[str, Array]:
    """Exact counts [split, group, label, bin] by family, of one hospital's images.

    All columns have one entry per image. Raises UserError for a score that is no number from 0 to
    1, a label other than 0 and 1, and another split.
    """
    split, label = np.asarray(splits, dtype=object), np.asarray(labels, dtype=np.float64)
    score = np.asarray(scores, dtype=np.float64)
    if not ((score >= 0) & (score <= 1)).all():  # NaN fails both
        raise UserError("histograms: a score is no number from 0 to 1; the model diverged")
    if not np.isin(label, (0, 1)).all() or not np.isin(split, SPLITS).all():
        raise UserError("histograms: labels are 0 or 1 and splits val or test; correct the table")
    kept = chosen(images, patients, spec.cap)
    where = np.searchsorted(np.asarray(spec.edges), score, side="right")
    part = np.asarray([SPLITS.index(str(s)) for s in split], dtype=np.int64)
    found: dict[str, Array] = {}
    for family, known in spec.families.items():
        group = np.zeros(len(score), dtype=np.int64)
        if family != EVERYBODY:
            group = _positions(groups[family], known)
        cells = np.zeros(spec.shape(family))
        at = (part[kept], group[kept], label[kept].astype(np.int64), where[kept])
        np.add.at(cells, at, 1.0)
        found[family] = cells
    return found


def clustering(patients: npt.ArrayLike) -> float:
    """By how much images of the same patients can inflate the variance of a count, at most.

    sum(m^2) / sum(m) over patients with m images: the design effect where a patient's images all
    fall into one cell (Kish 1965). 1 where every patient has one image, or there are none.
    """
    sizes = np.bincount(_owners(patients)) if np.size(patients) else np.ones(1)
    return float((sizes**2).sum() / sizes.sum())


def _positions(values: npt.ArrayLike, known: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Position of each value in ``known``, whose last is the unknown group."""
    places = {name: number for number, name in enumerate(known)}
    given = np.asarray(values, dtype=object)
    return np.asarray([places.get(str(v), len(known) - 1) for v in given], dtype=np.int64)


def _owners(patients: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Number of each image's patient; images without one (null) get numbers of their own."""
    given = np.asarray(patients, dtype=object)
    numbers: dict[str, int] = {}
    found = np.zeros(len(given), dtype=np.int64)
    for row, name in enumerate(given):
        # By kind, not by text: a patient who is called "nan" is one.
        known = isinstance(name, str | int)
        found[row] = numbers.setdefault(str(name), len(numbers)) if known else len(given) + row
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
