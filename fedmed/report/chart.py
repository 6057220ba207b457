"""A figure as one Vega-Lite specification, drawn live in the page and as SVG and PNG without it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pandas as pd
from markupsafe import Markup

from fedmed.base.cells import csv_text
from fedmed.base.rounding import up
from fedmed.report import vega
from fedmed.report.arms import Arm
from fedmed.report.palette import LIGHT, arm_colour, arm_shape, var
from fedmed.report.reading import Json
from fedmed.report.words import short

WIDTH: Final = 400  # of a drawing, in pixels; in the page it is as wide as its column
FONT: Final = 12
_PAGE_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif"
_FILE_FONT: Final = "'Liberation Sans', Arial, Helvetica, sans-serif"
_START: Final = '<g fill="none" stroke-miterlimit="10"'  # the first thing in a drawing
_SHOWN: Final = "shown"  # the parameter that holds the arms to draw

INTERVALS: Final = (("outer_low", "outer_high", 1.2), ("low", "high", 3.2))
"""Fields and width of the two bars of an estimate: with the spread over seeds, and without."""

CONFIG: Final[Json] = {
    "font": _PAGE_FONT,
    "background": "transparent",
    "aria": False,  # the page says what the figure shows; a thousand marks would drown it
    "view": {"stroke": None},
    "axis": {
        "labelColor": var("ink"),
        "titleColor": var("ink"),
        "labelFontSize": FONT,
        "titleFontSize": FONT,
        "titleFontWeight": "normal",
        "domainColor": var("muted"),
        "tickColor": var("muted"),
        "gridColor": var("grid"),
        "labelLimit": 0,
    },
    "text": {"color": var("ink"), "fontSize": FONT, "font": _PAGE_FONT},
    "rule": {"color": var("muted")},
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with everything that stands for it.

    `name` is its files' stem; `alternative` says in words what it shows; `view` is its Vega-Lite
    specification without width. `columns` and `rows` are its values as the page prints them, `data`
    is its CSV. `arm` is set where the whole figure belongs to one arm.
    """

    name: str
    title: str
    alternative: str
    caption: str
    view: Json
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    data: pd.DataFrame
    arm: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure ready for the page and for the files beside it, which are called `stem`."""

    figure: Figure
    stem: str
    live: Markup
    still: Markup
    svg: str
    png: bytes
    csv: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A figure's rows of `step` pixels: those that are always there, and those of each arm."""

    step: int
    always: int
    arms: dict[str, int]


def layer(mark: Json, values: Sequence[Json], encoding: Json, *, every: bool = False) -> Json:
    """Marks of one kind. Values with an `arm` are drawn while that arm is chosen.

    `every` keeps all of them whatever is chosen.
    """
    chosen = f"!datum.arm || indexof({_SHOWN}, datum.arm) >= 0"
    return {
        "data": {"values": list(values)},
        **({} if every else {"transform": [{"filter": chosen}]}),
        "mark": mark,
        "encoding": encoding,
    }


def view(layers: Sequence[Json], arms: Sequence[Arm], height: int | Rows) -> Json:
    """Layers over each other, with the parameter that chooses arms.

    With :class:`Rows` the height follows the arms that are chosen, in the page.
    """
    rows = height if isinstance(height, Rows) else None
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "params": [{"name": _SHOWN, "value": [arm.name for arm in arms]}],
        "height": height if rows is None else rows.step * (rows.always + sum(rows.arms.values())),
        **({} if rows is None else {"usermeta": {"rows": asdict(rows)}}),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 2, "right": 6, "top": 6, "bottom": 2},
        "layer": list(layers),
        "config": CONFIG,
    }


def colour(arms: Sequence[Arm]) -> Json:
    """The colour channel: each arm has the same colour in every figure."""
    return _by_arm(arms, [arm_colour(arm.number) for arm in arms])


def shape(arms: Sequence[Arm]) -> Json:
    """The shape channel, so that colour is never alone."""
    return _by_arm(arms, [arm_shape(arm.number) for arm in arms])


def _by_arm(arms: Sequence[Arm], values: list[str]) -> Json:
    """A channel with a value for each arm, without a legend: the page has one."""
    return {
        "field": "arm",
        "type": "nominal",
        "scale": {"domain": [arm.name for arm in arms], "range": values},
        "legend": None,
    }


def row_name(place: int, arm: Arm) -> str:
    """The value of `row` of an arm's line: its place, by which rows are sorted, and its name."""
    return f"{place:03d}|{short(arm.name)}"


def row_channel(**axis: Any) -> Json:
    """The vertical channel of rows by their `row`; `axis` adds to how their names are written."""
    return {
        "field": "row",
        "type": "nominal",
        "sort": "ascending",
        "title": None,
        "axis": {"labelExpr": "slice(datum.label, 4)", **axis, "ticks": False, "domain": False},
    }


def number_channel(field: str, title: str, limits: tuple[float, float], ticks: int) -> Json:
    """The channel of a share, such as an AUROC, between two limits."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"domain": list(limits), "zero": False, "nice": False},
        "axis": {"format": ".2f", "tickCount": ticks, "domain": False, "ticks": False},
    }


def tooltip(**fields: str) -> list[Json]:
    """What is shown beside the pointer: a field per title, all of them texts."""
    return [{"field": field, "title": title, "type": "nominal"} for field, title in fields.items()]


def draw(figures: Mapping[str, Figure]) -> tuple[Markup, list[Drawn]]:
    """The script for the page, and the figures, by the stems of their files, in all their forms."""
    script, drawings = vega.render(
        [{**figure.view, "width": WIDTH} for figure in figures.values()],
        {
            **{var(name): value for name, value in LIGHT.items()},
            f'font-family="{_PAGE_FONT}"': f'font-family="{_FILE_FONT}"',
            _START: f'<rect width="100%" height="100%" fill="{LIGHT["card"]}"/>{_START}',
        },
    )
    drawn = [
        Drawn(
            figure=figure,
            stem=stem,
            live=embedded({**figure.view, "width": "container"}),
            still=_inline(drawing.svg, f"still-{number}"),
            svg=drawing.paper,
            png=drawing.png,
            csv=address(figure.data),
        )
        for number, ((stem, figure), drawing) in enumerate(
            zip(figures.items(), drawings, strict=True), start=1
        )
    ]
    # "</script" and "<!--" only ever stand in texts and comments of a script.
    return Markup(re.sub(r"<(?=/script|!--)", r"\\x3c", script)), drawn  # noqa: S704


def embedded(value: Any) -> Markup:
    """JSON for a script element, from which no text of the data can break out."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 -- what could end the element is escaped above


def address(data: pd.DataFrame) -> str:
    """A table as the data address of a CSV file."""
    text = csv_text(data, end="\r\n")
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode("ascii")


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1-2-5 steps on a short one, powers of ten on a long one."""
    steps = (1, 2, 5) if high / low < 60 else (1, 3) if high / low < 400 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(-6, 13) for step in steps]
    return [up(tick) for tick in ticks if low <= tick <= high]


def limits(numbers: Sequence[float | None]) -> tuple[float, float]:
    """An AUROC axis that holds all numbers with room for labels, within 0 to 1.02."""
    present = [number for number in numbers if number is not None]
    if not present:
        return 0.45, 1.02
    low, high = min(present), max(present)
    room = max(0.02, 0.12 * (high - low))
    return round(max(0.0, low - room), 4), round(min(1.02, high + room), 4)


def _inline(svg: str, prefix: str) -> Markup:
    """An SVG for the page: ids of its own, no size of its own, hidden from screen readers.

    The element around it says what it shows.
    """
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r' (?:aria-\w+|role|class|pointer-events)="[^"]*"', "", svg)
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    svg = re.sub(r'<svg ([^>]*?)width="\d+" height="\d+"', r'<svg aria-hidden="true" \1', svg)
    return Markup(svg)  # noqa: S704 -- Vega escapes the text that it draws
