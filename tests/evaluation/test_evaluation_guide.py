"""docs/evaluation.md explains keys that exist, with the constants of the code."""

import re
from pathlib import Path

import pandas as pd
from support.tables import images, scored

from fedmed.evaluation import calibration, fairness, thresholds
from fedmed.evaluation.group_gaps import GAPS
from fedmed.evaluation.intervals.intervals import detectable
from fedmed.evaluation.measuring import measures
from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.tables import foreign, groups

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def keys_of(section: str) -> set[str]:
    """Names in the first column of a section's table."""
    text = GUIDE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_key_that_is_explained_exists() -> None:
    found = evaluate(scored(images(), 2.0, 1), resamples=0)
    assert keys_of("One model") <= set(found)
    explained = keys_of("Groups and gaps")
    assert len(explained) > 10
    assert explained <= set(found["groups"]["sex"][0]) | set(found["fairness"]["sex"])
    assert set(GAPS) <= explained


def test_the_columns_of_the_table_are_those_that_are_read() -> None:
    columns = keys_of("The table")
    table, _ = foreign.accept(pd.DataFrame({"label": [0, 1], "score": [0.1, 0.9]}))
    assert columns == {*table.columns, "finding", "comorbidities", "target"}


def test_the_constants_of_the_guide_are_the_codes() -> None:
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    assert f"than {fairness.MINIMUM} ill or {fairness.MINIMUM} healthy" in text
    assert f"in {calibration.BINS} bins of equal width" in text
    assert f"drawn with replacement {measures.RESAMPLES:,} times" in text
    assert f"at least {thresholds.SPECIFICITY:.0%}".replace("%", " %") in text
    assert f"{detectable(1.0):.1f} standard errors" in text
    assert ", ".join(groups.AGE_LABELS) in text
