"""Rows of estimates with their intervals: groups of patients, and changes of gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedmed.report import chart
from fedmed.report.arms import Arm
from fedmed.report.chart import Rows
from fedmed.report.evidence import Estimate
from fedmed.report.palette import var
from fedmed.report.reading import Json
from fedmed.report.words import short

ROW: Final = 18  # pixels of a row
_LETTER: Final = 6.4  # pixels of a letter of an arm's name, about


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm's line: its estimate, or `absent` in its place.

    `beside` is the number written at the right; `reference` is drawn as a tick, `band` as a grey
    bar from minus to plus that size; `told` is shown beside the pointer.
    """

    arm: Arm
    estimate: Estimate
    beside: str
    absent: str = ""
    reference: float | None = None
    band: float | None = None
    told: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows under one heading; `beneath` is a second line of it, as a phone is narrow."""

    heading: str
    rows: list[Row]
    beneath: str = ""

    @property
    def lines(self) -> int:
        """How many lines its heading has."""
        return 2 if self.beneath else 1


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The axis of a figure of rows: its title, its range, and where a line stands."""

    title: str
    low: float
    high: float
    line: float | None
    form: str = ".2f"


def view(blocks: Sequence[Block], axis: Axis, arms: Sequence[Arm]) -> Json:
    """The figure as a Vega-Lite specification; a hidden arm leaves no empty row."""
    headings, values = _values(blocks)
    left = 14 + _LETTER * max((len(short(arm.name)) for arm in arms), default=8)
    # The names of rows begin with their place, by which they are sorted.
    y = chart.row_channel(labelAlign="left", labelPadding=left)
    layers = [
        *_line(axis),
        *_headings(headings, y, left),
        *_behind(values, axis, y),
        *_estimates([value for value in values if value["value"] is not None], axis, y, arms),
        *_absent([value for value in values if value["value"] is None], y),
    ]
    counts = Counter(row.arm.name for block in blocks for row in block.rows)
    return chart.view(
        layers, arms, Rows(step=ROW, always=sum(block.lines for block in blocks), arms=dict(counts))
    )


def _line(axis: Axis) -> list[Json]:
    """The dashed line that estimates are compared with, where the axis has one."""
    if axis.line is None:
        return []
    return [
        chart.layer(
            {"type": "rule", "color": var("muted"), "strokeWidth": 1, "strokeDash": [3, 3]},
            [{"at": axis.line}],
            {"x": _x(axis, "at")},
            every=True,
        )
    ]


def _headings(headings: Sequence[Json], y: Json, left: float) -> list[Json]:
    """A heading over each block, on a ground that no line crosses."""
    text = {"type": "text", "align": "left", "dx": -left, "dy": 2}
    return [
        chart.layer(
            {"type": "rect", "color": var("card"), "height": {"band": 1.05}},
            headings,
            {"y": y, "x": {"value": -4}, "x2": {"value": "width"}},
        ),
        *(
            chart.layer(
                {**text, **look, "fontSize": 11.5},
                lines,
                {"x": {"value": 0}, "y": y, "text": {"field": "heading", "type": "nominal"}},
            )
            for look, lines in (
                ({"fontWeight": "bold"}, [one for one in headings if not one["beneath"]]),
                ({"color": var("muted")}, [one for one in headings if one["beneath"]]),
            )
            if lines
        ),
    ]


def _behind(values: Sequence[Json], axis: Axis, y: Json) -> list[Json]:
    """What estimates are read against: grey bands, and a tick at each reference."""
    layers = []
    bands = [value for value in values if value["band_low"] is not None]
    if bands:
        layers.append(
            chart.layer(
                {"type": "bar", "color": var("muted"), "opacity": 0.18, "height": {"band": 0.9}},
                bands,
                {"y": y, "x": _x(axis, "band_low"), "x2": {"field": "band_high"}},
            )
        )
    references = [value for value in values if value["reference"] is not None]
    if references:
        layers.append(
            chart.layer(
                {"type": "tick", "color": var("muted"), "thickness": 1.5, "size": ROW},
                references,
                {"y": y, "x": _x(axis, "reference")},
            )
        )
    return layers


def _estimates(measured: Sequence[Json], axis: Axis, y: Json, arms: Sequence[Arm]) -> list[Json]:
    """Each estimate: the bars of its intervals, its point, and its number at the right."""
    colour = chart.colour(arms)
    told = chart.tooltip(arm="Arm", heading="Of", told="Value")
    layers = [
        chart.layer(
            {"type": "rule", "strokeWidth": width, "opacity": 0.75, "clip": True},
            [value for value in measured if value[low] is not None],
            {"y": y, "x": _x(axis, low), "x2": {"field": high}, "color": colour},
        )
        for low, high, width in chart.INTERVALS
    ]
    shape = chart.shape(arms)
    point = chart.layer(
        {"type": "point", "filled": True, "size": 62, "opacity": 1},
        measured,
        {"y": y, "x": _x(axis, "value"), "color": colour, "shape": shape, "tooltip": told},
    )
    text = {"field": "beside", "type": "nominal"}
    number = chart.layer(
        {"type": "text", "align": "right", "dx": 44, "fontSize": 11.5},
        measured,
        {"y": y, "x": {"value": "width"}, "text": text, "tooltip": told},
    )
    return [*layers, point, number]


def _absent(absent: Sequence[Json], y: Json) -> list[Json]:
    """Why there is no estimate, in its place."""
    if not absent:
        return []
    return [
        chart.layer(
            {"type": "text", "align": "left", "dx": 6, "color": var("muted"), "fontSize": 11.5},
            absent,
            {"y": y, "x": {"value": 0}, "text": {"field": "absent", "type": "nominal"}},
        )
    ]


def reach(blocks: Sequence[Block]) -> list[float]:
    """Every number that an axis has to hold."""
    numbers: list[float | None] = []
    for row in (row for block in blocks for row in block.rows):
        numbers += [row.estimate.value, *row.estimate.outer, row.estimate.low, row.estimate.high]
        numbers.append(row.reference)
    return [number for number in numbers if number is not None]


def _x(axis: Axis, field: str) -> Json:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": [axis.low, axis.high], "nice": False, "zero": False},
        "title": axis.title,
        "axis": {"format": axis.form, "tickCount": 5, "domain": False, "ticks": False},
    }


def _values(blocks: Sequence[Block]) -> tuple[list[Json], list[Json]]:
    """Headings and rows as values of the specification."""
    headings: list[Json] = []
    values: list[Json] = []
    place = 0
    for block in blocks:
        for number, line in enumerate((block.heading, block.beneath)[: block.lines]):
            headings.append({"row": f"{place:03d}|", "heading": line, "beneath": number > 0})
            place += 1
        for row in block.rows:
            low, high = row.estimate.outer
            record: dict[str, Any] = {
                "row": f"{place:03d}|{short(row.arm.name)}",
                "arm": row.arm.name,
                "heading": block.heading,
                "value": row.estimate.value,
                "low": row.estimate.low,
                "high": row.estimate.high,
                "outer_low": low,
                "outer_high": high,
                "reference": row.reference,
                "band_low": None if row.band is None else -row.band,
                "band_high": row.band,
                "beside": row.beside,
                "absent": row.absent,
                "told": row.told or row.beside,
            }
            values.append(record)
            place += 1
    return headings, values
