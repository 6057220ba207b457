"""Drawings of a paper's figures beside ours: by arm, and over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedmed.report import chart, papers, papers_ceiling
from fedmed.report.arms import Arm
from fedmed.report.chart import Figure, Rows
from fedmed.report.palette import arm_colour, var
from fedmed.report.published import Paper
from fedmed.report.reading import Json
from fedmed.report.words import fixed

_DASHES: Final[dict[str, list[int]]] = {"train": [1, 0], "test": [6, 4], "noised": [2, 2]}


def figures(name: str, arms: Sequence[Arm]) -> list[Figure | None]:
    """All drawings; their names begin with ``papers-``."""
    paper = papers.paper_of(name)
    if paper is None or not arms:
        return []
    return [_by_arm(paper, arms), papers_ceiling.figure(paper, arms), *_curves(arms)]


def _by_arm(paper: Paper, arms: Sequence[Arm]) -> Figure | None:
    """The paper's main column, a row per arm: theirs hollow, ours filled, the majority's line."""
    key = "test_accuracy" if "test_accuracy" in paper.columns else "test_auroc"
    title = paper.columns[key]
    values_by_arm = [_beside(paper, arm, key) for arm in arms]
    values = [
        {
            "row": chart.row_name(place, arm),
            "arm": arm.name,
            "who": who,
            "value": value,
            "told": f"{who}: {fixed(value)}",
        }
        for place, (arm, beside) in enumerate(zip(arms, values_by_arm, strict=True))
        for who, value in beside.items()
        if value is not None
    ]
    if not any(one["who"] == "ours" for one in values):
        return None
    rows: list[tuple[str, ...]] = [
        (arm.name, *(fixed(value) for value in beside.values()))
        for arm, beside in zip(arms, values_by_arm, strict=True)
    ]
    majority = papers.majority(arms, "test") if key == "test_accuracy" else None
    lines = [v for v in (majority, paper.majority_test) if v is not None and key == "test_accuracy"]
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
        view=chart.view(
            _marks(values, lines, title, arms),
            arms,
            Rows(step=24, always=0, arms={a.name: 1 for a in arms}),
        ),
        columns=("Arm", "Published", "Ours", "Ours, noised test images"),
        rows=rows,
        data=pd.DataFrame(rows, columns=["arm", "published", "ours", "ours_noised_test"]),
    )


def _beside(paper: Paper, arm: Arm, key: str) -> dict[str, float | None]:
    """One number of an arm, as it was published and as we found it."""
    row = papers.row_of(paper, arm)
    return {
        "theirs": None if row is None else row.values.get(key),
        "ours": papers.OURS[key](arm),
        "noised": papers.at_half(arm, "noised", "accuracy") if key == "test_accuracy" else None,
    }


def _marks(
    values: Sequence[Json], lines: Sequence[float], title: str, arms: Sequence[Arm]
) -> list[Json]:
    """A point for each number, over dashed lines."""
    limits = chart.limits([one["value"] for one in values] + list(lines))
    x = chart.number_channel("value", title.lower().replace("auroc", "AUROC"), limits, 5)
    y = chart.row_channel()
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

    return [
        *layers,
        points("noised", {"shape": "diamond", "filled": True, "opacity": 0.55}),
        points("ours", {"shape": "square", "filled": True}),
        points("theirs", {"shape": "circle", "filled": False, "color": var("ink")}),
    ]


def _curves(arms: Sequence[Arm]) -> list[Figure]:
    """Accuracy by round on every set, a panel per arm that recorded it."""
    curves_by_arm = {
        arm.name: {name: c for name in _DASHES if (c := papers.curve(arm, name))} for arm in arms
    }
    shared = chart.limits(
        [
            v
            for curves in curves_by_arm.values()
            for curve in curves.values()
            for v in curve.values()
        ]
    )
    return [
        _curve(arm, curves_by_arm[arm.name], shared, arms)
        for arm in arms
        if curves_by_arm[arm.name]
    ]


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
    y = chart.number_channel("value", "accuracy", limits, 4)
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
