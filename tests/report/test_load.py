import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from fedmed.errors import UserError
from fedmed.report import summary_table, write_summary
from fedmed.report.arms import reference, summarise
from fedmed.report.load import load


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
