"""What each arm cost: time, bytes where they were recorded, and epsilon per round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from fedmed.config import ARMS
from fedmed.report import chart, spending
from fedmed.report.arms import Arm
from fedmed.report.chart import Figure, Rows
from fedmed.report.load import MEGABYTE
from fedmed.report.reading import Json, mean, number
from fedmed.report.words import epsilon_text, fixed, thousands

_BYTES: Final = ("bytes_sent", "bytes_received", "bytes")


def cost(arm: Arm) -> dict[str, Any]:
    """Seconds by purpose, memory and traffic in MB, and epsilon; means over seeds.

    `sent` (to hospitals) and `received` (from them) are of one round. `per_round` is the average;
    epsilon does not grow in equal steps. It is None where noise enters once, before the first
    round. `first` is what the first round spent, where it was recorded.
    """
    total, other = arm.cost("seconds", "total"), arm.cost("seconds", "other")
    memory, rounds, traffic = arm.cost("peak_memory_bytes"), arm.cost("rounds"), _traffic(arm)
    once = arm.kind in ARMS and ARMS[arm.kind].once
    per_round = None
    if arm.epsilon is not None and rounds and not once:
        per_round = arm.epsilon / rounds
    return {
        "arm": arm.name,
        "rounds": rounds,
        "total": total,
        "training": arm.cost("seconds", "training"),
        "evaluation": arm.cost("seconds", "evaluation"),
        "other": other,
        "share": other / total if total and other is not None else None,
        "memory": None if memory is None else memory / MEGABYTE,
        "sent": _each_round(arm, "bytes_sent"),
        "received": _each_round(arm, "bytes_received"),
        "traffic": None if traffic is None else traffic / MEGABYTE,
        "unit": arm.unit,
        "epsilon": arm.epsilon,
        "per_round": per_round,
        "first": spending.curve(arm).get(1) if per_round is not None else None,
        "once": once and arm.epsilon is not None,
    }


def figure(arms: Sequence[Arm]) -> Figure | None:
    """Seconds of each arm, training apart from the rest; None where no time was recorded."""
    costs = [(arm, cost(arm)) for arm in arms]
    timed = [(arm, row) for arm, row in costs if row["total"] is not None]
    if not timed:
        return None
    said = ", ".join(f"{arm.name} {fixed(row['total'], digits=1)} s" for arm, row in timed)
    return Figure(
        name="cost",
        title="Time of each arm",
        alternative=f"Seconds by arm, mean over seeds: {said}.",
        caption="",
        view=chart.view(
            _layers(_values(timed), arms),
            arms,
            Rows(step=26, always=0, arms={arm.name: 1 for arm, _ in timed}),
        ),
        columns=("Arm", "Seconds", "Training, s"),
        rows=[
            (arm.name, fixed(row["total"], digits=1), fixed(row["training"], digits=1))
            for arm, row in timed
        ],
        data=pd.DataFrame([row for _, row in costs]),
    )


def _values(timed: Sequence[tuple[Arm, dict[str, Any]]]) -> list[Json]:
    """One bar per arm: where training ends and where the run ends."""
    values = []
    for place, (arm, row) in enumerate(timed):
        training = min(row["training"] or 0.0, row["total"])
        values.append(
            {
                "row": chart.row_name(place, arm),
                "arm": arm.name,
                "zero": 0.0,
                "training": training,
                "total": row["total"],
                "text": f"{thousands(row['total'])} s",
                "told": f"{fixed(row['total'], digits=1)} s, "
                f"training {fixed(training, digits=1)} s",
            }
        )
    return values


def _layers(values: Sequence[Json], arms: Sequence[Arm]) -> list[Json]:
    """Training, the rest behind it, and the seconds written beside both."""
    y = chart.row_channel()
    told = chart.tooltip(arm="Arm", told="Time")

    def bar(start: str, end: str, opacity: float) -> Json:
        return chart.layer(
            {"type": "bar", "opacity": opacity, "height": {"band": 0.62}},
            values,
            {
                "y": y,
                "x": {
                    "field": start,
                    "type": "quantitative",
                    "title": "seconds (dark: training)",
                    "axis": {"tickCount": 5, "domain": False, "ticks": False},
                },
                "x2": {"field": end},
                "color": chart.colour(arms),
                "tooltip": told,
            },
        )

    text = chart.layer(
        {"type": "text", "align": "left", "dx": 5, "fontSize": 11.5},
        values,
        {
            "y": y,
            "x": {"field": "total", "type": "quantitative"},
            "text": {"field": "text", "type": "nominal"},
        },
    )
    return [bar("zero", "training", 1.0), bar("training", "total", 0.45), text]


def told(row: dict[str, Any]) -> str:
    """Epsilon per round in words."""
    if row["epsilon"] is None:
        return "no claim"
    if row["once"]:
        return f"{epsilon_text(row['epsilon'])} per {row['unit']}, once, before round 1"
    if row["per_round"] is None:
        return f"{epsilon_text(row['epsilon'])} per {row['unit']} in all"
    if row["first"] is not None:
        spent = f"{epsilon_text(row['first'])} in round 1"
        return f"{spent}, {epsilon_text(row['epsilon'])} per {row['unit']} in all"
    return f"{epsilon_text(row['per_round'])} per {row['unit']} on average"


def _traffic(arm: Arm) -> float | None:
    """Bytes moved in a whole run, where result or rounds recorded them; mean over seeds."""
    return mean(_bytes(run.result or {}, run.history) for run in arm.runs)


def _each_round(arm: Arm, key: str) -> float | None:
    """MB of one round, mean over rounds and seeds; round 0 trains nothing."""
    sizes = [entry.get(key) for run in arm.runs for entry in run.history if entry["round"] > 0]
    average = mean(sizes)
    return None if average is None else average / MEGABYTE


def _bytes(result: Json, history: Sequence[Json]) -> float | None:
    for source in ([result], history):
        sizes = [value for entry in source for key in _BYTES if (value := number(entry.get(key)))]
        if sizes:
            return sum(sizes)
    return None
