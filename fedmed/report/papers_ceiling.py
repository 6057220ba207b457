"""A paper's figure of accuracy against the scale of the noise, under the ceiling, beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from fedmed.report import chart, papers
from fedmed.report.arms import Arm
from fedmed.report.chart import Figure
from fedmed.report.palette import var
from fedmed.report.published import Paper
from fedmed.report.reading import Json
from fedmed.report.words import fixed

_SHAPES: Final = {"train": "circle", "test": "square", "noised": "diamond"}
_HEIGHT: Final = 220
_GRID: Final = 60  # points of the drawn ceiling


def figure(paper: Paper, arms: Sequence[Arm]) -> Figure | None:
    """Accuracy against the scale of the shift, with the best that any model can reach."""
    if not paper.ceiling or paper.majority_train is None:
        return None
    values = [*_theirs(paper), *_ours(arms)]
    shares = {"theirs": paper.majority_train}
    ours = papers.majority(arms, "train")
    if ours is not None and abs(ours - paper.majority_train) > 0.002:
        shares["ours"] = ours
    lines = _ceilings(shares)
    limits = chart.limits([one["value"] for one in [*values, *lines]] + list(shares.values()))
    channels = _channels(limits)
    rows: list[tuple[str, ...]] = [
        (one["name"], papers.SETS[one["images"]], fixed(one["value"])) for one in values
    ]
    return Figure(
        name="papers-ceiling",
        title="One shift of brightness per image",
        alternative="Accuracy against the scale of the shift, under the ceiling of training "
        "accuracy: "
        + "; ".join(f"{name}, {images.lower()}, {v}" for name, images, v in rows)
        + ".",
        caption="Line: the best training accuracy that any model can reach; dashed: one answer for "
        "all training images. Circles: training images; squares: test images; diamonds: noised "
        f"test images. Hollow: {paper.short}; filled: ours.",
        view=chart.view(
            [*_under(lines, shares, channels), *_points(values, channels, arms)], arms, _HEIGHT
        ),
        columns=("What", "Images", "Accuracy"),
        rows=rows,
        data=pd.DataFrame(values + lines),
    )


def _theirs(paper: Paper) -> list[Json]:
    """Points of the paper's rows that have a scale."""
    return [
        _point("theirs", row.title, images, row.scale, row.values)
        for row in paper.rows
        if row.scale is not None
        for images in ("train", "test")
    ]


def _ours(arms: Sequence[Arm]) -> list[Json]:
    """Points of our arms that shift brightness, on every set of images that was scored."""
    points: list[Json] = []
    for arm in arms:
        scale = papers.scale_of(arm)
        if scale is None or not papers.constant_images(arm):
            continue
        # Side by side where two arms have the same scale.
        shown = scale * (1.09 if arm.scheme == "pooled" else 1 / 1.09)
        for images in _SHAPES:
            accuracy = papers.at_half(arm, images, "accuracy")
            if accuracy is not None:
                measured = {f"{images}_accuracy": accuracy}
                points.append(_point("ours", arm.name, images, shown, measured) | {"arm": arm.name})
    return points


def _ceilings(shares: Mapping[str, float]) -> list[Json]:
    """The ceiling for each share of the majority, along the axis."""
    grid = [0.5 * 16 ** (step / _GRID) for step in range(_GRID + 1)]
    return [
        {"scale": at, "value": papers.ceiling(at, share), "who": who}
        for who, share in shares.items()
        for at in grid
    ]


def _channels(limits: tuple[float, float]) -> dict[str, Json]:
    """The scale of the shift to the right, accuracy upwards."""
    x = {
        "field": "scale",
        "type": "quantitative",
        "title": "scale of the shift (range of an image: 1)",
        "scale": {"type": "log", "domain": [0.5, 8]},
        "axis": {"values": [0.5, 1, 2, 4, 8], "format": "~g", "grid": False},
    }
    return {"x": x, "y": chart.number_channel("value", "accuracy", limits, 5)}


def _under(
    lines: Sequence[Json], shares: Mapping[str, float], channels: dict[str, Json]
) -> list[Json]:
    """The ceilings with their names, where there are two, and one answer for all images."""
    who = {"field": "who", "type": "nominal"}
    return [
        chart.layer(
            {"type": "line", "strokeWidth": 1.8, "color": var("ink")},
            lines,
            {**channels, "detail": who},
            every=True,
        ),
        chart.layer(
            {"type": "text", "align": "right", "dy": -13, "dx": -2},
            [
                {"scale": 8, "value": papers.ceiling(8, share), "who": who}
                for who, share in shares.items()
                if len(shares) > 1
            ],
            {**channels, "text": who},
            every=True,
        ),
        chart.layer(
            {"type": "rule", "strokeDash": [4, 4], "color": var("muted")},
            [{"value": share} for share in shares.values()],
            {"y": channels["y"]},
            every=True,
        ),
    ]


def _points(values: Sequence[Json], channels: dict[str, Json], arms: Sequence[Arm]) -> list[Json]:
    """Ours filled, theirs hollow; the shape tells the set of images."""
    shape = {
        "field": "images",
        "type": "nominal",
        "scale": {"domain": list(_SHAPES), "range": list(_SHAPES.values())},
        "legend": None,
    }
    told = chart.tooltip(name="What", told="Accuracy")
    return [
        chart.layer(
            {"type": "point", "filled": True, "size": 75, "opacity": 0.9},
            [one for one in values if "arm" in one],
            {**channels, "shape": shape, "color": chart.colour(arms), "tooltip": told},
        ),
        chart.layer(
            {"type": "point", "filled": False, "size": 75, "opacity": 1, "color": var("ink")},
            [one for one in values if "arm" not in one],
            {**channels, "shape": shape, "tooltip": told},
            every=True,
        ),
    ]


def _point(who: str, name: str, images: str, scale: float, values: dict[str, float]) -> Json:
    value = values[f"{images}_accuracy"]
    shown = {"name": f"{name}, {papers.SETS[images].lower()}", "told": fixed(value)}
    return {"who": who, "images": images, "scale": scale, "value": value, **shown}
