"""A paper's published figures beside ours: which arm is which of its rows, and what explains them.

The ceiling: Laplace noise of scale b that is drawn once per image of the range 0 to 1, and cut to
it, makes the image constant with probability exp(-1/b). Of constant images the majority's share M
is the most that can be called right, so that training accuracy is at most
M exp(-1/b) + 1 - exp(-1/b).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from fedmed.report import published
from fedmed.report.arms import Arm
from fedmed.report.evidence import Estimate
from fedmed.report.published import Paper, Row
from fedmed.report.reading import Json, Number, dig, mean, number
from fedmed.report.words import fixed, listed

_NEAR: Final = 0.02  # relative; a published epsilon of .994 is ours of 1
SETS: Final = {"train": "Training images", "test": "Test images", "noised": "Noised test images"}


def paper_of(name: str) -> Paper | None:
    """The figures of a paper; None for no name, or one that this version does not know."""
    return published.load(name) if name in published.names() else None


def scale_of(arm: Arm) -> Number:
    """Scale of an image arm's Laplace noise, images on 0 to 1; None for another arm."""
    if arm.kind not in ("brightness-shift", "pixel-laplace", "dp-pix"):
        return None
    settings = arm.runs[0].config
    scale, epsilon = (number(settings.get(f"privacy.{k}")) for k in ("laplace-scale", "epsilon"))
    if not scale and arm.kind == "brightness-shift" and epsilon:
        return 1 / epsilon
    return scale or None


def row_of(paper: Paper, arm: Arm) -> Row | None:
    """The paper's row with the same treatment as an arm, None where it has none."""
    for row in paper.rows:
        epsilon = number(arm.runs[0].config.get("privacy.epsilon"))
        same = (_near(row.scale, scale_of(arm)), _near(row.epsilon, epsilon))
        if row.kind == arm.kind and all(same) and arm.scheme != "local-only":
            return row
    return None


def ceiling(scale: float, majority: float) -> float:
    """Best training accuracy where images are constant with probability exp(-1/scale)."""
    constant = math.exp(-1 / scale)
    return majority * constant + 1 - constant


def constant_images(arm: Arm) -> bool:
    """Whether the arm's noise can make an image constant: one draw, cut to the range."""
    return (
        arm.kind == "brightness-shift" and arm.runs[0].config.get("privacy.clip-released") is True
    )


def at_half(arm: Arm, images: str, what: str) -> Number:
    """Mean over seeds of a number at the threshold 0.5; `images` train, test or noised."""
    return arm.cost("at_half", images, what)


def majority(arms: Sequence[Arm], images: str) -> Number:
    """Accuracy of one answer for all of these images; the same for every arm."""
    return next((m for arm in arms if (m := at_half(arm, images, "majority")) is not None), None)


def curve(arm: Arm, images: str, what: str = "accuracy") -> dict[int, float]:
    """Mean over seeds of a number by round."""
    rounds: dict[int, list[float]] = {}
    for run in arm.runs:
        for entry in run.history:
            value = number(dig(entry, "curves", images, what))
            if value is not None:
                rounds.setdefault(int(entry["round"]), []).append(value)
    return {at: sum(values) / len(values) for at, values in sorted(rounds.items())}


def section(name: str, arms: Sequence[Arm]) -> Json | None:
    """What the template shows; None without a paper or without arms."""
    paper = paper_of(name)
    if paper is None or not arms:
        return None
    beside = _beside(arms)
    return {
        "paper": paper,
        "titles": list(paper.columns.values()),
        "beside": list(beside),
        "majority": [
            ("theirs", paper.majority_train, paper.majority_test),
            ("ours", majority(arms, "train"), majority(arms, "test")),
        ],
        "rows": [_row(paper, arm, beside) for arm in arms],
        "unmatched": [row.title for row in paper.rows if not _matched(paper, row, arms)],
        "ceilings": _ceilings(paper),
        "trained": any(at_half(arm, "train", "accuracy") is not None for arm in arms),
    }


def _row(paper: Paper, arm: Arm, beside: dict[str, Callable[[Arm], Estimate]]) -> Json:
    row = row_of(paper, arm)
    return {
        "arm": arm,
        "theirs_title": "" if row is None else row.title,
        "pairs": [
            (None if row is None else row.values.get(key), OURS[key](arm)) for key in paper.columns
        ],
        "beside": [measure(arm) for measure in beside.values()],
    }


def _beside(arms: Sequence[Arm]) -> dict[str, Callable[[Arm], Estimate]]:
    """Further columns of ours, by title, that at least one arm has."""
    columns: dict[str, Callable[[Arm], Estimate]] = {
        "Ceiling of train accuracy": lambda arm: Estimate(value=_own_ceiling(arm)),
        "Noised test accuracy": lambda arm: Estimate(value=at_half(arm, "noised", "accuracy")),
        "Train AUROC": lambda arm: Estimate(value=at_half(arm, "train", "auroc")),
        "Noised test AUROC": lambda arm: Estimate(value=at_half(arm, "noised", "auroc")),
        "Test AUROC, 95 % interval": lambda arm: arm.estimate,
    }
    return {
        title: measure
        for title, measure in columns.items()
        if any(measure(arm).value is not None for arm in arms)
    }


def _own_ceiling(arm: Arm) -> Number:
    scale, share = scale_of(arm), at_half(arm, "train", "majority")
    if scale is None or share is None or not constant_images(arm):
        return None
    return ceiling(scale, share)


def _ceilings(paper: Paper) -> str:
    """Their training accuracies under their ceiling, in words."""
    if not paper.ceiling or paper.majority_train is None:
        return ""
    told = []
    for row in paper.rows:
        if row.scale is not None:
            best = ceiling(row.scale, paper.majority_train)
            theirs = row.values["train_accuracy"]
            told.append(f"{fixed(theirs)} under {fixed(best)} at scale {row.scale:g}")
    return f"Their training accuracy and its ceiling: {listed(told)}."


def _matched(paper: Paper, row: Row, arms: Sequence[Arm]) -> bool:
    return any(row_of(paper, arm) is row or row_of(paper, arm) == row for arm in arms)


def _near(theirs: float | None, ours: Number) -> bool:
    """Whether ours is theirs; what they do not give tells nothing apart."""
    return theirs is None or (ours is not None and abs(ours - theirs) <= _NEAR * theirs)


def _best(arm: Arm) -> Number:
    """Mean over seeds of the best round's test accuracy: what choosing by test would report."""
    best = []
    for run in arm.runs:
        values = [number(dig(entry, "curves", "test", "accuracy")) for entry in run.history]
        best.append(max((v for v in values if v is not None), default=None))
    return mean(best)


def _women_less_men(arm: Arm) -> Number:
    sexes = {g.name: g.metrics["auroc"].value for g in arm.groups("sex") if "auroc" in g.metrics}
    women, men = sexes.get("F"), sexes.get("M")
    return None if women is None or men is None else women - men


OURS: Final[dict[str, Callable[[Arm], Any]]] = {
    "train_accuracy": lambda arm: at_half(arm, "train", "accuracy"),
    "test_accuracy": lambda arm: at_half(arm, "test", "accuracy"),
    "test_accuracy_best": _best,
    "test_auroc": lambda arm: arm.auroc,
    "auroc_women_less_men": _women_less_men,
}
"""Our number for each column that a paper may have."""
