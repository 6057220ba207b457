"""Is it worth joining? A hospital's own model against the federated ones, on its own patients."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support import goes_red
from support.tables import images

from fedmed.evaluation.comparison.comparison import compare
from fedmed.report.evidence import Evidence
from fedmed.report.joining import table_of

SCHEMES = {"none": "federated", "dp": "federated", "alone": "local-only", "alone-dp": "local-only"}
EPSILONS = {"none": None, "dp": 8.0, "alone": None, "alone-dp": 8.0}
UNITS = {"none": "none", "dp": "patient", "alone": "none", "alone-dp": "patient"}
# How far apart a model holds ill and healthy, at the large, the small and the odd hospital.
SEES = {
    "none": (1.6, 1.6, 0.2),
    "dp": (1.4, 1.4, 0.2),
    "alone": (1.6, 0.6, 1.6),
    "alone-dp": (1.0, 0.2, 1.0),
}
NAMES = ("large", "small", "odd")


def scored(arm: str, seed: int = 0) -> pd.DataFrame:
    """Test images of three hospitals under one arm; a tenth are validation images."""
    table = images(3000, seed=1)
    draw = np.random.default_rng(5)
    place = draw.choice(3, len(table), p=(0.5, 0.25, 0.25))
    noise = np.random.default_rng([seed, list(SEES).index(arm)]).normal(size=len(table))
    logit = noise + np.array(SEES[arm])[place] * table["label"]
    split = np.where(draw.random(len(table)) < 0.1, "val", "test")
    return table.assign(
        hospital=[NAMES[p] for p in place], split=split, score=1 / (1 + np.exp(-logit))
    )


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[int, pd.DataFrame]]:
    return {arm: {seed: scored(arm, seed) for seed in range(5)} for arm in SEES}


@pytest.fixture(scope="module")
def found(tables: dict[str, dict[int, pd.DataFrame]]) -> list[dict[str, Any]]:
    told = compare(
        tables, baseline="none", epsilons=EPSILONS, units=UNITS, schemes=SCHEMES, resamples=400
    )
    rows: list[dict[str, Any]] = told["joining"]
    return rows


def row(found: list[dict[str, Any]], hospital: str, arm: str) -> dict[str, Any]:
    (one,) = (r for r in found if (r["hospital"], r["arm"]) == (hospital, arm))
    return one


def test_each_hospital_is_measured_on_its_own_images_alone(
    tables: dict[str, dict[int, pd.DataFrame]], found: list[dict[str, Any]]
) -> None:
    def check(name: str) -> None:
        told, values = row(found, "small", "none"), {}
        for arm in ("alone", "none"):
            parts = [
                t[(t["hospital"] == name) & (t["split"] == "test")] for t in tables[arm].values()
            ]
            values[arm] = np.mean([roc_auc_score(p["label"], p["score"]) for p in parts])
            assert told["images"] == len(parts[0])
        assert told["before"] == pytest.approx(values["alone"])
        assert told["after"] == pytest.approx(values["none"])

    check("small")
    goes_red(check, "large")


def test_an_arm_is_held_against_hospitals_alone_at_its_own_epsilon(
    found: list[dict[str, Any]],
) -> None:
    """Else the cost of privacy would be taken for a cost of joining."""
    assert {r["alone"] for r in found if r["arm"] == "none"} == {"alone"}
    assert {r["alone"] for r in found if r["arm"] == "dp"} == {"alone-dp"}
    assert {r["arm"] for r in found} == {"none", "dp"}


def test_it_is_worth_it_where_a_hospital_alone_knows_less_and_not_where_it_is_another_kind(
    found: list[dict[str, Any]],
) -> None:
    table = table_of(evidence(found))
    assert table["alone"] == ["alone", "alone-dp"]
    assert [r["hospital"] for r in table["rows"]] == sorted(NAMES)
    assert table["told"] == [
        "none against alone: worth it for small, worse than alone for odd, no difference is shown "
        "for 1 of 3.",
        "dp against alone-dp: worth it for large and small, worse than alone for odd.",
    ]


def test_arms_of_which_the_same_is_told_share_a_sentence(found: list[dict[str, Any]]) -> None:
    unclear = [{**one, "p_holm": 1.0} for one in found]
    table = table_of(evidence(unclear))
    words = "no difference is shown for any of 3 hospitals."
    assert table["told"] == [f"none against alone: {words}", f"dp against alone-dp: {words}"]
    one = table_of(evidence([{**row, "alone": "alone"} for row in unclear]))
    assert one["told"] == [f"none and dp against alone: {words}"]


def test_a_hospital_with_too_few_ill_has_no_row(
    tables: dict[str, dict[int, pd.DataFrame]],
) -> None:
    few = {}
    for arm, by_seed in tables.items():
        few[arm] = {}
        for seed, table in by_seed.items():
            ill = table[(table["hospital"] == "odd") & (table["label"] == 1)]
            few[arm][seed] = table.drop(index=ill.index[9:])
    told = compare(
        few, baseline="none", epsilons=EPSILONS, units=UNITS, schemes=SCHEMES, resamples=100
    )
    assert {r["hospital"] for r in told["joining"]} == {"large", "small"}


def test_without_hospitals_alone_there_is_no_table(
    tables: dict[str, dict[int, pd.DataFrame]],
) -> None:
    two = {arm: tables[arm] for arm in ("none", "dp")}
    told = compare(
        two, baseline="none", epsilons=EPSILONS, units=UNITS, schemes=SCHEMES, resamples=100
    )
    assert told["joining"] == []
    assert table_of(evidence([])) == {}
    assert table_of(None) == {}


def test_holm_counts_every_row(found: list[dict[str, Any]]) -> None:
    smallest = min(found, key=lambda one: one["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, smallest["p"] * len(found)))
    assert len(found) == 6


def evidence(rows: list[dict[str, Any]]) -> Evidence:
    return Evidence(
        baseline="none",
        resamples=400,
        method="bca",
        unit="patient",
        by_arm={},
        differences=[],
        family={},
        correlations=[],
        notes=[],
        joining=rows,
    )
