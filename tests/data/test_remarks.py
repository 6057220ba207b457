"""What is said of a cohort's patients and files, without naming any."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedmed.config import Data
from fedmed.data.remarks import remarks
from fedmed.data.remembering import forget


@pytest.fixture
def forty(tmp_path: Path) -> Path:
    """A cohort of 40 images of 40 patients, no two alike."""
    rng = np.random.default_rng(0)
    (tmp_path / "i").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "i" / f"{number}.png")
    split = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    rows = {"image": [f"{n}.png" for n in range(40)], "label": [n % 2 for n in range(40)]}
    table = pd.DataFrame(rows | {"patient_id": [f"p{n}" for n in range(40)], "split": split})
    table.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


def told(folder: Path) -> str:
    forget()
    data = Data(
        source="table",
        path=str(folder / "t.csv"),
        images=str(folder / "i"),
        partition="even",
        hospitals=1,
    )
    return "\n".join(remarks(data))


def test_an_ordinary_cohort_needs_no_remark(forty: Path) -> None:
    assert told(forty) == ""


def test_the_same_file_under_two_patients_and_in_two_splits_is_told(forty: Path) -> None:
    for copy, of in (("1", "3"), ("25", "5")):  # both train; val and train
        (forty / "i" / f"{copy}.png").write_bytes((forty / "i" / f"{of}.png").read_bytes())
    note = told(forty)
    assert "2 files are there more than once, 2 of them under two patients and 1 in two" in note
    assert "p25" not in note


def test_the_same_file_twice_of_one_patient_is_no_matter(forty: Path) -> None:
    (forty / "i" / "1.png").write_bytes((forty / "i" / "3.png").read_bytes())
    text = (forty / "t.csv").read_text()
    (forty / "t.csv").write_text(text.replace(",p1,", ",p3,"))
    assert told(forty) == ""


def test_a_placeholder_for_many_patients_is_told_and_not_named(
    forty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmed.data.remarks.CROWD", 15)
    table = pd.read_csv(forty / "t.csv")
    table.loc[:14, "patient_id"] = "X-000"
    table.to_csv(forty / "t.csv", index=False)
    note = told(forty)
    assert "one patient has 15 of 40 images" in note
    assert "X-000" not in note
