"""The figures of the report: AUROC against epsilon and learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup
from matplotlib.axes import Axes

from fedmed.report import svg
from fedmed.report.arms import Arm, mean
from fedmed.report.words import epsilon_text, fixed, short

UNIT_COLOUR: Final = {
    "none": svg.SERIES[0],
    "image": svg.SERIES[1],
    "patient": svg.SERIES[2],
    "hospital": svg.SERIES[3],
}
_DASHES: Final = {"federated": "-", "pooled": "--", "local-only": ":"}


def epsilon_panel(
    unit: str, arms: Sequence[Arm], baselines: Sequence[Arm], limits: tuple[float, float]
) -> Markup:
    """AUROC against epsilon for the arms of one unit, on a logarithmic axis.

    `baselines` are arms without privacy, drawn as lines with their intervals; `limits` is the
    AUROC range shared by the panels, so that they can be read across.
    """
    rows = math.ceil(len(baselines) / 2)
    figure, plot = svg.axes(3.7, 3.0 + 0.2 * rows, left=0.6, bottom=0.55 + 0.22 * rows, right=0.32)
    _baselines(plot, baselines)
    colour = UNIT_COLOUR.get(unit, svg.INK)
    relation = "" if unit == "patient" else ", replaced"
    points = sorted(
        (arm for arm in arms if arm.axis_epsilon and arm.auroc is not None),
        key=lambda arm: (arm.axis_epsilon or 0.0, arm.name),
    )
    x = [arm.axis_epsilon or 0.0 for arm in points]
    low, high = (min(x), max(x)) if x else (1.0, 1.0)
    margin = max(2.5, (high / low) ** 0.25)
    plot.set_xscale("log")
    plot.set_xlim(low / margin, high * margin)
    plot.set_ylim(*limits)
    names = {arm.name: short(arm.name) for arm in points}
    for kind, scheme in dict.fromkeys((arm.kind, arm.scheme) for arm in points):
        series = [arm for arm in points if (arm.kind, arm.scheme) == (kind, scheme)]
        where = [arm.axis_epsilon or 0.0 for arm in series]
        if len(set(where)) < len(where) or len(where) < 2:
            continue
        plot.plot(where, [arm.auroc or 0.0 for arm in series], color=colour, linewidth=1.2)
        if len(where) > 2:  # a sweep: its points differ by epsilon, so one name serves the line
            names.update({arm.name: "" for arm in series})
            names[series[0].name] = kind if scheme == "federated" else f"{scheme} {kind}"
    for arm in points:
        _interval(plot, arm, colour)
    _name_points(plot, points, names, limits)
    svg.label(plot, f"epsilon per {unit}{relation} (log scale)", "test AUROC")
    plot.set_xticks(_decades(low / margin, high * margin))
    plot.set_xticks([], minor=True)
    plot.xaxis.set_major_formatter(lambda value, _: _tick(value))
    plot.grid(axis="y", color=svg.GRID, linewidth=0.6)
    said = "; ".join(
        f"{arm.name} {fixed(arm.auroc)} at {epsilon_text(arm.axis_epsilon)}" for arm in points
    )
    lines = "; ".join(f"{arm.name} {fixed(arm.auroc)}" for arm in baselines)
    alternative = f"Test AUROC against epsilon per {unit}: {said}. Without privacy: {lines or '-'}."
    return svg.render(figure, alternative, f"epsilon-{unit}")


def learning_panel(
    arm: Arm, other: Arm | None, limits: tuple[float, float], number: int
) -> Markup | None:
    """Validation AUROC by round: each seed thin, their mean thick, the reference arm in grey.

    None where no round has a validation AUROC. `number` tells panels of a page apart.
    """
    curve = _mean_curve(arm)
    if not curve:
        return None
    figure, plot = svg.axes(3.0, 2.1, left=0.5, bottom=0.48)
    if other is not None and other.name != arm.name:
        plot.plot(*_xy(_mean_curve(other)), color=svg.MUTED, linewidth=1.2, linestyle="--")
    colour = UNIT_COLOUR.get(arm.unit, svg.INK)
    curves = [_curve(run.history) for run in arm.runs]
    for single in curves if len(curves) > 1 else []:
        plot.plot(*_xy(single), color=colour, linewidth=0.8, alpha=0.45)
    marker = "o" if len(curve) <= 12 else ""
    plot.plot(*_xy(curve), color=colour, linewidth=2.0, marker=marker, markersize=3.5)
    plot.set_ylim(*limits)
    last = max([*curve, *(_mean_curve(other) if other is not None else {})])
    plot.set_xlim(-0.03 * max(last, 1), max(last, 1) * 1.03)
    plot.set_xticks(_rounds(last))
    plot.grid(axis="y", color=svg.GRID, linewidth=0.6)
    svg.label(plot, "round", "AUROC")
    alternative = (
        f"{arm.name}: validation AUROC from {fixed(curve[min(curve)])} at round {min(curve)} to "
        f"{fixed(curve[max(curve)])} at round {max(curve)}."
    )
    return svg.render(figure, alternative, f"learning-{number}")


def auroc_limits(numbers: Sequence[float | None]) -> tuple[float, float]:
    """An AUROC axis that holds all numbers with room for labels, within 0 to 1.02."""
    present = [number for number in numbers if number is not None]
    if not present:
        return 0.45, 1.02
    low, high = min(present), max(present)
    room = max(0.02, 0.12 * (high - low))
    return max(0.0, low - room), min(1.02, high + room)


def curve_limits(arms: Sequence[Arm]) -> tuple[float, float]:
    """The AUROC axis that all learning curves share."""
    return auroc_limits(
        [v for arm in arms for run in arm.runs for v in _curve(run.history).values()]
    )


def _baselines(plot: Axes, baselines: Sequence[Arm]) -> None:
    for arm in baselines:
        if arm.auroc is None:
            continue
        if arm.low is not None and arm.high is not None and arm.scheme == "federated":
            plot.axhspan(arm.low, arm.high, color=svg.SERIES[0], alpha=0.13, linewidth=0)
        plot.axhline(
            arm.auroc,
            color=svg.SERIES[0] if arm.scheme == "federated" else svg.MUTED,
            linewidth=1.4,
            linestyle=_DASHES.get(arm.scheme, "-."),
            label=f"{short(arm.name)} {fixed(arm.auroc)}",
        )
    if baselines:
        plot.legend(
            loc="upper center",
            bbox_to_anchor=(0.45, -0.2),
            ncol=2,
            frameon=False,
            fontsize=9,
            labelcolor=svg.INK,
            handlelength=1.8,
            columnspacing=1.2,
        )


def _interval(plot: Axes, arm: Arm, colour: str) -> None:
    """A point with its interval; an open point for a baseline scheme under privacy."""
    at, auroc = arm.axis_epsilon or 0.0, arm.auroc or 0.0
    if arm.low is not None and arm.high is not None:
        plot.plot([at, at], [arm.low, arm.high], color=colour, linewidth=1.6, alpha=0.6)
    face = colour if arm.scheme == "federated" else "none"
    plot.plot([at], [auroc], "o", markersize=6.5, color=colour, markerfacecolor=face)


def _name_points(
    plot: Axes, points: Sequence[Arm], names: dict[str, str], limits: tuple[float, float]
) -> None:
    """Name points beside them, on the side with room, moved apart where they would touch."""
    low, high = plot.get_xlim()
    span = math.log(high / low)
    line = 0.062 * (limits[1] - limits[0])
    taken: list[tuple[float, float, float]] = []
    for arm in sorted(points, key=lambda arm: -(arm.auroc or 0.0)):
        text = names[arm.name]
        if not text:
            continue
        place = math.log((arm.axis_epsilon or low) / low) / span
        width = 0.026 * len(text) + 0.04
        right = place + width <= 1.0
        start, end = (place, place + width) if right else (place - width, place)
        y = arm.auroc or 0.0
        while any(start < e and s < end and abs(y - other) < line for s, e, other in taken):
            y -= line / 4
        taken.append((start, end, y))
        plot.annotate(
            text,
            (arm.axis_epsilon or low, y),
            xytext=(7 if right else -7, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=9,
            color=svg.INK,
            annotation_clip=False,
        )


def _decades(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1-2-5 steps on a short one, powers of ten on a long one."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low < 60 else (1, 3) if high / low < 400 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _tick(value: float) -> str:
    """An epsilon short enough for an axis."""
    return f"{value / 1e6:g}M" if value >= 1e6 else epsilon_text(value)


def _rounds(last: int) -> list[int]:
    """At most six whole-numbered ticks from 0 to the last round."""
    step = max(1, math.ceil(last / 5))
    return list(range(0, last + 1, step))


def _curve(history: Sequence[dict[str, object]]) -> dict[int, float]:
    curve: dict[int, float] = {}
    for entry in history:
        number, auroc = entry.get("round"), entry.get("auroc")
        if isinstance(number, int) and isinstance(auroc, int | float):
            curve[number] = float(auroc)
    return curve


def _mean_curve(arm: Arm) -> dict[int, float]:
    curves = [_curve(run.history) for run in arm.runs]
    rounds = sorted({number for curve in curves for number in curve})
    means = {number: mean(curve.get(number) for curve in curves) for number in rounds}
    return {number: value for number, value in means.items() if value is not None}


def _xy(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())
