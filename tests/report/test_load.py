import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from fedmed.base.errors import UserError
from fedmed.report import build, summary_table, write_summary
from fedmed.report.arms import reference, summarise
from fedmed.report.load import _history, load
from fedmed.report.sections import correlations, measures, notes, targets


def test_one_row_per_arm_and_seed_in_the_experiments_order(
    seven: Path, make_runs: ModuleType
) -> None:
    table = summary_table(seven)
    assert list(zip(table["arm"], table["seed"], strict=True)) == [
        (arm, seed) for arm in make_runs.ARMS for seed in (0, 1)
    ]
    row = table.iloc[4]
    metrics = json.loads((seven / "dp-sgd/seed-0/result.json").read_text())["metrics"]
    assert (row["arm"], row["unit"], row["epsilon"], row["delta"]) == ("dp-sgd", "patient", 8, 1e-5)
    assert row["auroc"] == metrics["auroc"]
    assert [row["auroc_low"], row["auroc_high"]] == metrics["auroc_interval"]
    assert row["worst_sex_auroc"] == metrics["fairness"]["sex"]["worst_auroc"]
    age = metrics["fairness"]["age"]
    assert row["pearson_size_auroc_age"] == age["pearson_size_auroc"]
    assert row["equalised_odds_difference_age"] == age["equalised_odds_difference"]
    assert row["accuracy_gap_sex"] == metrics["fairness"]["sex"]["accuracy_gap"]
    assert (row["seconds"], row["peak_memory_mb"]) == (31.4, 1250.0)


def test_the_csv_holds_the_table(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.comparison(tmp_path, seeds=(3,))
    path = write_summary(tmp_path)
    assert path == tmp_path / "summary.csv"
    found = pd.read_csv(path)
    assert found["seed"].tolist() == [3] * 7
    assert found["epsilon"].isna().tolist() == [True, False, False, False, False, True, True]
    assert found.loc[2, "auroc"] == pytest.approx(summary_table(tmp_path).loc[2, "auroc"])


def test_the_summary_the_report_and_the_terminal_have_one_interval(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    """A run's own resamples are others than those of the comparison: 0.769 beside 0.761."""
    make_runs.write_arm(tmp_path, "none", 0)
    for seed in (0, 1):
        make_runs.write_arm(tmp_path, "dp-sgd", seed)
    make_runs.write_about(tmp_path, ["none", "dp-sgd"], [0, 1], runs=[])
    own = summary_table(tmp_path)
    given = make_runs.write_comparison(tmp_path)
    told = given["by_arm"]["none"]["metrics"]["auroc"]
    assert own.loc[0, "auroc_low"] != told["low"]
    table = summary_table(tmp_path)
    assert [table.loc[0, "auroc_low"], table.loc[0, "auroc_high"]] == [told["low"], told["high"]]
    (none, _) = summarise(load(tmp_path))
    assert (none.low, none.high) == (told["low"], told["high"])
    # Of several seeds the comparison has the interval of their mean, which is no run's.
    assert table.loc[1:, "auroc_low"].tolist() == own.loc[1:, "auroc_low"].tolist()


def test_arms_are_means_over_their_seeds(seven: Path) -> None:
    arms = {arm.name: arm for arm in summarise(load(seven))}
    table = summary_table(seven).groupby("arm")["auroc"].mean()
    assert arms["dp-sgd"].auroc == pytest.approx(table["dp-sgd"])
    base = reference(list(arms.values()))
    assert base is not None
    assert base.name == "none"


def test_a_seed_without_a_claim_takes_the_claim_from_the_arm(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_arm(tmp_path, "dp-sgd", 0, epsilon=3.0)
    make_runs.write_arm(tmp_path, "dp-sgd", 1, epsilon=9.0)
    assert summarise(load(tmp_path))[0].epsilon == 9.0
    make_runs.write_arm(tmp_path, "dp-sgd", 2, epsilon=None)
    assert summarise(load(tmp_path))[0].epsilon is None


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        load(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "absent")


def test_damaged_files_are_named_and_the_rest_is_read(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.comparison(tmp_path, seeds=(0,))
    result = tmp_path / "pooled/seed-0/result.json"
    result.write_text(result.read_text()[:200])
    history = tmp_path / "dp-sgd/seed-0/history.jsonl"
    history.write_text(history.read_text()[:-30])
    (tmp_path / "samples.npz").write_bytes(b"PK\x03\x04 half")
    (tmp_path / "none/seed-0/privacy.json").write_text("[1, 2]")
    found = load(tmp_path)
    damaged = [
        "dp-sgd/seed-0/history.jsonl, line 5, is damaged",
        "none/seed-0/privacy.json is damaged",
        "pooled/seed-0/result.json is damaged",
        "samples.npz is damaged",
    ]
    assert len(found.problems) == len(damaged)
    for start, problem in zip(damaged, sorted(found.problems), strict=True):
        assert problem.startswith(start)
    runs = {run.arm: run for run in found.runs}
    assert runs["pooled"].result is None
    assert [entry["round"] for entry in runs["dp-sgd"].history] == [0, 1, 2, 3]
    assert len(summary_table(tmp_path)) == 6


def test_a_round_that_was_run_again_counts_once(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.write_arm(tmp_path, "none", 0, rounds=2)
    history = tmp_path / "none/seed-0/history.jsonl"
    history.write_text(history.read_text() + '{"round": 1, "auroc": 0.75}\n')
    rounds = load(tmp_path).runs[0].history
    assert [entry["round"] for entry in rounds] == [0, 1, 2]
    assert rounds[1]["auroc"] == 0.75


def test_without_experiment_json_the_folders_tell_the_arms(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_arm(tmp_path, "none", 10)
    make_runs.write_arm(tmp_path, "none", 2)
    found = load(tmp_path)
    assert [(run.arm, run.seed) for run in found.runs] == [("none", 2), ("none", 10)]
    assert any(problem.startswith("experiment.json is absent") for problem in found.problems)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@pytest.mark.usefixtures("undrawn")
def test_a_value_of_any_kind_in_any_place_still_makes_a_page(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    """Thirty values drawn with a fixed seed, so that it fails always or never."""
    for arm in ("none", "dp-sgd"):
        make_runs.write_arm(tmp_path, arm, 0)
    make_runs.write_about(tmp_path, ["none", "dp-sgd"], [0])
    make_runs.write_comparison(tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    draw = random.Random(5)
    for _ in range(30):
        path = draw.choice(files)
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        depth = draw.choice([1, 2, 3, 9])
        way = draw.choice([place for place in places(value) if len(place) <= depth])
        inner = value
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = draw.choice([None, "x", 3, -1.5, True, [], {}, [1], {"a": 1}])
        path.write_text(json.dumps(value), encoding="utf-8")
        assert build(tmp_path).stat().st_size > 10_000, (path, way)
        path.write_text(text, encoding="utf-8")


def test_what_a_statement_says_wrongly_is_no_claim(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.write_arm(tmp_path, "dp-sgd", 0)
    path = tmp_path / "dp-sgd/seed-0/privacy.json"
    given = json.loads(path.read_text())
    given |= {"epsilon": "8", "released": "everything", "total": [{"unit": "patient"}]}
    path.write_text(json.dumps(given))
    found = load(tmp_path)
    assert "epsilon" not in found.runs[0].privacy
    assert found.runs[0].privacy["total"] == []
    told = [problem for problem in found.problems if "cannot be read" in problem]
    assert len(told) == 1
    for key in ("epsilon", "released", "total"):
        assert key in told[0]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("source", ["histograms", None])
def test_older_results_and_results_from_histograms_make_a_page(
    make_runs: ModuleType, tmp_path: Path, source: str | None
) -> None:
    metrics = make_runs.evaluate(make_runs.table(2.0, 0))  # as version 0.2.0 wrote them
    if source:
        metrics |= {"source": source, "accuracy": None, "threshold": None}
    old = ("n", "group", "positives", "negatives", "auroc", "fnr", "note")
    metrics["groups"] = {
        name: [{key: row[key] for key in old} for row in rows]
        for name, rows in metrics["groups"].items()
    }
    make_runs.write_arm(tmp_path, "none", 0, metrics=metrics)
    make_runs.write_about(tmp_path, ["none"], [0])
    page = build(tmp_path).read_text(encoding="utf-8")
    assert ("histograms of scores that the hospitals sent" in page) is (source is not None)
    assert f"{metrics['auroc']:.3f}" in page
    assert "detectable gap 0" not in page


def test_further_measures_and_targets_are_read(make_runs: ModuleType, tmp_path: Path) -> None:
    metrics = make_runs.enrich(make_runs.evaluate(make_runs.table(2.0, 0)))
    metrics["at_specificity"] = {"sensitivity": 0.61, "intervals": {"sensitivity": [0.5, 0.7]}}
    metrics["targets"] = {"effusion": {"auroc": 0.81}, "infiltrate": {"auroc": None}}
    make_runs.write_arm(tmp_path, "none", 0, metrics=metrics)
    arms = summarise(load(tmp_path))
    found = measures(arms)
    row = dict(zip(found["titles"], found["rows"][0][1], strict=True))
    fixed = row["Sensitivity at fixed specificity"]
    assert (fixed.value, fixed.low, fixed.high) == (0.61, 0.5, 0.7)
    assert row["Brier score"].value == metrics["brier"]
    assert targets(arms)["rows"] == [("effusion", [0.81]), ("infiltrate", [None])]


def test_damaged_predictions_are_told_as_not_complete(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    for arm in ("none", "dp-sgd", "pooled"):
        make_runs.write_arm(tmp_path, arm, 0)
    make_runs.write_about(tmp_path, ["none", "dp-sgd", "pooled"], [0])
    path = tmp_path / "dp-sgd/seed-0/predictions.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    (tmp_path / "pooled/seed-0/predictions.parquet").unlink()  # passed on without it
    assert load(tmp_path).problems == [
        "dp-sgd/seed-0/predictions.parquet is damaged or no table of predictions: this run is not "
        "compared"
    ]


def correlation(name: str, r: float | None, note: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "r": r, "n": 4 if r else 1, "points": [], "note": note, **more}


def test_correlations_without_enough_points_are_one_line(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    for arm in ("none", "dp-sgd"):
        make_runs.write_arm(tmp_path, arm, 0)
    few = "too few targets: 1, 3 needed"
    unit = "too few arms with an epsilon (unit: image) and a gap: 1, 3 needed"
    names = ("label difficulty vs AUROC loss", "positives vs AUROC loss")
    given = [correlation(n, None, few, arm=a) for a in ("a", "b") for n in names]
    sex = "epsilon vs sex gap"
    given.append(correlation(sex, None, unit, unit="image", quantity="auroc_gap"))
    given.append(correlation(sex, -0.5, unit="patient", quantity="accuracy_gap"))
    given.append(correlation(names[0], 0.25, arm="c"))
    make_runs.write_comparison(tmp_path, correlations=given)
    found = correlations(load(tmp_path))
    assert [(r["name"], r["arm"], r["unit"], r["r"]) for r in found["rows"]] == [
        ("epsilon vs sex gap, accuracy gap", "all with an epsilon", "patient", -0.5),
        ("label difficulty vs AUROC loss", "c", "–", 0.25),
    ]
    assert found["left_out"] == (
        "label difficulty vs AUROC loss and positives vs AUROC loss (a, b: 1 point, 3 are "
        "needed); epsilon vs sex gap, AUROC gap (ε per image: 1 point, 3 are needed)"
    )


def test_a_note_that_every_arm_has_is_one_line(make_runs: ModuleType, tmp_path: Path) -> None:
    for arm in ("none", "dp-sgd", "pooled"):
        metrics = make_runs.enrich(make_runs.evaluate(make_runs.table(2.0, 0)))
        metrics["notes"] = ["no DeLong interval", *(["flat"] if arm != "none" else [])]
        make_runs.write_arm(tmp_path, arm, 0, metrics=metrics)
    make_runs.write_about(tmp_path, ["none", "dp-sgd", "pooled"], [0])
    arms = summarise(load(tmp_path))
    assert notes(arms) == ["every arm: no DeLong interval", "dp-sgd, pooled: flat"]
    assert notes(arms[1:2]) == ["dp-sgd: no DeLong interval", "dp-sgd: flat"]


def test_updates_that_were_cut_are_named_once_for_each_hospital(tmp_path: Path) -> None:
    run = tmp_path / "none" / "seed-0"
    run.mkdir(parents=True)
    cut = [{"hospital": "b-clinic", "norm": 1e17, "bound": 24.0}]
    lines = [
        {"round": 0},
        {"round": 1, "cut": []},
        {"round": 2, "cut": cut},
        {"round": 3, "cut": cut},
    ]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems: list[str] = []
    _history(run / "history.jsonl", tmp_path, problems)
    assert problems == [
        "none/seed-0: b-clinic's update was longer than it may be and was cut in 2 round(s), first "
        "in round 2"
    ]
