"""AUROC against epsilon: one panel per protected unit, for units are never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedmed.privacy.statement.meaning import MOST
from fedmed.report import chart
from fedmed.report.arms import Arm
from fedmed.report.chart import Figure
from fedmed.report.labels import HEIGHT, labels, share
from fedmed.report.palette import arm_colour, var
from fedmed.report.reading import Json
from fedmed.report.words import epsilon_text, fixed, interval, listed, too_weak

UNITS: Final = ("image", "patient", "hospital")
_DASHES: Final = {"federated": [1, 0], "pooled": [7, 4], "local-only": [2, 3]}
_POINTS: Final = 3  # epsilons of a curve
_APART: Final = 0.035  # share of the axis between arms at the same epsilon


def panels(arms: Sequence[Arm]) -> list[Figure]:
    """A panel for each unit for which an arm claims a finite epsilon, those with a curve first."""
    baselines = [arm for arm in arms if arm.plain and arm.auroc is not None]
    claimed = [arm for arm in arms if arm.epsilon and arm.axis_epsilon and arm.auroc is not None]
    shared = chart.limits(
        [
            value
            for arm in [*baselines, *claimed]
            for value in (arm.low, arm.auroc, arm.high, *arm.estimate.outer)
        ]
    )
    by_unit = {unit: [arm for arm in claimed if arm.unit == unit] for unit in UNITS}
    first = sorted((unit for unit in UNITS if by_unit[unit]), key=lambda u: not _curve(by_unit[u]))
    return [_panel(unit, by_unit[unit], baselines, shared, arms) for unit in first]


def _curve(arms: Sequence[Arm]) -> bool:
    """Whether one kind of arm stands at three epsilons or more: what each of them buys shows."""
    kinds = [(arm.kind, arm.scheme) for arm in arms]
    return any(kinds.count(kind) >= _POINTS for kind in kinds)


def _panel(
    unit: str,
    points: Sequence[Arm],
    baselines: Sequence[Arm],
    limits: tuple[float, float],
    arms: Sequence[Arm],
) -> Figure:
    points = sorted(points, key=lambda arm: (_at(arm), arm.name))
    span = _span(points)
    x, places = _x(unit, span), _places(points, span)
    layers = [
        *_beyond(span, x),
        *_bands(baselines, limits),
        *_sweeps(points, places, x, _y("auroc", limits)),
    ]
    layers += _marks([_value(arm, places[arm.name]) for arm in points], x, limits, arms)
    layers += labels(points, places, baselines, span, limits, x)
    said = "; ".join(f"{arm.name} {fixed(arm.auroc)} at {_both(arm)}" for arm in points)
    lines = "; ".join(f"{arm.name} {fixed(arm.auroc)}" for arm in baselines)
    both = [*points, *baselines]
    return Figure(
        name=f"epsilon-{unit}",
        title=f"Protects one {unit}",
        alternative=f"Test AUROC against epsilon per {unit}: {said}. "
        f"Without privacy: {lines or '-'}.",
        caption=_caption(points),
        view=chart.view(layers, arms, HEIGHT),
        columns=("Arm", f"Epsilon per {unit}", "Test AUROC", "95 % interval"),
        rows=[
            (
                arm.name,
                _both(arm),
                fixed(arm.auroc),
                interval(arm.low, arm.high),
            )
            for arm in both
        ],
        data=pd.DataFrame([_record(arm) for arm in both]),
    )


def _both(arm: Arm) -> str:
    """An arm's place on the axis, and its epsilon as stated where that is another."""
    text = epsilon_text(arm.axis_epsilon)
    if arm.epsilon == arm.axis_epsilon:
        return text
    return f"{text} if its data are replaced ({epsilon_text(arm.epsilon)} as stated)"


def _caption(points: Sequence[Arm]) -> str:
    """Which arms give no meaningful protection, and which stand at another epsilon than stated."""
    weak = [f"{arm.name} ({too_weak(arm)})" for arm in points if arm.weak]
    moved = [f"{arm.name} {_both(arm)}" for arm in points if arm.epsilon != arm.axis_epsilon]
    parts = [f"Amber, no meaningful protection: {listed(weak)}."] if weak else []
    return " ".join([*parts, *([f"Drawn at: {listed(moved)}."] if moved else [])])


def _beyond(span: tuple[float, float], x: Json) -> list[Json]:
    """An amber ground where an epsilon is no meaningful protection."""
    if span[1] <= MOST:
        return []
    return [
        chart.layer(
            {"type": "rect", "color": var("warn-soft")},
            [{"epsilon": max(MOST, span[0]), "end": span[1]}],
            {"x": x, "x2": {"field": "end"}},
            every=True,
        )
    ]


def _record(arm: Arm) -> dict[str, object]:
    """An arm's line in the figure's CSV: `epsilon` is its place on the axis."""
    return {
        "arm": arm.name,
        "scheme": arm.scheme,
        "unit": arm.unit,
        "epsilon": arm.axis_epsilon,
        "epsilon_stated": arm.epsilon,
        "meaningful": arm.meaningful if arm.private else None,
        "delta": arm.delta,
        "auroc": arm.auroc,
        "auroc_low": arm.low,
        "auroc_high": arm.high,
        "auroc_low_with_training": arm.estimate.both_low,
        "auroc_high_with_training": arm.estimate.both_high,
        "seeds": arm.estimate.seeds,
    }


def _marks(
    values: Sequence[Json], x: Json, limits: tuple[float, float], arms: Sequence[Arm]
) -> list[Json]:
    """A point per arm, over the bars of its two intervals."""
    layers = [
        chart.layer(
            {"type": "rule", "strokeWidth": width, "opacity": 0.75},
            [value for value in values if value[low] is not None],
            {"x": x, "y": _y(low, limits), "y2": {"field": high}, "color": chart.colour(arms)},
        )
        for low, high, width in chart.INTERVALS
    ]
    point = chart.layer(
        {"type": "point", "filled": True, "size": 95, "opacity": 1},
        values,
        {
            "x": x,
            "y": _y("auroc", limits),
            "color": chart.colour(arms),
            "shape": chart.shape(arms),
            "tooltip": chart.tooltip(
                arm="Arm", told="Epsilon", measured="Test AUROC", seeds="Seeds"
            ),
        },
    )
    return [*layers, point]


def _span(points: Sequence[Arm]) -> tuple[float, float]:
    """The ends of the axis for arms in the order of their epsilons."""
    low, high = _at(points[0]), _at(points[-1])
    margin = max(2.5, (high / low) ** 0.25)
    return low / margin, high * margin


def _x(unit: str, span: tuple[float, float]) -> Json:
    relation = "" if unit == "patient" else ", data replaced"
    return {
        "field": "epsilon",
        "type": "quantitative",
        "scale": {"type": "log", "domain": list(span), "nice": False},
        "title": f"epsilon per {unit}{relation} (log scale)",
        "axis": {
            "values": chart.log_ticks(*span),
            "grid": False,
            "labelExpr": "datum.value >= 1e6 ? format(datum.value / 1e6, '~g') + 'M' : "
            "format(datum.value, ',~g')",
            "labelOverlap": True,
        },
    }


def _at(arm: Arm) -> float:
    return arm.axis_epsilon or 1.0


def _places(points: Sequence[Arm], span: tuple[float, float]) -> dict[str, float]:
    """Where each arm is drawn: at its epsilon, moved aside where several would cover each other."""
    runs: list[list[Arm]] = []
    for arm in points:
        if runs and share(_at(arm), span) - share(_at(runs[-1][-1]), span) < _APART / 2:
            runs[-1].append(arm)
        else:
            runs.append([arm])
    width = span[1] / span[0]
    return {
        arm.name: _at(arm) * width ** (_APART * (place - (len(run) - 1) / 2))
        for run in runs
        for place, arm in enumerate(run)
    }


def _y(field: str, limits: tuple[float, float]) -> Json:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": list(limits), "zero": False, "nice": False},
        "title": "test AUROC",
        "axis": {"format": ".2f", "tickCount": 6, "domain": False, "ticks": False},
    }


def _value(arm: Arm, place: float | None = None) -> Json:
    outer_low, outer_high = arm.estimate.outer
    return {
        "arm": arm.name,
        "epsilon": place,
        "auroc": arm.auroc,
        "low": arm.low,
        "high": arm.high,
        "outer_low": outer_low,
        "outer_high": outer_high,
        "told": f"{_both(arm)}, per {arm.unit}"
        if arm.epsilon != arm.axis_epsilon
        else f"{_both(arm)} per {arm.unit}",
        "measured": f"{fixed(arm.auroc)} ({interval(arm.low, arm.high)})",
        "seeds": str(max(1, arm.estimate.seeds)),
    }


def _bands(baselines: Sequence[Arm], limits: tuple[float, float]) -> list[Json]:
    """Arms without privacy: a line each, and the interval of those trained together as a band."""
    layers = []
    for arm in baselines:
        colour = arm_colour(arm.number)
        value = _value(arm)
        if arm.low is not None and arm.scheme == "federated":
            layers.append(
                chart.layer(
                    {"type": "rect", "color": colour, "opacity": 0.14},
                    [value],
                    {"y": _y("low", limits), "y2": {"field": "high"}},
                )
            )
        layers.append(
            chart.layer(
                {
                    "type": "rule",
                    "color": colour,
                    "strokeWidth": 1.6,
                    "strokeDash": _DASHES.get(arm.scheme, [4, 2, 1, 2]),
                },
                [value],
                {
                    "y": _y("auroc", limits),
                    "tooltip": chart.tooltip(arm="Arm", measured="Test AUROC", seeds="Seeds"),
                },
            )
        )
    return layers


def _sweeps(points: Sequence[Arm], places: dict[str, float], x: Json, y: Json) -> list[Json]:
    """A line through arms that differ by epsilon only."""
    layers = []
    for kind, scheme in dict.fromkeys((arm.kind, arm.scheme) for arm in points):
        series = [arm for arm in points if (arm.kind, arm.scheme) == (kind, scheme)]
        where = [_at(arm) for arm in series]
        if len(series) > 1 and len(set(where)) == len(where):
            layers.append(
                chart.layer(
                    {"type": "line", "color": var("muted"), "strokeWidth": 1.2},
                    [_value(arm, places[arm.name]) for arm in series],
                    {"x": x, "y": y},
                )
            )
    return layers
