"""The schema: dtypes, and one clear error per kind of bad row."""

import pandas as pd
import pytest

from fedmed.base.errors import UserError
from fedmed.data.cohort import label_columns, validate


def table(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"image": ["a.png", "b.png"], "label": ["0", "1"]} | columns)


def test_text_becomes_the_schemas_types() -> None:
    checked = validate(
        table(age=["63", ""], sex=["F", None], patient_id=[" 007 ", ""], comorbidities=["2", None]),
        "t.csv",
    )
    assert str(checked["label"].dtype) == "Int8"
    assert checked["label"].tolist() == [0, 1]
    assert checked["age"].iloc[0] == 63
    assert checked["age"].isna().tolist() == [False, True]
    assert checked["patient_id"].iloc[0] == "007", "leading zeros belong to an identifier"
    assert checked["patient_id"].isna().tolist() == [False, True]


def test_a_missing_column_is_not_invented() -> None:
    assert list(validate(table(), "t.csv").columns) == ["image", "label"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": ["0", "2"]}, "row 2: label is '2'"),
        ({"label": ["pneumonia", "0"]}, "row 1: label is 'pneumonia'"),
        ({"label": ["", "0"]}, "row 1: label is empty"),
        ({"age": ["63", "163"]}, "row 2: age is '163'"),
        ({"patient_id": ["7", "1.23457E+12"]}, "row 2: patient_id is a number .* rounded"),
        ({"age": ["63", "old"]}, "row 2: age is 'old'"),
        ({"sex": ["F", "X"]}, "row 2: sex is 'X'"),
        ({"split": ["train", "dev"]}, "row 2: split is 'dev'"),
        ({"image": ["a.png", "a.png"]}, "row 2: image 'a.png' is listed twice"),
        ({"image": ["a.png", " "]}, "row 2: image is empty"),
        ({"colour": ["red", "red"]}, "unknown column 'colour'"),
    ],
)
def test_a_bad_row_is_named(columns: dict[str, list[object]], words: str) -> None:
    with pytest.raises(UserError, match=rf"^t\.csv.*{words}") as caught:
        validate(table(**columns), "t.csv")
    assert "\n" not in str(caught.value)


def test_empty_and_unlabelled_tables_are_refused() -> None:
    with pytest.raises(UserError, match="no rows"):
        validate(table().iloc[:0], "t.csv")
    with pytest.raises(UserError, match="no column 'label'"):
        validate(table().drop(columns="label"), "t.csv")
    with pytest.raises(UserError, match="no column 'image'"):
        validate(table().drop(columns="image"), "t.csv")


def test_several_labels_may_be_unknown() -> None:
    several = pd.DataFrame({"image": ["a", "b"], "label:Edema": ["1", None], "label:Mass": [0, 1]})
    assert label_columns(several) == ["label:Edema", "label:Mass"]
    assert validate(several, "t.csv")["label:Edema"].isna().tolist() == [False, True]
