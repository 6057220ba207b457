from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import refuses

from fedmed.evaluation.tables import foreign


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"label": [0, 1, 0], "score": [0.2, 0.7, 0.1], **columns})


def test_label_and_score_suffice() -> None:
    found, notes = foreign.accept(table())
    assert found["split"].tolist() == ["test"] * 3
    for name in ("image", "patient_id", "hospital", "age", "sex", "view"):
        assert found[name].isna().all(), name
    assert "finding" not in found
    assert len(notes) == 3


def test_a_whole_table_has_nothing_to_note() -> None:
    given = table(image=["a", "b", "c"], patient_id=["p", "q", "q"], split=["val", "test", "test"])
    found, notes = foreign.accept(given)
    assert notes == []
    assert found["hospital"].isna().all()


def test_missing_patients_and_demographics_are_kept_and_told() -> None:
    found, notes = foreign.accept(
        table(image=["a", "b", "c"], patient_id=["p", None, None], sex=["F", None, "unknown"])
    )
    assert len(found) == 3
    assert found["sex"].isna().tolist() == [False, True, True]
    assert any(note.startswith("2 images without patient_id") for note in notes)


def test_spellings_of_sex_and_split_are_understood() -> None:
    found, _ = foreign.accept(
        table(sex=["female", "m", " M"], split=["Validation", "test", "test"])
    )
    assert found["sex"].tolist() == ["F", "M", "M"]
    assert found["split"].tolist() == ["val", "test", "test"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"score": [0.2, None, 0.1]},
            ["row 2", "column 'score' is not a number", "give the probability"],
        ),
        (
            {"score": [0.2, "high", 0.1]},
            ["row 2", "column 'score' is not a number", "give the probability"],
        ),
        ({"score": [0.2, 1.2, 0.1]}, ["row 2", "outside 0 to 1"]),
        ({"label": [0, 1, -1]}, ["row 3", "label is not 0 or 1"]),
        ({"image": ["a", "b", "a"]}, ["row 3", "listed twice"]),
        ({"image": ["a", None, "c"]}, ["row 2", "image is null"]),
        ({"split": ["val", "train", "test"]}, ["row 2", "split is not"]),
        ({"sex": ["F", "x", None]}, ["row 2", "sex is not"]),
        ({"age": [30, "old", None]}, ["row 2", "age is not years"]),
        ({"comorbidities": [0, 1.5, None]}, ["row 2", "not a whole number"]),
        ({"comorbidities": [0, "many", None]}, ["row 2", "not a whole number"]),
        (
            {"patient_id": ["p", "p", "q"], "split": ["val", "test", "test"]},
            ["patient 'p'", "both val and test", "split the cohort"],
        ),
        ({"target": ["t", "t", "t"]}, ["'image' is missing", "targets"]),
    ],
)
def test_a_wrong_row_is_named(changes: dict[str, Any], words: list[str]) -> None:
    refuses(lambda: foreign.accept(table(**changes), "theirs.csv"), "theirs.csv", *words)


@pytest.mark.parametrize("column", ["label", "score"])
def test_a_missing_column_is_named_with_those_that_are_there(column: str) -> None:
    given = table(prob=[1, 2, 3]).drop(columns=column)
    refuses(lambda: foreign.accept(given), f"'{column}' is missing", "prob")


def test_an_empty_table_is_refused() -> None:
    refuses(lambda: foreign.accept(table().iloc[:0]), "no rows")


def test_a_long_table_lists_an_image_once_per_target() -> None:
    given = table(image=["a", "a", "b"], target=["x", "y", "x"], patient_id=["p", "p", "q"])
    assert foreign.accept(given)[0]["target"].tolist() == ["x", "y", "x"]
    twice = given.assign(target=["x", "x", "x"])
    refuses(lambda: foreign.accept(twice), "row 2", "listed twice for its target")
    refuses(lambda: foreign.accept(given.assign(target=["x", None, "x"])), "row 2", "target")
    two = given.assign(patient_id=["p", "q", "q"])
    refuses(lambda: foreign.accept(two), "image 'a'", "two patients")
    leak = given.assign(split=["val", "test", "test"], patient_id=None)
    refuses(lambda: foreign.accept(leak), "image 'a'", "both val and test")


def test_identifiers_of_a_csv_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("label,score,patient_id,image\n0,0.2,007,01\n1,0.7,7,1\n")
    found, _ = foreign.accept(foreign.load(path))
    assert found["patient_id"].tolist() == ["007", "7"]
    assert found["image"].tolist() == ["01", "1"]


def test_parquet_and_csv_say_the_same(tmp_path: Path) -> None:
    given = table(image=["a", "b", "c"], age=[61.5, None, 3.0], comorbidities=[0, None, 4])
    given.to_csv(tmp_path / "t.csv", index=False)
    given.to_parquet(tmp_path / "t.parquet")
    one, two = (foreign.accept(foreign.load(tmp_path / f"t.{s}"))[0] for s in ("csv", "parquet"))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.parquet", None, ["no such file"]),
        ("t.csv", None, ["no such file"]),
        ("t.parquet", b"PAR1 cut", ["not a readable Parquet", "export it again"]),
        ("t.csv", b"", ["has no header"]),
        ("t.csv", b"label,score\n1,0.2\n1,2,3,4\n", ["row 2: 4 fields where the header has 2"]),
        (
            "t.csv",
            b"label;score\n1;0,2\n",
            ["row 1: column 'score' is not a number", "with a point"],
        ),
        ("t.xlsx", b"x", [".parquet or a .csv"]),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    refuses(lambda: foreign.accept(foreign.load(path), str(path)), str(path), *words)


def test_a_half_written_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    refuses(lambda: foreign.load(path), "t.parquet", "not a readable Parquet")
