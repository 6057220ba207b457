"""What the place of the noise changes: arms of one guarantee that add it at another place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedmed.config.arms import ARMS
from fedmed.evaluation.comparison.changes import change
from fedmed.evaluation.intervals.intervals import LEVEL, holm
from fedmed.evaluation.measuring.panel import Panel
from fedmed.evaluation.metrics import shown
from fedmed.evaluation.tables.pairing import Paired

Json = dict[str, Any]

CENTRAL: Final = "central"
LOCAL: Final = "local"
DISTRIBUTED: Final = "distributed"
CONTRASTS: Final = ((CENTRAL, LOCAL), (LOCAL, DISTRIBUTED), (CENTRAL, DISTRIBUTED))
"""From which place to which: what local costs, what distributed gives back, what stays lost."""

_PLACES: Final = {"sum": CENTRAL, "gradients": LOCAL, "shares": DISTRIBUTED}  # by ``Arm.noise``
_UNITS: Final = ("patient", "image")
_SAME: Final = 1.01  # the largest epsilon over the smallest: plans stay a little below what is set


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Where an arm of federated DP-SGD adds its noise, and under which guarantee."""

    place: str
    unit: str
    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Arms of one guarantee, by place; of several at one place the first is compared."""

    unit: str
    epsilon: float
    delta: float
    arms: dict[str, str]
    left_out: list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """The arms of each contrast that has both."""
        return [
            (self.arms[one], self.arms[other])
            for one, other in CONTRASTS
            if one in self.arms and other in self.arms
        ]


def noised(
    kind: str, scheme: str, unit: str, epsilon: float | None, delta: float | None
) -> Noised | None:
    """An arm by its kind, scheme and guarantee; None for one that is not in this comparison.

    That are arms that are not DP-SGD, hold all data in one place, train each hospital alone, or
    have no one guarantee of patients or images for all hospitals.
    """
    arm = ARMS.get(kind)
    place = None if arm is None or arm.plan not in ("gradient", "summed") else arm.noise
    if place not in _PLACES or scheme != "federated" or unit not in _UNITS:
        return None
    if epsilon is None or delta is None:
        return None
    return Noised(place=_PLACES[place], unit=unit, epsilon=epsilon, delta=delta)


def between_places(panel: Panel, paired: Paired, arms: Mapping[str, Noised]) -> list[Json]:
    """At each guarantee with arms of two places or more, their differences of AUROC, paired.

    Smallest epsilon first within a unit and a delta. ``p_holm`` adjusts over all differences of the
    list, and ``minimum_detectable`` is at the level that Holm leaves the first of them.
    """
    levels = [
        level
        for level in _levels({arm: arms[arm] for arm in paired.runs if arm in arms})
        if len(level.arms) > 1
    ]
    tests = sum(len(level.pairs()) for level in levels)
    if not tests:
        return []
    (metric,) = shown("headline")
    quantity = panel.quantity(metric)
    shared = 1.0 - (1.0 - LEVEL) / tests
    told: list[Json] = [
        {
            "unit": level.unit,
            "epsilon": level.epsilon,
            "delta": level.delta,
            "quantity": metric,
            "arms": level.arms,
            "left_out": level.left_out,
            "differences": [
                {"from": one, "to": other, **change(quantity, paired, one, other, level=shared)}
                for one, other in level.pairs()
            ],
        }
        for level in levels
    ]
    rows = [row for level in told for row in level["differences"]]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return told


def _levels(arms: Mapping[str, Noised]) -> list[_Level]:
    """Arms grouped by unit, delta and epsilon, in this order; places in that of the contrasts."""
    groups: list[list[str]] = []

    def guarantee(arm: str) -> tuple[int, float, float]:
        return _UNITS.index(arms[arm].unit), arms[arm].delta, arms[arm].epsilon

    for arm in sorted(arms, key=guarantee):
        first = arms[groups[-1][0]] if groups else None
        one = arms[arm]
        same = first is not None and (one.unit, one.delta) == (first.unit, first.delta)
        if first is not None and same and one.epsilon <= _SAME * first.epsilon:
            groups[-1].append(arm)
        else:
            groups.append([arm])
    return [_level(arms, [arm for arm in arms if arm in group]) for group in groups]


def _level(arms: Mapping[str, Noised], names: list[str]) -> _Level:
    by_place: dict[str, str] = {}
    for name in names:
        by_place.setdefault(arms[name].place, name)
    first = arms[names[0]]
    return _Level(
        unit=first.unit,
        epsilon=max(arms[name].epsilon for name in by_place.values()),
        delta=first.delta,
        arms={place: by_place[place] for place in _PLACES.values() if place in by_place},
        left_out=[name for name in names if name not in by_place.values()],
    )
