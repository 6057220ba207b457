"""Names in the panels of AUROC against epsilon, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from fedmed.report import chart
from fedmed.report.arms import Arm
from fedmed.report.palette import var
from fedmed.report.reading import Json
from fedmed.report.words import fixed, short

HEIGHT: Final = 270  # of a panel, in pixels
_PLOT: Final = 215  # pixels between the axes of the narrowest panel; wider ones have more room
_LETTER: Final = 6.6  # pixels of a letter, about
_HALF: Final = 6.5  # half the height of a line of text, in pixels


def labels(
    points: Sequence[Arm],
    drawn: dict[str, float],
    baselines: Sequence[Arm],
    span: tuple[float, float],
    limits: tuple[float, float],
    x: Json,
) -> list[Json]:
    """Names beside points and at the right end of lines, moved apart where they would touch."""
    texts = _placed(points, drawn, baselines, span, limits)
    return [layer for side, names in texts.items() for layer in _side_layers(side, names, x)]


def _placed(
    points: Sequence[Arm],
    drawn: dict[str, float],
    baselines: Sequence[Arm],
    span: tuple[float, float],
    limits: tuple[float, float],
) -> dict[str, list[Json]]:
    """The names by the side of their marks on which they stand, each at a free height."""

    def down(value: float) -> float:
        return (limits[1] - value) / (limits[1] - limits[0]) * HEIGHT

    # What a name must not cover: start, end, height and half the size of lines, marks, names.
    taken = [(0.0, float(_PLOT), down(arm.auroc or 0.0), 1.0) for arm in baselines]
    texts: dict[str, list[Json]] = {"left": [], "right": [], "over": [], "line": []}
    for arm in sorted(baselines, key=lambda arm: -(arm.auroc or 0.0)):
        text = f"{short(arm.name)} {fixed(arm.auroc)}"
        height = _free(taken, _PLOT - _LETTER * len(text), _PLOT, down(arm.auroc or 0.0) - 9)
        texts["line"].append({"arm": arm.name, "text": text, "y": height})
    places = {name: _PLOT * share(at, span) for name, at in drawn.items()}
    for arm in points:
        taken.append((places[arm.name] - 7, places[arm.name] + 7, down(arm.auroc or 0.0), 6.0))
    for arm in sorted(points, key=lambda arm: -(arm.auroc or 0.0)):
        place, width = places[arm.name], _LETTER * len(short(arm.name))
        side, start = _side(place, width)
        height = _free(taken, start, start + width, down(arm.auroc or 0.0))
        texts[side].append(
            {
                "arm": arm.name,
                "text": short(arm.name),
                "y": height,
                "epsilon": drawn[arm.name],
                "weak": arm.weak,
                "moved": round(start + width / 2 - place, 1),
            }
        )
    return texts


def _side_layers(side: str, names: list[Json], x: Json) -> list[Json]:
    """The names on one side of their marks, or at the right end of their lines."""
    content = {"field": "text", "type": "nominal"}
    y = {"field": "y", "type": "quantitative", "scale": None, "title": None, "axis": None}
    mark: dict[str, Any] = {"type": "text", "baseline": "middle", "fontSize": 11.5}
    amber = {"color": var("warn")}  # of arms without meaningful protection
    if side == "over":  # how far it is moved aside is a property of the mark
        return [
            chart.layer(
                {**mark, "align": "center", "dx": one["moved"], **(amber if one["weak"] else {})},
                [one],
                {"x": x, "y": y, "text": content},
            )
            for one in names
        ]
    if side == "line":
        mark |= {"align": "right", "color": var("muted")}
        encoding: Json = {"x": {"value": "width"}, "y": y, "text": content}
    else:
        mark |= {"align": "left" if side == "right" else "right"}
        mark |= {"dx": 11 if side == "right" else -11}
        encoding = {"x": x, "y": y, "text": content}
    looks = [
        (mark, [one for one in names if not one.get("weak")]),
        ({**mark, **amber}, [one for one in names if one.get("weak")]),
    ]
    return [chart.layer(look, same, encoding) for look, same in looks if same]


def _side(place: float, width: float) -> tuple[str, float]:
    """Where a name stands and where it begins: beside its mark, else over or under it."""
    if place + 12 + width <= _PLOT:
        return "right", place + 11
    if place - 12 - width >= 0:
        return "left", place - 11 - width
    return "over", min(max(0.0, place - width / 2), max(0.0, _PLOT - width))


def share(value: float, span: tuple[float, float]) -> float:
    """How far along a logarithmic axis a value stands, from 0 to 1."""
    return math.log(value / span[0]) / math.log(span[1] / span[0])


def _free(
    taken: list[tuple[float, float, float, float]], start: float, end: float, height: float
) -> float:
    """The height nearest to the wanted one where a line of text covers nothing; it is taken."""
    here = height
    for step in range(120):
        here = height + (step + 1) // 2 * (2.0 if step % 2 else -2.0)
        free = all(
            end < left or right < start or abs(here - middle) >= half + _HALF
            for left, right, middle, half in taken
        )
        if free and _HALF <= here <= HEIGHT - _HALF:
            break
    taken.append((start, end, here, _HALF))
    return round(here, 1)
