"""The recorded simulation of gaps that do not change: it runs, and false alarms are rare."""

import json
from pathlib import Path

import numpy as np
from support import goes_red

from experiments import gap_changes


def test_one_replication_runs_and_the_normal_part_finds_what_both_find() -> None:
    found, alone = gap_changes.replicate(np.random.default_rng(0), 3, 0.0, 50)
    assert alone or not found


def test_of_the_record_no_case_has_more_than_5_in_100_false_alarms() -> None:
    record = json.loads(gap_changes.RESULT.read_text(encoding="utf-8"))
    assert record["replications"] >= 500

    def rare(key: str) -> None:
        assert max(case[key] for case in record["cases"]) <= 0.05

    rare("found")
    goes_red(rare, "found_by_normal_alone")
    page = (Path(__file__).parents[2] / "experiments" / "README.md").read_text(encoding="utf-8")
    each = [100 * case["found"] for case in record["cases"]]
    assert f"| {min(each):.1f} to {max(each):.1f} %;" in page
