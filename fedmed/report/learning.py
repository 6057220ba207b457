"""Learning curves, a panel per arm, with the plan's noise-to-signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedmed.report import chart
from fedmed.report.arms import Arm, reference
from fedmed.report.chart import Figure
from fedmed.report.palette import arm_colour, var
from fedmed.report.reading import Json, mean, number
from fedmed.report.words import fixed

_HEIGHT: Final = 150
_POINTS: Final = 12  # rounds up to which each is marked
_LONGEST: Final = 400  # points of a drawn curve; longer ones are thinned, in the figure only


def panels(arms: Sequence[Arm]) -> list[Figure]:
    """Validation AUROC by round for every arm that recorded it."""
    curves = {arm.name: [_curve(run.history) for run in arm.runs] for arm in arms}
    shared = chart.limits(
        [value for by_seed in curves.values() for curve in by_seed for value in curve.values()]
    )
    base = reference(list(arms))
    beside = _mean(curves[base.name]) if base is not None else {}
    return [
        _panel(arm, curves[arm.name], base if arm is not base else None, beside, shared, arms)
        for arm in arms
        if any(curves[arm.name])
    ]


def ticks(last: int) -> list[int]:
    """Whole rounds for an axis from 0 to `last`: at most seven, in steps of 1, 2 or 5."""
    step = next(
        step * 10**power for power in range(9) for step in (1, 2, 5) if last <= 6 * step * 10**power
    )
    return list(range(0, last + 1, step))


def round_channel(last: int) -> Json:
    """The channel of rounds, from 0 to the last."""
    return {
        "field": "round",
        "type": "quantitative",
        "title": "round",
        "scale": {"domain": [0, last], "nice": False},
        "axis": {"grid": False, "values": ticks(last), "format": "d", "labelOverlap": True},
    }


def noise_to_signal(arm: Arm) -> float | None:
    """Expected size of the noise over the largest signal it can hide, from the plan."""
    return number(arm.statement.get("noise_to_signal"))


def ratio_text(value: float) -> str:
    """Noise to signal in three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _panel(
    arm: Arm,
    curves: list[dict[int, float]],
    base: Arm | None,
    beside: dict[int, float],
    limits: tuple[float, float],
    arms: Sequence[Arm],
) -> Figure:
    average = _mean(curves)
    first, last = min(average), max(average)
    channels = _channels(max(1, last, *beside), limits)
    layers = [
        *_reference_line({} if base is None else beside, channels),
        *_seed_lines(arm, curves, channels),
        *_average(arm, average, channels),
    ]
    ratio = noise_to_signal(arm)
    return Figure(
        name=f"learning-{arm.name}",
        title=arm.name,
        alternative=f"{arm.name}: validation AUROC from {fixed(average[first])} at round {first} "
        f"to {fixed(average[last])} at round {last}.",
        caption="" if ratio is None else f"Noise to signal {ratio_text(ratio)}",
        view=chart.view(layers, arms, _HEIGHT),
        columns=("Round", "Mean AUROC", "Lowest seed", "Highest seed"),
        rows=[
            (
                str(at),
                fixed(average[at]),
                fixed(min(curve[at] for curve in curves if at in curve)),
                fixed(max(curve[at] for curve in curves if at in curve)),
            )
            for at in average
        ],
        data=pd.DataFrame(
            [
                {"arm": arm.name, "seed": run.seed, "round": at, "auroc": value}
                for run, curve in zip(arm.runs, curves, strict=True)
                for at, value in curve.items()
            ]
        ),
        arm=arm.name,
    )


def _channels(last: int, limits: tuple[float, float]) -> dict[str, Json]:
    """Rounds to the right, validation AUROC upwards."""
    return {
        "x": round_channel(last),
        "y": chart.number_channel("auroc", "validation AUROC", limits, 4),
    }


def _reference_line(beside: dict[int, float], channels: dict[str, Json]) -> list[Json]:
    """The curve without privacy, dashed, where there is one to compare with."""
    if not beside:
        return []
    return [
        chart.layer(
            {"type": "line", "color": var("muted"), "strokeDash": [5, 4], "strokeWidth": 1.3},
            _points(beside),
            channels,
            every=True,
        )
    ]


def _seed_lines(
    arm: Arm, curves: Sequence[dict[int, float]], channels: dict[str, Json]
) -> list[Json]:
    """A thin line per seed, where there are several."""
    if len(curves) <= 1:
        return []
    return [
        chart.layer(
            {"type": "line", "color": arm_colour(arm.number), "strokeWidth": 1, "opacity": 0.5},
            [
                {**point, "seed": str(run.seed)}
                for run, curve in zip(arm.runs, curves, strict=True)
                for point in _points(curve)
            ],
            {**channels, "detail": {"field": "seed", "type": "nominal"}},
            every=True,
        )
    ]


def _average(arm: Arm, average: dict[int, float], channels: dict[str, Json]) -> list[Json]:
    """The mean over seeds; the points of long curves are there for the pointer alone."""
    colour, few = arm_colour(arm.number), len(average) <= _POINTS
    told = chart.tooltip(at="Round", measured="Validation AUROC")
    return [
        chart.layer(
            {"type": "line", "color": colour, "strokeWidth": 2.4},
            _points(average),
            channels,
            every=True,
        ),
        chart.layer(
            {
                "type": "point",
                "filled": True,
                "color": colour,
                "size": 36 if few else 80,
                "opacity": 1 if few else 0,
            },
            _points(average),
            {**channels, "tooltip": told},
            every=True,
        ),
    ]


def _curve(history: Sequence[Json]) -> dict[int, float]:
    curve: dict[int, float] = {}
    for entry in history:
        auroc = number(entry.get("auroc"))
        if auroc is not None:
            curve[int(entry["round"])] = auroc
    return curve


def _mean(curves: Sequence[dict[int, float]]) -> dict[int, float]:
    rounds = sorted({at for curve in curves for at in curve})
    means = {at: mean(curve.get(at) for curve in curves) for at in rounds}
    return {at: value for at, value in means.items() if value is not None}


def _points(curve: dict[int, float]) -> list[Json]:
    step = max(1, len(curve) // _LONGEST)
    kept = list(curve)[::step]
    if curve and kept[-1] != max(curve):
        kept.append(max(curve))
    return [
        {"round": at, "auroc": curve[at], "at": str(at), "measured": fixed(curve[at])}
        for at in kept
    ]
