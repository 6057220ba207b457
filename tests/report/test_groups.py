"""Figures of groups: what is written where there are too few, and beside each group."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from fedmed.report.arms import Arm, summarise
from fedmed.report.groups import attributes, change_figure, metric_figure
from fedmed.report.load import load
from fedmed.report.sections import gap_tables


@pytest.fixture(scope="module")
def arms(compared: Path) -> list[Arm]:
    return summarise(load(compared))


def values(view: dict[str, Any], mark: str) -> list[list[dict[str, Any]]]:
    return [layer["data"]["values"] for layer in view["layer"] if layer["mark"]["type"] == mark]


def test_a_row_per_group_and_arm_with_the_detectable_gap(arms: list[Arm]) -> None:
    figure = metric_figure("sex", "auroc", arms)
    assert figure is not None
    points = values(figure.view, "point")[0]
    assert [point["arm"] for point in points] == [arm.name for arm in arms] * 2
    headings = [row["heading"] for row in values(figure.view, "text")[0]]
    women = arms[0].groups("sex")[0]
    assert women.name == "F"
    assert headings[0].startswith(f"women: {women.images:.0f} images, ")
    smallest = min(arm.groups("sex")[0].detectable["auroc"] for arm in arms)
    beneath = values(figure.view, "text")[1]  # on a line of its own, or a phone cuts it
    assert beneath[0]["heading"].startswith(f"detectable gap {smallest:.2f}")
    rows = [row["row"] for row in [*points, *values(figure.view, "text")[0], *beneath]]
    assert len(set(rows)) == len(rows) == 18  # no two share a line
    assert figure.view["usermeta"]["rows"] == {
        "step": 18,
        "always": 4,
        "arms": {arm.name: 2 for arm in arms},
    }


def test_too_few_is_written_out_for_one_arm_and_for_all(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    def without(metrics: dict[str, Any], group: int) -> dict[str, Any]:
        row = metrics["groups"]["sex"][group]
        row |= {"auroc": None, "fnr": None, "note": "too few", "intervals": {}}
        return metrics

    for arm in ("none", "dp-sgd"):
        metrics = without(make_runs.enrich(make_runs.evaluate(make_runs.table(2.0, 0))), 0)
        if arm == "dp-sgd":
            metrics = without(metrics, 1)
        make_runs.write_arm(tmp_path, arm, 0, metrics=metrics)
    arms = summarise(load(tmp_path))
    figure = metric_figure("sex", "auroc", arms)
    assert figure is not None
    headings, _, numbers, absent = values(figure.view, "text")
    assert headings[0]["heading"].endswith(": too few")
    assert [row["arm"] for row in numbers] == ["none"]
    assert [(row["arm"], row["absent"]) for row in absent] == [("dp-sgd", "too few")]
    assert "too few" in figure.alternative
    assert figure.rows[0][4] == "too few"


def test_changes_stand_beside_what_could_be_seen(arms: list[Arm]) -> None:
    figure = change_figure("sex", arms)
    assert figure is not None
    assert "none" not in set(figure.data["arm"])
    bands = values(figure.view, "bar")[0]
    assert (bands[0]["band_low"], bands[0]["band_high"]) == (-0.05, 0.05)
    row = figure.data.iloc[0]
    evidence = arms[0].evidence
    assert evidence is not None
    found = evidence.difference(row["arm"], "gap", row["quantity"], "sex")
    assert found is not None
    assert row["change"] == found.change.value
    assert row["change"] == pytest.approx(row["value"] - row["baseline_value"])
    assert row["p_holm"] == found.p_holm


def test_attributes_of_later_versions_are_shown_too(arms: list[Arm]) -> None:
    assert attributes(arms)[:3] == ["sex", "age", "sex_age"]
    figure = metric_figure("sex_age", "fnr", arms)
    assert figure is not None
    assert figure.title == "False negative rate by sex and age band"


def test_no_threshold_is_said(make_runs: ModuleType, tmp_path: Path) -> None:
    metrics = make_runs.enrich(make_runs.evaluate(make_runs.table(2.0, 0)))
    for row in metrics["groups"]["sex"][:1]:
        row |= {"fnr": None, "note": None}
    make_runs.write_arm(tmp_path, "none", 0, metrics=metrics)
    figure = metric_figure("sex", "fnr", summarise(load(tmp_path)))
    assert figure is not None
    assert "no threshold" in figure.alternative


def signed_gap(make_runs: ModuleType, folder: Path, before: float, after: float) -> list[Arm]:
    """Two arms whose accuracy gaps between the sexes are these, women minus men."""
    for name in ("none", "dp-sgd"):
        make_runs.write_arm(folder, name, 0)
    given = make_runs.write_comparison(folder)
    for row in given["differences"]:
        if (row["attribute"], row["quantity"]) == ("sex", "accuracy_gap"):
            size = after - before
            row |= {"baseline_value": before, "value": after}
            row["difference"] = {"value": size, "low": size - 0.03, "high": size + 0.01}
    make_runs.write(folder / "comparison.json", given)
    return summarise(load(folder))


@pytest.mark.parametrize(
    ("before", "after", "drawn", "low", "high"),
    [
        (0.02, 0.05, 0.03, 0.0, 0.04),
        (0.05, 0.02, -0.03, -0.06, -0.02),
        (-0.05, -0.02, -0.03, -0.04, 0.0),  # signed +0.03, and yet the gap is smaller
        (-0.02, -0.05, 0.03, 0.02, 0.06),
        (-0.02, 0.05, 0.03, None, None),  # it changed sides: sizes have no interval
        (0.05, -0.02, -0.03, None, None),
    ],
)
def test_a_larger_gap_is_drawn_on_the_right_whatever_its_sign(
    make_runs: ModuleType,
    tmp_path: Path,
    before: float,
    after: float,
    drawn: float,
    low: float | None,
    high: float | None,
) -> None:
    arms = signed_gap(make_runs, tmp_path, before, after)
    figure = change_figure("sex", arms)
    assert figure is not None
    row = figure.data.set_index("quantity").loc["accuracy_gap"]
    assert row["change"] == pytest.approx(drawn)
    ends = [None if pd.isna(row[end]) else row[end] for end in ("low", "high")]
    wanted = [None if end is None else pytest.approx(end, abs=1e-12) for end in (low, high)]
    assert ends == wanted
    assert (row["baseline_value"], row["value"]) == (before, after)
    told = next(line for line in figure.rows if line[0] == "Accuracy gap")[4]
    assert told.endswith("turned") is (before * after < 0)


def test_an_accuracy_gap_has_the_interval_of_the_number_it_stands_beside(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    """Of age bands a size, counted in the direction of the group that stands out."""
    for seed, (value, ends) in enumerate(((-0.10, [-0.16, -0.02]), (0.06, [0.01, 0.12]))):
        metrics = make_runs.enrich(make_runs.evaluate(make_runs.table(2.0, seed)))
        gaps = metrics["fairness"]["age"]
        gaps |= {"accuracy_gap": value, "accuracy_gaps": {"0-40": value, "80+": -value / 3}}
        gaps["intervals"]["accuracy_gap"] = ends
        make_runs.write_arm(tmp_path, "none", seed, metrics=metrics)
    arms = summarise(load(tmp_path))
    row = next(t for t in gap_tables(arms, None) if t["attribute"] == "age")["rows"][0]
    found = row["accuracy_gap"]
    assert found.value == pytest.approx(0.08)
    assert (found.low, found.high) == (pytest.approx(0.015), pytest.approx(0.14))
    assert (
        row["accuracy_gap_group"] == "patients of 0 to 40 below the others"
    )  # -0.02 on average, against 0.007
    make_runs.write_comparison(tmp_path)
    found = summarise(load(tmp_path))[0].gap("age", "accuracy_gap")
    assert found.low is not None
    assert found.low <= (found.value or 0.0) <= (found.high or 0.0)
