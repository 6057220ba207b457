"""What all runs of a comparison guarantee together, never more than each of them bounds."""

import json
from typing import Any

import jsonschema
import pytest
from support import goes_red

from fedmed.privacy.statement import meaning
from fedmed.privacy.statement.contents import Total
from fedmed.privacy.statement.meaning import comparable, meaningful
from fedmed.privacy.statement.whole import check, schema, whole


def total(**changes: Any) -> Total:
    given: dict[str, Any] = {
        "unit": "patient",
        "relation": "add-or-remove",
        "neighbouring": "add or remove one patient",
        "epsilon": 9.12,
        "delta": 1e-5,
        "theorem": "composition",
        "runs": ["a/seed-0", "b/seed-0"],
        "not_bounded_by": [],
        "not_counted": [],
    }
    return Total.model_validate({**given, **changes})


def test_runs_that_all_bound_a_patient_guarantee_it() -> None:
    found = whole(["a/seed-0", "b/seed-0"], [total()])
    assert found["guarantee"] is True
    assert found["summary"] == (
        "All runs of this comparison together: one patient is protected with epsilon = 9.12 at "
        "delta = 1e-05 (add or remove one patient)."
    )


def test_one_run_that_bounds_nothing_takes_the_guarantee_from_all() -> None:
    for left in ({"not_bounded_by": ["none/seed-0"]}, {"not_counted": ["none/seed-0"]}):
        found = whole(["a/seed-0", "none/seed-0"], [total(**left)])
        assert found["guarantee"] is False
        assert found["summary"] == (
            "All runs of this comparison together guarantee nothing, where the results of all of "
            "them are seen. Without none/seed-0 it is epsilon = 9.12 at delta = 1e-05 (add or "
            "remove one patient) for one patient."
        )


def test_no_epsilon_is_no_guarantee_and_says_so() -> None:
    found = whole(["none/seed-0"], [])
    assert (found["guarantee"], found["total"]) == (False, [])
    assert found["summary"].endswith("are seen. No run has an epsilon.")


def test_patients_of_the_evaluation_alone_are_no_guarantee_of_training() -> None:
    assert whole(["a/seed-0"], [total(of="evaluation")])["guarantee"] is False


def test_a_total_beyond_the_bound_is_called_no_protection() -> None:
    summary = whole(["a/seed-0"], [total(epsilon=2048.0)])["summary"]
    assert "epsilon = 2,048 at" in summary
    assert summary.endswith("So large an epsilon is no meaningful protection: patient.")


def test_it_keeps_its_own_schema_and_is_no_statement_of_a_run() -> None:
    value = json.loads(json.dumps(whole(["a/seed-0"], [total()])))
    assert check(value).version == 1

    def keeps(candidate: dict[str, Any]) -> None:
        assert jsonschema.Draft202012Validator(schema()).is_valid(candidate)

    keeps(value)
    goes_red(keeps, {**value, "version": 3})
    goes_red(keeps, {**value, "guarantee": None})
    goes_red(keeps, {key: v for key, v in value.items() if key != "guarantee"})
    goes_red(keeps, {"runs": value["runs"], "total": value["total"]})


@pytest.mark.parametrize(
    ("unit", "epsilon", "others", "holds"),
    [
        ("patient", 20.0, {}, True),
        ("patient", 20.001, {}, False),
        ("patient", None, {}, False),
        ("patient", 12.0, {"replaced": 25.0}, True),  # patients are added or removed everywhere
        ("hospital", 12.0, {"replaced": 25.0}, False),
        ("hospital", 8.0, {"replaced": 16.0}, True),
        ("image", 4.0, {"of_patient": 24.0}, False),
        ("image", 4.0, {"of_patient": 16.0}, True),
        ("patient", 4.0, {"of_patient": 24.0}, True),
    ],
)
def test_what_is_meaningful_protection(
    unit: str, epsilon: float | None, others: dict[str, float], holds: bool
) -> None:
    assert meaningful(unit, epsilon, **others) is holds
    assert meaning.MOST == 20


def test_hospitals_and_images_are_compared_where_data_are_replaced() -> None:
    assert comparable("hospital", 8.0, 15.8) == 15.8
    assert comparable("patient", 8.0, 11.9) == 8.0
    assert comparable("image", 8.0, None) == 8.0
    assert comparable("image", None, 8.0) is None
