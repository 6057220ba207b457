"""comparison.json as the report reads it: what it says, and when it is not believed."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed.report.arms import reference, summarise
from fedmed.report.evidence import Estimate, estimate, read
from fedmed.report.groups import change
from fedmed.report.load import load


@pytest.fixture
def two(make_runs: ModuleType, tmp_path: Path) -> Path:
    """Two arms at two seeds, not compared yet."""
    for arm in ("none", "dp-sgd"):
        for seed in (0, 1):
            make_runs.write_arm(tmp_path, arm, seed)
    make_runs.write_about(tmp_path, ["none", "dp-sgd"], [0, 1])
    return tmp_path


def test_numbers_come_from_the_comparison_where_there_is_one(
    make_runs: ModuleType, two: Path
) -> None:
    alone = {arm.name: arm for arm in summarise(load(two))}["dp-sgd"]
    given = make_runs.write_comparison(two)
    entry = given["by_arm"]["dp-sgd"]
    entry["metrics"]["auroc"] = {"value": 0.7, "low": 0.6, "high": 0.8, "seeds": 2}
    entry["gaps"]["sex"]["auroc_gap"]["value"] = 0.123
    make_runs.write(two / "comparison.json", given)
    arms = {arm.name: arm for arm in summarise(load(two))}
    arm = arms["dp-sgd"]
    assert alone.auroc != 0.7
    assert (arm.auroc, arm.low, arm.high) == (0.7, 0.6, 0.8)
    assert arm.measure("auroc").value == 0.7
    assert arm.gap("sex", "auroc_gap").value == 0.123
    row = next(r for r in given["differences"] if r["quantity"] == "fnr_gap")
    found = change(arm, arms["none"], row["attribute"], "fnr_gap")
    assert found is not None
    assert found.change.value == row["difference"]["value"]
    assert found.p_holm == row["p_holm"]
    assert found.change.outer == (row["difference"]["both_low"], row["difference"]["both_high"])


def test_without_a_comparison_numbers_are_means_over_seeds(two: Path) -> None:
    arm = {arm.name: arm for arm in summarise(load(two))}["dp-sgd"]
    metrics = [
        json.loads((two / f"dp-sgd/seed-{seed}/result.json").read_text())["metrics"]
        for seed in (0, 1)
    ]
    women = [one["groups"]["sex"][0] for one in metrics]
    group = arm.groups("sex")[0]
    assert group.name == women[0]["group"]
    assert group.metrics["auroc"].value == pytest.approx(sum(w["auroc"] for w in women) / 2)
    lows = [w["intervals"]["auroc"][0] for w in women]
    assert group.metrics["auroc"].low == pytest.approx(sum(lows) / 2)
    assert group.detectable["auroc"] == pytest.approx(
        sum(w["minimum_detectable_gap"]["auroc"] for w in women) / 2
    )
    base = reference(summarise(load(two)))
    assert base is not None
    found = change(arm, base, "sex", "auroc_gap")
    assert found is not None
    assert found.change.low is None
    assert found.change.excludes_zero is None


def test_other_predictions_than_were_compared_are_noticed(make_runs: ModuleType, two: Path) -> None:
    make_runs.write_comparison(two)
    assert load(two).evidence is not None
    table = two / "dp-sgd/seed-1/predictions.parquet"
    table.write_bytes(table.read_bytes() + b"x")
    found = load(two)
    assert found.evidence is None
    assert any("other predictions of dp-sgd/seed-1" in problem for problem in found.problems)
    table.unlink()  # nothing to check against: the comparison stands
    assert load(two).evidence is not None


def test_a_run_that_finished_later_is_named(make_runs: ModuleType, two: Path) -> None:
    make_runs.write_comparison(two)
    make_runs.write_arm(two, "dp-sgd", 2)
    found = load(two)
    assert found.evidence is not None
    assert any("does not hold dp-sgd/seed-2" in problem for problem in found.problems)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "{}", '{"by_arm": 3, "differences": [1], "inputs": []}', "NaN"]
)
def test_a_damaged_comparison_changes_nothing(two: Path, content: str) -> None:
    before = [arm.auroc for arm in summarise(load(two))]
    (two / "comparison.json").write_text(content)
    assert [arm.auroc for arm in summarise(load(two))] == before


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    given: dict[str, Any] = {"value": "0.7", "low": True, "high": float("inf"), "seeds": 2}
    assert estimate(given) == Estimate(seeds=2)
    (tmp_path / "comparison.json").write_text(
        '{"by_arm": {"a": {"metrics": {"auroc": {"value": NaN, "low": 0.1}}}}}'
    )
    found = read(tmp_path, [], [])
    assert found is not None
    assert found.estimate("a", "metrics", "auroc") is None


def test_the_baseline_of_the_comparison_is_the_reference(make_runs: ModuleType, two: Path) -> None:
    make_runs.write_comparison(two, baseline="dp-sgd")
    base = reference(summarise(load(two)))
    assert base is not None
    assert base.name == "dp-sgd"


@pytest.mark.parametrize(
    ("low", "high", "both", "excludes"),
    [
        (0.1, 0.3, (None, None), True),
        (-0.1, 0.3, (None, None), False),
        (0.1, 0.3, (-0.05, 0.4), False),  # the luck of training counts too
        (None, None, (None, None), None),
        (-0.3, -0.1, (-0.4, -0.01), True),
    ],
)
def test_zero_is_judged_by_the_widest_interval(
    low: float | None, high: float | None, both: tuple[Any, Any], excludes: bool | None
) -> None:
    found = Estimate(value=0.2, low=low, high=high, both_low=both[0], both_high=both[1])
    assert found.excludes_zero is excludes
