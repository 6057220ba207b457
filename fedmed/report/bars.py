"""Bars of a metric by arm and group of patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup
from matplotlib.axes import Axes

from fedmed.report import svg
from fedmed.report.arms import Arm
from fedmed.report.words import fixed, short

_CHANCE: Final = 0.5


def group_bars(attribute: str, metric: str, title: str, arms: Sequence[Arm]) -> Markup | None:
    """Bars of one metric ("auroc" or "fnr") by arm and group; a group with too few is marked.

    AUROC bars start at 0.5, chance. None where no arm knows the attribute.
    """
    tables = [(arm, arm.groups(attribute)) for arm in arms]
    names = list(dict.fromkeys(str(row["group"]) for _, rows in tables for row in rows))
    if not names:
        return None
    start = _CHANCE if metric == "auroc" else 0.0
    values = [float(row[metric]) for _, rows in tables for row in rows if row[metric] is not None]
    low, high = (min([_CHANCE, *values]), 1.0) if metric == "auroc" else (0.0, max([0.1, *values]))
    if metric == "auroc" and low < _CHANCE:
        low = math.floor(low * 20 - 0.2) / 20
    bar, gap = (0.17, 0.2) if len(names) > 3 else (0.2, 0.22)
    height = sum(bar * len(names) + gap for _ in tables) + 0.6
    left = 0.25 + 0.078 * max(len(short(arm.name)) for arm in arms)
    figure, plot = svg.axes(4.0, height, left=left, bottom=0.5, top=0.05, right=0.25)
    y = 0.0
    ticks: list[float] = []
    for _, rows in tables:
        by_name = {str(row["group"]): row for row in rows}
        ticks.append(y + bar * (len(names) - 1) / 2)
        for position, name in enumerate(names):
            value = by_name.get(name, {}).get(metric)
            if value is not None:
                colour = svg.SERIES[position % len(svg.SERIES)]
                plot.barh(y, value - start, left=start, height=bar * 0.84, color=colour)
                if abs(value - start) < 0.005:  # a bar too short to be seen is no missing value
                    _beside(plot, start, y, f"{value:.2f}")
            elif name in by_name:
                _beside(plot, start, y, f"{name}: {by_name[name].get('note') or 'no threshold'}")
            y += bar
        y += gap
    plot.set_ylim(y - gap, -bar)
    plot.set_xlim(low, high if metric == "auroc" else min(1.0, high * 1.05))
    plot.set_yticks(ticks, [short(arm.name) for arm in arms])
    plot.tick_params(axis="y", length=0)
    plot.spines["left"].set_visible(False)
    plot.axvline(start, color=svg.MUTED, linewidth=0.8)
    plot.grid(axis="x", color=svg.GRID, linewidth=0.6)
    svg.label(plot, title)
    said = "; ".join(
        f"{arm.name}: "
        + ", ".join(f"{row['group']} {fixed(row[metric], row.get('note') or '-')}" for row in rows)
        for arm, rows in tables
        if rows
    )
    return svg.render(figure, f"{title} by {attribute}. {said}.", f"{metric}-{attribute}")


def _beside(plot: Axes, x: float, y: float, text: str) -> None:
    """Small text in place of a bar."""
    plot.annotate(
        text,
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=svg.MUTED,
    )
