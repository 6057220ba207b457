"""Counts by hospital and group, and the sheet of images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.inspect import contact_sheet, describe
from fedmed.data.partition import assign_hospitals
from fedmed.data.sources import load
from fedmed.data.split import assign_splits

DATA = Data(patients=80, hospitals=11, partition="even")


def test_counts_add_up_and_hospitals_are_in_natural_order() -> None:
    cohort = assign_splits(load(DATA), DATA)
    table = cohort.table.assign(hospital=assign_hospitals(cohort.table, DATA))
    counts = describe(table)
    assert counts["hospital"].unique().tolist() == ["all", *(f"hospital-{n}" for n in range(1, 12))]
    for by in ("all", "label", "sex", "age band"):
        rows = counts[(counts["hospital"] == "all") & (counts["by"] == by)]
        assert rows["images"].sum() == len(table)
        assert rows[["train", "val", "test"]].to_numpy().sum() == len(table)
        assert rows["positive"].sum() == table["label"].sum()
    assert counts.loc[counts["by"] == "all", "images"].iloc[1:].sum() == len(table)
    assert counts.loc[counts["by"] == "all", "patients"].iloc[0] == 80
    bands = counts[(counts["hospital"] == "all") & (counts["by"] == "age band")]["group"].tolist()
    assert bands == ["0-29", "30-59", "60-69", "70-79", "80+"]


def test_what_is_not_known_is_counted_as_unknown() -> None:
    table = pd.DataFrame(
        {
            "patient_id": ["a", "b", "c"],
            "label": [0, 1, 1],
            "split": ["train", "val", "test"],
            "hospital": "hospital-1",
            "sex": ["F", None, "M"],
        }
    )
    counts = describe(table)
    everywhere = counts[counts["hospital"] == "all"].set_index(["by", "group"])
    assert everywhere.loc[("sex", "unknown"), "positive"] == 1
    assert everywhere.loc[("age band", "unknown"), "images"] == 3


def test_the_sheet_shows_both_classes(tmp_path: Path) -> None:
    cohort = load(DATA)
    contact_sheet(cohort, tmp_path / "sheet.png", count=4, size=40)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "L"
        assert sheet.size == (2 * 44 + 4, 2 * 60 + 4 + 18)
        pixels = np.asarray(sheet)
    assert pixels[22:62, 4:44].std() > 0
    assert (pixels[22:62, :4] == 255).all()
    assert (pixels[22:62, 44:48] == 255).all()


def test_the_sheet_of_a_small_cohort_has_no_empty_places(tmp_path: Path) -> None:
    cohort = load(DATA)
    rows = cohort.table.groupby("label").head(1)
    contact_sheet(cohort.with_table(rows), tmp_path / "sheet.png", count=16, size=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[1] in (4 + 2 * 52 + 18, 4 + 52 + 18)


def test_the_sheet_refuses_a_bad_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a part of the path is a file"):
        contact_sheet(load(DATA), tmp_path / "file" / "sheet.png")
