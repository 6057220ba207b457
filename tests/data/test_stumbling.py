"""What people stumble on, planted in a cohort of 40: the right numbers, or the line that says why.

Each case changes a good table and its settings, and is seen as a user sees it: ``data inspect``.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedmed.cli.commands import main
from fedmed.data.reading import read_cohort
from fedmed.data.remembering import forget

Change = Callable[[pd.DataFrame], pd.DataFrame | str | bytes]

TOML = """
[data]
source = "table"
path = "t.csv"
images = "i"
partition = "even"
hospitals = 1
split = "patient"
validation-fraction = 0.3
test-fraction = 0.3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "i").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "i" / f"{number}.png")
    return tmp_path


def good() -> pd.DataFrame:
    """20 ill and 20 well of 40 patients, half of them women, all 50 years old."""
    return pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(40)],
            "label": ["ill" if n < 20 else "well" for n in range(40)],
            "patient_id": [f"{n:03d}" for n in range(40)],
            "sex": ["F" if n % 2 else "M" for n in range(40)],
            "age": ["50"] * 40,
            "site": ["north" if n % 4 < 2 else "south" for n in range(40)],
        }
    )


def inspected(folder: Path, change: Change, settings: str = 'positive = "ill"') -> tuple[int, str]:
    """Exit code and what is printed."""
    changed = change(good())
    if isinstance(changed, pd.DataFrame):
        changed = changed.to_csv(index=False)
    data = changed.encode() if isinstance(changed, str) else changed
    (folder / "t.csv").write_bytes(data)
    (folder / "x.toml").write_text(TOML + settings + "\n")
    forget()
    out = io.StringIO()
    told = contextlib.redirect_stdout(out), contextlib.redirect_stderr(out)
    with contextlib.chdir(folder), told[0], told[1], pytest.raises(SystemExit) as end:
        main(["data", "inspect", "x.toml", "--sheet", "s.png"])
    return int(end.value.code or 0), " ".join(out.getvalue().split())


def put(column: str, value: object, rows: slice = slice(3, 4)) -> Change:
    """The table with ``value`` in some rows of a column."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[rows], column] = value
        return table

    return change


def written(**options: object) -> Change:
    """The table as another program writes it."""

    def change(table: pd.DataFrame) -> str:
        return str(table.to_csv(index=False, **options))  # type: ignore[call-overload]  # any options

    return change


def lists(table: pd.DataFrame) -> pd.DataFrame:
    table["label"] = [f"['cough', '{word}']" for word in table["label"]]
    return table


def bars(table: pd.DataFrame) -> pd.DataFrame:
    table["label"] = "cough|" + table["label"]
    return table


def renamed(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns=lambda name: f" {name.upper()} ")


def trailing(table: pd.DataFrame) -> str:
    header, *rows = str(table.to_csv(index=False)).splitlines()
    return "\n".join([header, *(f"{row}," for row in rows)]) + "\n"


def from_r(table: pd.DataFrame) -> str:
    header, *rows = str(table.to_csv(index=False)).splitlines()
    return "\n".join([header, *(f'"{n}",{row}' for n, row in enumerate(rows, 1))]) + "\n"


def without_ending(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(image=table["image"].str.removesuffix(".png"))


def of_windows(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(image="films\\" + table["image"])


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table,
        lists,
        bars,
        renamed,
        from_r,
        without_ending,
        of_windows,
        written(sep=";"),
        written(sep="\t", lineterminator="\r\n"),
        lambda table: "\ufeff" + table.to_csv(index=False),
        lambda table: table.to_csv(index=False).encode("utf-16"),
        put("sex", "female", slice(1, 40, 2)),
        put("age", "050Y", slice(0, 40)),
        put("age", "600M", slice(0, 40)),
    ],
)
def test_forty_are_forty_in_every_spelling(folder: Path, change: Change) -> None:
    code, told = inspected(folder, change)
    assert code == 0, told
    assert "t.csv: 40 images" in told
    assert "label 1 is " in told
    assert "(20)" in told
    table = read_cohort(folder / "x.toml").table
    assert table["label"].tolist() == [1] * 20 + [0] * 20
    assert table["patient_id"].tolist()[:2] == ["000", "001"]
    assert (table["sex"] == "F").sum() == 20
    assert set(table["age"]) == {50.0}
    assert table["image"].tolist() == [f"{n}.png" for n in range(40)]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("label", "ILL"), "row 4: label 'ILL' holds 'ill' of data.positive"),
        (put("label", "not ill"), "row 4: label 'not ill' holds 'ill'"),
        (put("label", "pending"), "row 4: label 'pending' says neither"),
        (put("label", None), "row 4: label is empty"),
        (put("age", "121"), "row 4: age is '121'"),
        (put("age", "old"), "row 4: age is 'old'"),
        (put("sex", "X"), "row 4: sex is 'X'"),
        (put("patient_id", "-"), "1 of 40 images have no patient_id"),
        (put("patient_id", "unknown", slice(0, 9)), "9 of 40 images have no patient_id"),
        (put("image", "99.png"), "row 4: image '99.png' is not in"),
        (put("image", "2.png"), "row 4: image '2.png' is listed twice"),
        (trailing, "row 1: 7 fields where the header has 6"),
        (lambda _: b"PK\x03\x04 and more", "is an Excel workbook"),
        (lambda t: put("site", "Süd")(t).to_csv().encode("latin-1"), "not in UTF-8"),  # type: ignore[union-attr]  # a table
    ],
)
def test_a_doubtful_cohort_of_forty_is_refused_by_its_row(
    folder: Path, change: Change, line: str
) -> None:
    code, told = inspected(folder, change)
    assert code == 2
    assert line in told, told
    assert not (folder / "s.png").exists()


def test_a_hospital_may_be_called_na(folder: Path) -> None:
    settings = 'positive = "ill"\n'
    text = TOML.replace('partition = "even"\nhospitals = 1', 'partition = "site"\nhospitals = 2')
    for name in ("NA", "None", "null"):
        table = good().assign(site=["north" if n % 4 < 2 else name for n in range(40)])
        for suffix in ("csv", "parquet"):
            if suffix == "csv":
                table.to_csv(folder / "t.csv", index=False)
            else:
                table.to_parquet(folder / "t.parquet")
            own = text.replace("t.csv", f"t.{suffix}") + settings
            (folder / "x.toml").write_text(own)
            sites = read_cohort(folder / "x.toml").table["site"]
            assert sites.value_counts().to_dict() == {"north": 20, name: 20}


def test_half_of_a_collection_may_be_left_out_and_is_counted(folder: Path) -> None:
    for number in range(0, 40, 2):
        (folder / "i" / f"{number}.png").unlink()
    code, told = inspected(folder, lambda table: table)
    assert code == 2
    assert "row 1: image '0.png' is not in" in told
    assert "nor are 19 others of 40" in told
    code, told = inspected(
        folder, lambda table: table, 'positive = "ill"\nmissing-images = "leave-out"'
    )
    assert code == 0, told
    assert "20 of 40 rows left out" in told
    assert "label 1 is 'ill' (10)" in told
