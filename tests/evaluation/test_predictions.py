from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmed.base.errors import UserError
from fedmed.evaluation.tables import predictions


def table(**changes: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "image": ["a", "b", "c"],
        "patient_id": ["p", "q", None],
        "hospital": ["hospital-1"] * 3,
        "split": ["val", "test", "test"],
        "label": [0, 1, 0],
        "score": [0.2, 0.7, 0.1],
        "age": [61.0, None, 30.0],
        "sex": ["F", None, "M"],
        "view": [None, None, None],
    }
    return pd.DataFrame({**columns, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"score": [0.2, np.nan, 0.1]},
            "row 2: column 'score' is not a number; give the probability",
        ),
        ({"score": [0.2, 0.7, 1.01]}, "row 3: score is outside 0 to 1"),
        ({"score": [-0.1, 0.7, 1.0]}, "row 1: score is outside 0 to 1"),
        ({"score": [0.2, np.inf, 1.0]}, "row 2: score is outside 0 to 1"),
        ({"image": ["a", "b", "a"]}, "row 3: image is listed twice"),
        ({"image": ["a", None, "c"]}, "row 2: image is null"),
        ({"patient_id": ["p", "p", None]}, "patient 'p' is in both val and test"),
        ({"split": ["val", "train", "test"]}, "row 2: split is not 'val' or 'test'"),
        ({"label": [0, 2, 0]}, "row 2: label is not 0 or 1"),
        ({"label": [0, None, 0]}, "row 2: label is not 0 or 1"),
        ({"sex": ["F", "female", None]}, "row 2: sex is not F, M or null"),
        ({"age": [61.0, -4.0, None]}, "row 2: age is not years from 0 to 120"),
        ({"hospital": ["hospital-1", None, "hospital-1"]}, "row 2: hospital is null"),
    ],
)
def test_a_wrong_row_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predictions.validate(table(**changes))


@pytest.mark.parametrize("column", predictions.REQUIRED)
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(UserError, match=f"'{column}' is missing"):
        predictions.validate(table().drop(columns=column))


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(UserError, match="no rows"):
        predictions.validate(table().iloc[:0])


def test_images_of_unknown_patients_may_be_in_both_splits() -> None:
    assert len(predictions.validate(table(patient_id=[None, None, None]))) == 3


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "predictions.parquet"
    given = table(finding=["x", None, "y"], other=[1, 2, 3])
    predictions.write(given, path)
    found = predictions.read(path)
    assert list(found.columns) == [*predictions.REQUIRED, "finding"]
    assert found["score"].tolist() == [0.2, 0.7, 0.1]
    assert found["label"].dtype == np.int64
    assert found["view"].isna().all()
    assert found["age"].isna().tolist() == [False, True, False]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_bad_table_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    predictions.write(table(), path)
    before = path.read_bytes()
    with pytest.raises(UserError):
        predictions.write(table(score=[0.1, 0.2, np.nan]), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", None])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "predictions.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.parquet is (missing|not a readable)"):
        predictions.read(path)
