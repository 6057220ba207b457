"""The object of one evaluation: its tables hold every number, its dict is that of JSON."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import refuses
from support.tables import images, scored

from fedmed.evaluation import Evaluation, evaluate, summary
from fedmed.evaluation.metrics import METRICS, shown


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return scored(images(), 2.0, 1)


@pytest.fixture(scope="module")
def found(table: pd.DataFrame) -> Evaluation:
    return evaluate(table, resamples=50)


def test_the_dict_is_what_json_has(found: Evaluation, table: pd.DataFrame) -> None:
    expected = summary.evaluate(table, resamples=50)
    assert found.to_dict() == expected
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == expected


def test_nobody_changes_an_evaluation(found: Evaluation) -> None:
    found.to_dict()["groups"]["sex"][0]["auroc"] = 2.0
    assert found.to_dict()["groups"]["sex"][0]["auroc"] < 1
    with pytest.raises(FrozenInstanceError):
        found.found = {}  # type: ignore[misc]  # frozen


def test_metrics_have_their_values_and_intervals(found: Evaluation) -> None:
    told, rows = found.to_dict(), found.table().set_index("metric")
    assert rows.columns.tolist() == ["value", "low", "high"]
    shares = [METRICS[name] for name in shown("result")]
    assert list(told["intervals"]) == [metric.name for metric in shares if metric.interval]
    assert rows.loc["ece", "value"] == told["ece"]
    assert np.isnan(rows.loc["ece", "low"]), "it is biased by the number of images"
    assert rows.loc["calibration_intercept", "value"] == told["calibration_intercept"]
    for name in told["intervals"]:
        assert rows.loc[name].tolist() == [told[name], *told["intervals"][name]]
    assert np.isnan(rows.loc["calibration_intercept", "low"])
    second = told["at_specificity"]
    assert rows.loc["sensitivity_at_specificity", "value"] == second["sensitivity"]
    assert rows.loc["sensitivity_at_specificity", "high"] == second["intervals"]["sensitivity"][1]
    assert "sensitivity_target" not in rows.index


def test_groups_and_gaps_have_theirs(found: Evaluation) -> None:
    told = found.to_dict()
    groups = found.table("groups")
    (row,) = groups.query("attribute == 'sex' and group == 'F' and metric == 'fnr'").to_dict(
        "records"
    )
    (woman,) = [one for one in told["groups"]["sex"] if one["group"] == "F"]
    assert [row["value"], row["low"], row["high"]] == [woman["fnr"], *woman["intervals"]["fnr"]]
    assert (row["images"], row["positives"], row["note"]) == (woman["n"], woman["positives"], "")
    assert "prevalence" not in set(groups["metric"])
    gaps = found.table("gaps").set_index(["attribute", "metric"])
    sexes = told["fairness"]["sex"]
    assert gaps.loc[("sex", "auroc_gap")].tolist() == [
        sexes["auroc_gap"],
        *sexes["intervals"]["auroc_gap"],
    ]


def test_a_group_with_too_few_has_its_note_and_no_numbers(table: pd.DataFrame) -> None:
    few = table.assign(view=["AP" if i < 5 else "PA" for i in range(len(table))])
    rows = evaluate(few, resamples=0).table("groups").query("attribute == 'view' and group == 'AP'")
    if rows.empty:  # those rows were of validation
        pytest.fail("give a test row another view")
    assert set(rows["note"]) == {"too few"}
    assert rows["value"].isna().all()


def test_targets_have_a_row_each(table: pd.DataFrame) -> None:
    both = pd.concat([table.assign(target="a"), table.assign(target="b", score=0.5)])
    found = evaluate(both, resamples=0)
    rows = found.table("targets").set_index(["target", "metric"])
    assert rows.loc[("b", "auroc"), "value"] == 0.5
    assert rows.loc[("a", "auroc"), "value"] > 0.6


def test_a_table_of_something_else_is_refused(found: Evaluation) -> None:
    refuses(
        lambda: found.table("group"),  # type: ignore[arg-type]  # a user's mistake
        "table: 'group' is not known; use metrics, groups, gaps, targets",
    )
    assert found.table("targets").empty


def test_mistakes_of_a_call_are_told_in_a_line(table: pd.DataFrame) -> None:
    def refused(given: Any, *words: str, **options: Any) -> None:
        refuses(lambda: evaluate(given, **{"resamples": 0, **options}), *words)

    refused({"label": [0, 1], "score": [0.1, 0.9]}, "predictions: give a data frame")
    refused(pd.concat([table, table[["score"]]], axis=1), "column 'score' is there twice")
    refused(table, "whole numbers", resamples=1.5)
    refused(table, "whole numbers", seed="1")
    refused(table, "specificity = 90: give a number from 0 to 1", specificity=90)
    refused(table, "specificity = nan", specificity=float("nan"))


def test_it_reads_files_as_the_command_does(table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    table.to_csv(path, index=False)
    expected = summary.evaluate(table, resamples=0)["auroc"]
    assert evaluate(path, resamples=0).to_dict()["auroc"] == pytest.approx(expected)
    table.drop(columns="label").to_csv(path, index=False)
    refuses(lambda: evaluate(str(path)), f"{path}: column 'label' is missing")
    refuses(lambda: evaluate(table, resamples=-1), "resamples and seed are whole numbers")


def test_it_shows_its_numbers(found: Evaluation) -> None:
    told = found.to_dict()
    low, high = told["intervals"]["auroc"]
    assert f"{told['auroc']:.3f} ({low:.3f} to {high:.3f})" in repr(found)
    assert f"{told['n_test']} test images" in repr(found)
    page = found._repr_html_()
    assert f"<td>{told['auroc']:.3f}</td>" in page
    assert "auroc_gap" in page


def test_notes_are_no_html() -> None:
    found = Evaluation(
        {**evaluate(scored(images(), 2.0, 1), resamples=0).to_dict(), "notes": ["<b>"]}
    )
    assert "&lt;b&gt;" in found._repr_html_()
    assert "note: <b>" in repr(found)


def test_a_table_without_test_rows_has_nothing_but_its_note(table: pd.DataFrame) -> None:
    found = evaluate(table[table["split"] == "val"], resamples=0)
    assert found.table()["value"].isna().all()
    assert found.table("groups").empty
    assert "not defined" in repr(found)
    assert "no test rows" in found._repr_html_()
