"""How well scores tell disease from none: AUROC, average precision, and a choice of threshold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedmed.base.errors import UserError

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


def arrays(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Labels, Scores]:
    """Labels [n] in {0, 1} and scores [n] as arrays.

    Raises UserError for different lengths, other labels, and NaN or infinite scores.
    """
    truth = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise UserError(
            f"labels have shape {truth.shape} and scores {values.shape}; give one of each per image"
        )
    if not np.isin(truth, (0, 1)).all():
        raise UserError("labels hold a value other than 0 and 1; correct it")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise UserError(
            f"score {bad[0] + 1} is {values[bad[0]]}; the model diverged, lower the learning rate"
        )
    return truth.astype(np.int64), values


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the receiver operating characteristic, 0 to 1; NaN if a class is absent.

    The chance that a positive scores above a negative, ties counting one half: the Mann-Whitney
    statistic from mean ranks (Hanley and McNeil 1982). Raises UserError for NaN scores.

    >>> auroc([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    0.75
    """
    truth, values = arrays(labels, scores)
    positives = int(truth.sum())
    negatives = truth.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mean_rank[position][truth == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def youden_threshold(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The observed score at which sensitivity + specificity - 1 is largest; NaN for one class.

    An image is called positive where score >= threshold. Of equal optima the highest threshold is
    taken (Youden 1950). Choose it on validation rows: on the evaluated rows it flatters the rates.

    >>> youden_threshold([0, 0, 1, 1], [0.1, 0.3, 0.4, 0.9])
    0.4
    """
    curve = _curve(labels, scores)
    if curve is None:
        return float("nan")
    falling, true_positives, false_positives, positives, negatives = curve
    # Integers, so that equal optima compare as equal.
    index = true_positives * negatives - false_positives * positives
    return float(falling[int(np.argmax(index))])


def specificity_threshold(
    labels: npt.ArrayLike, scores: npt.ArrayLike, target: float = 0.9
) -> float:
    """The observed score with the highest sensitivity among those of specificity >= `target`.

    An image is called positive where score >= threshold. Of equal sensitivities the highest
    threshold, which is the more specific, is taken. NaN for one class, and where no observed score
    is as specific (the highest score is shared by too many negatives). Choose it on validation
    rows. Raises UserError unless 0 < target <= 1.

    >>> specificity_threshold([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], target=0.5)
    0.4
    """
    if not 0.0 < target <= 1.0:
        raise UserError(f"specificity {target} is not above 0 and at most 1; correct it")
    curve = _curve(labels, scores)
    if curve is None:
        return float("nan")
    falling, true_positives, false_positives, _, negatives = curve
    # Some slack, so that 9 of 10 negatives are a specificity of 0.9.
    fine = negatives - false_positives >= target * negatives * (1.0 - 1e-12)
    if not fine.any():
        return float("nan")
    return float(falling[int(np.argmax(np.where(fine, true_positives, -1)))])


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under precision against recall, 0 to 1; NaN if a class is absent.

    Sum over distinct scores of (recall gained) x (precision at that score), without interpolation
    (scikit-learn's meaning). It depends on prevalence. Raises UserError for NaN scores.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9]), 4)
    0.8333
    """
    curve = _curve(labels, scores)
    if curve is None:
        return float("nan")
    _, true_positives, false_positives, positives, _ = curve
    gained = np.diff(true_positives, prepend=0)
    return float(np.sum(gained * true_positives / (true_positives + false_positives)) / positives)


def _curve(
    labels: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[Scores, Labels, Labels, int, int] | None:
    """Distinct scores, falling; true and false positives at each; positives and negatives."""
    truth, values = arrays(labels, scores)
    positives = int(truth.sum())
    negatives = truth.size - positives
    if positives == 0 or negatives == 0:
        return None
    order = np.argsort(-values, kind="stable")
    falling, hits = values[order], truth[order]
    last_of_tie = np.append(falling[1:] != falling[:-1], True)
    true_positives = np.cumsum(hits)[last_of_tie]
    false_positives = np.cumsum(1 - hits)[last_of_tie]
    return falling[last_of_tie], true_positives, false_positives, positives, negatives
