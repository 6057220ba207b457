"""Figures of groups: what is written where there are too few, and beside each group."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed.report.arms import Arm, summarise
from fedmed.report.groups import attributes, change_figure, metric_figure
from fedmed.report.load import load


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
    assert headings[0].startswith(f"{women.name}: {women.images:.0f} images, ")
    smallest = min(arm.groups("sex")[0].detectable["auroc"] for arm in arms)
    assert f"detectable gap {smallest:.2f}" in headings[0]
    rows = [row["row"] for row in [*points, *values(figure.view, "text")[0]]]
    assert len(set(rows)) == len(rows) == 16  # no two share a line
    assert figure.view["usermeta"]["rows"] == {
        "step": 18,
        "always": 2,
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
    headings, numbers, absent = values(figure.view, "text")
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
