"""A matplotlib figure as inline SVG whose colours follow the page's light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours are drawn as these stand-ins and become CSS variables of the page.
INK: Final = "#101112"
MUTED: Final = "#606162"
GRID: Final = "#d0d1d2"
SERIES: Final = ("#a00001", "#a00002", "#a00003", "#a00004", "#a00005", "#a00006", "#a00007")
_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "fedmed",  # the same figure has the same bytes
    "text.parse_math": False,  # a dollar sign in an arm's name is no formula
    "axes.unicode_minus": True,
}
_FONT: Final = 10.0


@contextmanager
def style() -> Iterator[None]:
    """Settings under which figures are drawn and written; restored afterwards."""
    with matplotlib.rc_context(_STYLE):
        yield


def axes(
    width: float,
    height: float,
    *,
    left: float,
    bottom: float,
    right: float = 0.15,
    top: float = 0.1,
) -> tuple[Figure, Axes]:
    """A figure of one plot, all in inches: its size and the margins around the plot."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    plot = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        plot.spines[side].set_color(MUTED)
        plot.spines[side].set_linewidth(0.8)
    plot.tick_params(colors=MUTED, labelcolor=INK, labelsize=_FONT, length=3, width=0.8)
    plot.set_axisbelow(True)
    plot.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, plot


def label(plot: Axes, x: str = "", y: str = "") -> None:
    """Axis titles in the page's ink."""
    plot.set_xlabel(x, color=INK, fontsize=_FONT)
    plot.set_ylabel(y, color=INK, fontsize=_FONT)


def render(figure: Figure, alternative: str, prefix: str) -> Markup:
    """The figure as an SVG element with an accessible name.

    `alternative` says in words what it shows; `prefix` makes its ids unique in the page.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    width, height = figure.get_size_inches()
    opening = (
        f'<svg role="img" aria-label="{escape(alternative)}" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width * 72:g} {height * 72:g}" style="max-width:{width * 112:.0f}px">'
    )
    # matplotlib escapes the text it draws, and the name is escaped above.
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1))  # noqa: S704
