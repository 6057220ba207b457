"""Drawings of a paper's figures beside ours: by arm, under the ceiling, and over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedmed.report import chart, papers
from fedmed.report.arms import Arm
from fedmed.report.chart import Figure, Rows
from fedmed.report.palette import arm_colour, var
from fedmed.report.published import Paper
from fedmed.report.reading import Json
from fedmed.report.words import fixed, short

_SHAPES: Final = {"train": "circle", "test": "square", "noised": "diamond"}
_DASHES: Final[dict[str, list[int]]] = {"train": [1, 0], "test": [6, 4], "noised": [2, 2]}
_HEIGHT: Final = 220
_GRID: Final = 60  # points of the drawn ceiling


def figures(name: str, arms: Sequence[Arm]) -> list[Figure | None]:
    """All drawings; their names begin with ``papers-``."""
    paper = papers.paper_of(name)
    if paper is None or not arms:
        return []
    return [_by_arm(paper, arms), _under_ceiling(paper, arms), *_curves(arms)]


def _by_arm(paper: Paper, arms: Sequence[Arm]) -> Figure | None:
    """The paper's main column, a row per arm: theirs hollow, ours filled, the majority's line."""
    key = "test_accuracy" if "test_accuracy" in paper.columns else "test_auroc"
    title = paper.columns[key]
    values: list[Json] = []
    rows: list[tuple[str, ...]] = []
    for place, arm in enumerate(arms):
        row, ours = papers.row_of(paper, arm), papers.OURS[key](arm)
        theirs = None if row is None else row.values.get(key)
        noised = papers.at_half(arm, "noised", "accuracy") if key == "test_accuracy" else None
        rows.append((arm.name, fixed(theirs), fixed(ours), fixed(noised)))
        for who, value in (("theirs", theirs), ("ours", ours), ("noised", noised)):
            if value is not None:
                label = f"{place:03d}|{short(arm.name)}"
                told = f"{who}: {fixed(value)}"
                values.append(
                    {"row": label, "arm": arm.name, "who": who, "value": value, "told": told}
                )
    if not any(one["who"] == "ours" for one in values):
        return None
    y = {
        "field": "row",
        "type": "nominal",
        "sort": "ascending",
        "title": None,
        "axis": {"labelExpr": "slice(datum.label, 4)", "ticks": False, "domain": False},
    }
    majority = papers.majority(arms, "test") if key == "test_accuracy" else None
    lines = [v for v in (majority, paper.majority_test) if v is not None and key == "test_accuracy"]
    low, high = chart.limits([one["value"] for one in values] + lines)
    x = {
        "field": "value",
        "type": "quantitative",
        "title": title.lower().replace("auroc", "AUROC"),
        "scale": {"domain": [low, high], "zero": False, "nice": False},
        "axis": {"format": ".2f", "tickCount": 5, "domain": False, "ticks": False},
    }
    layers = []
    if lines:
        layers.append(
            chart.layer(
                {"type": "rule", "strokeDash": [4, 4], "color": var("muted")},
                [{"value": line} for line in sorted(set(lines))],
                {"x": x},
                every=True,
            )
        )

    def points(who: str, mark: Json) -> Json:
        return chart.layer(
            {"type": "point", "size": 80, "opacity": 1, **mark},
            [one for one in values if one["who"] == who],
            {"x": x, "y": y, "tooltip": chart.tooltip(arm="Arm", told="Value")}
            | ({} if who == "theirs" else {"color": chart.colour(arms)}),
        )

    layers += [
        points("noised", {"shape": "diamond", "filled": True, "opacity": 0.55}),
        points("ours", {"shape": "square", "filled": True}),
        points("theirs", {"shape": "circle", "filled": False, "color": var("ink")}),
    ]
    caption = f"Filled: ours; hollow circles: {paper.short}."
    if any(one["who"] == "noised" for one in values):
        caption += " Diamonds: ours on noised test images."
    if lines:
        caption += " Dashed: one answer for all images."
    return Figure(
        name="papers-figures",
        title=f"{title}, published and ours",
        alternative=f"{title} by arm: "
        + "; ".join(f"{name} theirs {theirs}, ours {ours}" for name, theirs, ours, _ in rows)
        + ".",
        caption=caption,
        view=chart.view(layers, arms, Rows(step=24, always=0, arms={a.name: 1 for a in arms})),
        columns=("Arm", "Published", "Ours", "Ours, noised test images"),
        rows=rows,
        data=pd.DataFrame(rows, columns=["arm", "published", "ours", "ours_noised_test"]),
    )


def _under_ceiling(paper: Paper, arms: Sequence[Arm]) -> Figure | None:
    """Accuracy against the scale of the shift, with the best that any model can reach."""
    if not paper.ceiling or paper.majority_train is None:
        return None
    values: list[Json] = []
    for row in paper.rows:
        if row.scale is not None:
            for images in ("train", "test"):
                values.append(_point("theirs", row.title, images, row.scale, row.values))
    for arm in arms:
        scale = papers.scale_of(arm)
        if scale is None or not papers.constant_images(arm):
            continue
        # Side by side where two arms have the same scale.
        shown = scale * (1.09 if arm.scheme == "pooled" else 1 / 1.09)
        for images in _SHAPES:
            accuracy = papers.at_half(arm, images, "accuracy")
            if accuracy is not None:
                found = {f"{images}_accuracy": accuracy}
                values.append(_point("ours", arm.name, images, shown, found) | {"arm": arm.name})
    shares = {"theirs": paper.majority_train}
    ours = papers.majority(arms, "train")
    if ours is not None and abs(ours - paper.majority_train) > 0.002:
        shares["ours"] = ours
    grid = [0.5 * 16 ** (step / _GRID) for step in range(_GRID + 1)]
    lines = [
        {"scale": at, "value": papers.ceiling(at, share), "who": who}
        for who, share in shares.items()
        for at in grid
    ]
    low, high = chart.limits([one["value"] for one in [*values, *lines]] + list(shares.values()))
    x = {
        "field": "scale",
        "type": "quantitative",
        "title": "scale of the shift (range of an image: 1)",
        "scale": {"type": "log", "domain": [0.5, 8]},
        "axis": {"values": [0.5, 1, 2, 4, 8], "format": "~g", "grid": False},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": "accuracy",
        "scale": {"domain": [low, high], "zero": False, "nice": False},
        "axis": {"format": ".2f", "tickCount": 5, "domain": False, "ticks": False},
    }
    shape = {
        "field": "images",
        "type": "nominal",
        "scale": {"domain": list(_SHAPES), "range": list(_SHAPES.values())},
        "legend": None,
    }
    told = chart.tooltip(name="What", told="Accuracy")
    layers = [
        chart.layer(
            {"type": "line", "strokeWidth": 1.8, "color": var("ink")},
            lines,
            {"x": x, "y": y, "detail": {"field": "who", "type": "nominal"}},
            every=True,
        ),
        chart.layer(
            {"type": "text", "align": "right", "dy": -13, "dx": -2},
            [
                {"scale": 8, "value": papers.ceiling(8, share), "who": who}
                for who, share in shares.items()
                if len(shares) > 1
            ],
            {"x": x, "y": y, "text": {"field": "who", "type": "nominal"}},
            every=True,
        ),
        chart.layer(
            {"type": "rule", "strokeDash": [4, 4], "color": var("muted")},
            [{"value": share} for share in shares.values()],
            {"y": y},
            every=True,
        ),
        chart.layer(
            {"type": "point", "filled": True, "size": 75, "opacity": 0.9},
            [one for one in values if "arm" in one],
            {"x": x, "y": y, "shape": shape, "color": chart.colour(arms), "tooltip": told},
        ),
        chart.layer(
            {"type": "point", "filled": False, "size": 75, "opacity": 1, "color": var("ink")},
            [one for one in values if "arm" not in one],
            {"x": x, "y": y, "shape": shape, "tooltip": told},
            every=True,
        ),
    ]
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
        view=chart.view(layers, arms, _HEIGHT),
        columns=("What", "Images", "Accuracy"),
        rows=rows,
        data=pd.DataFrame(values + lines),
    )


def _point(who: str, name: str, images: str, scale: float, values: dict[str, float]) -> Json:
    value = values[f"{images}_accuracy"]
    shown = {"name": f"{name}, {papers.SETS[images].lower()}", "told": fixed(value)}
    return {"who": who, "images": images, "scale": scale, "value": value, **shown}


def _curves(arms: Sequence[Arm]) -> list[Figure]:
    """Accuracy by round on every set, a panel per arm that recorded it."""
    found = {
        arm.name: {name: c for name in _SHAPES if (c := papers.curve(arm, name))} for arm in arms
    }
    shared = chart.limits(
        [v for curves in found.values() for curve in curves.values() for v in curve.values()]
    )
    return [_curve(arm, found[arm.name], shared, arms) for arm in arms if found[arm.name]]


def _curve(
    arm: Arm,
    curves: dict[str, dict[int, float]],
    limits: tuple[float, float],
    arms: Sequence[Arm],
) -> Figure:
    rounds = sorted({at for curve in curves.values() for at in curve})
    points = [
        {"round": at, "value": curve[at], "images": name, "told": fixed(curve[at])}
        for name, curve in curves.items()
        for at in curve
    ]
    x = {
        "field": "round",
        "type": "quantitative",
        "title": "round",
        "scale": {"domain": [0, max(1, *rounds)], "nice": False},
        "axis": {"grid": False, "format": "d"}
        | ({"values": rounds} if len(rounds) <= 12 else {"tickMinStep": 1, "tickCount": 6}),
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": "accuracy",
        "scale": {"domain": list(limits), "zero": False, "nice": False},
        "axis": {"format": ".2f", "tickCount": 4, "domain": False, "ticks": False},
    }
    dash = {
        "field": "images",
        "type": "nominal",
        "scale": {"domain": list(_DASHES), "range": list(_DASHES.values())},
        "legend": None,
    }
    layers = [
        chart.layer(
            {"type": "line", "color": arm_colour(arm.number), "strokeWidth": 2},
            points,
            {"x": x, "y": y, "strokeDash": dash, "tooltip": chart.tooltip(told="Accuracy")},
            every=True,
        )
    ]
    last = {name: fixed(curve[max(curve)]) for name, curve in curves.items()}
    told = "; ".join(f"{papers.SETS[name].lower()} {value}" for name, value in last.items())
    return Figure(
        name=f"papers-curve-{arm.name}",
        title=arm.name,
        alternative=f"{arm.name}: accuracy by round, at the end {told}.",
        caption="",
        view=chart.view(layers, arms, 150),
        columns=("Round", *(papers.SETS[name] for name in curves)),
        rows=[(str(at), *(fixed(curve.get(at)) for curve in curves.values())) for at in rounds],
        data=pd.DataFrame(points).assign(arm=arm.name),
        arm=arm.name,
    )
