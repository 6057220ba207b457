"""What every round spent, as the histories recorded it: epsilon by unit, bytes, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedmed.report import chart
from fedmed.report.arms import Arm
from fedmed.report.chart import Figure
from fedmed.report.epsilon import UNITS
from fedmed.report.learning import round_channel
from fedmed.report.reading import Json, number
from fedmed.report.words import epsilon_text

_HEIGHT: Final = 170
_WIDTH: Final = 2.2  # of a line; one that lies under another is wider by twice that
_COLUMNS: Final = ("seconds", "bytes_sent", "bytes_received", "epsilon_spent")


def curve(arm: Arm) -> dict[int, float]:
    """Epsilon spent after each recorded round, the largest over seeds; empty where none was."""
    epsilons: dict[int, float] = {}
    if arm.epsilon is None:
        return epsilons
    for entry in (entry for run in arm.runs for entry in run.history):
        spent = number(entry.get("epsilon_spent"))
        if spent is not None:
            at = int(entry["round"])
            epsilons[at] = max(spent, epsilons.get(at, 0.0))
    return dict(sorted(epsilons.items()))


def panels(arms: Sequence[Arm]) -> list[Figure]:
    """A panel per unit of the arms whose epsilon grows with the rounds."""
    growing = [(arm, epsilons) for arm in arms if len(set((epsilons := curve(arm)).values())) > 1]
    return [
        _panel(unit, chosen, arms)
        for unit in UNITS
        if (chosen := [(arm, epsilons) for arm, epsilons in growing if arm.unit == unit])
    ]


def rounds(arms: Sequence[Arm]) -> pd.DataFrame:
    """Every round of every run: seconds, bytes to and from hospitals, epsilon spent so far."""
    return pd.DataFrame(
        [
            {
                "arm": arm.name,
                "seed": run.seed,
                "unit": arm.unit,
                "round": entry["round"],
                **{name: number(entry.get(name)) for name in _COLUMNS},
            }
            for arm in arms
            for run in arm.runs
            for entry in run.history
        ]
    )


def _panel(
    unit: str, chosen: Sequence[tuple[Arm, dict[int, float]]], arms: Sequence[Arm]
) -> Figure:
    said = "; ".join(
        f"{arm.name} {epsilon_text(epsilons.get(1))} after round 1 and "
        f"{epsilon_text(epsilons[max(epsilons)])} after round {max(epsilons)}"
        for arm, epsilons in chosen
    )
    return Figure(
        name=f"cost-epsilon-{unit}",
        title=f"Epsilon per {unit} by round",
        alternative=f"Epsilon per {unit} spent after each round: {said}.",
        caption=_relations([arm for arm, _ in chosen]),
        view=chart.view(_layers(unit, chosen, arms), arms, _HEIGHT),
        columns=("Arm", "Round", f"Epsilon per {unit}"),
        rows=[
            (arm.name, str(at), epsilon_text(value))
            for arm, epsilons in chosen
            for at, value in epsilons.items()
        ],
        data=pd.DataFrame(
            [
                {"arm": arm.name, "unit": unit, "round": at, "epsilon": value}
                for arm, epsilons in chosen
                for at, value in epsilons.items()
            ]
        ),
    )


def _relations(arms: Sequence[Arm]) -> str:
    """Which arms are compared at another epsilon than the one that the rounds add up to."""
    moved = [
        f"{arm.name} {epsilon_text(arm.epsilon)}, {epsilon_text(arm.axis_epsilon)} if its data are "
        "replaced"
        for arm in arms
        if arm.epsilon != arm.axis_epsilon
    ]
    return f"By each arm's own neighbouring relation: {'; '.join(moved)}." if moved else ""


def _layers(
    unit: str, chosen: Sequence[tuple[Arm, dict[int, float]]], arms: Sequence[Arm]
) -> list[Json]:
    """A line per arm with its points; of equal lines the earlier are wider and pale."""
    x = round_channel(max(max(epsilons) for _, epsilons in chosen))
    y = {
        "field": "epsilon",
        "type": "quantitative",
        "title": f"epsilon per {unit}",
        "scale": {"zero": True},
        "axis": {"tickCount": 5, "domain": False, "ticks": False},
    }
    layers = []
    for place, (arm, epsilons) in enumerate(chosen, start=1):
        under = sum(curve(other) == epsilons for other, _ in chosen[place:])
        layers.append(
            chart.layer(
                {
                    "type": "line",
                    "strokeWidth": _WIDTH * (1 + 2 * under),
                    "opacity": 0.45 if under else 1.0,
                },
                _points(arm, epsilons),
                {"x": x, "y": y, "color": chart.colour(arms)},
            )
        )
    points = chart.layer(
        {"type": "point", "filled": True, "size": 46, "opacity": 1},
        [point for arm, epsilons in chosen for point in _points(arm, epsilons)],
        {
            "x": x,
            "y": y,
            "color": chart.colour(arms),
            "shape": chart.shape(arms),
            "tooltip": chart.tooltip(arm="Arm", at="After round", told="Epsilon"),
        },
    )
    return [*layers, points]


def _points(arm: Arm, epsilons: dict[int, float]) -> list[Json]:
    return [
        {
            "arm": arm.name,
            "round": at,
            "epsilon": value,
            "at": str(at),
            "told": f"{epsilon_text(value)} per {arm.unit}",
        }
        for at, value in epsilons.items()
    ]
