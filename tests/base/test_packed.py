"""Zips and tables that are small on the disk and large in memory."""

import contextlib
import gzip
import io
import zipfile
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import refuses

from fedmed.base import delimited, frames, packed
from fedmed.base.errors import UserError
from fedmed.base.frames import read_csv, read_parquet
from fedmed.base.packed import check_directory, check_zip


def zipped(members: dict[str, int]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, length in members.items():
            archive.writestr(name, bytes(length))
    buffer.seek(0)
    return buffer


def test_what_a_zip_unpacks_to_is_added_up_over_its_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = zipped({"a": 600_000, "b": 600_000})
    check_zip(source, 1_200_000, "w.npz")
    assert source.tell() == 0
    refuses(lambda: check_zip(source, 1_199_999, "w.npz"), "w.npz", "unpacks to")
    monkeypatch.setattr(packed, "_UNSUSPECTED", 1 << 20)
    refuses(lambda: check_zip(source, 1 << 40, "w.npz"), "w.npz", "unpacks to")  # 1,000 to 1
    check_zip(io.BytesIO(b"no zip"), 10, "w.pth")


def test_a_zip_that_lists_too_many_files_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({f"{n}": 1 for n in range(100)}).getvalue())
    check_directory(path)
    monkeypatch.setattr(packed, "MOST_DIRECTORY", 1000)
    refuses(lambda: check_directory(path), str(path), "lists more files")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit that tests can pass."""
    for module in (frames, delimited):
        monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    return 1 << 20


def test_a_packed_table_is_unpacked_to_the_limit_only(tmp_path: Path, small: int) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"image,label\n" + b"a,1\n" * 1000))
    assert len(read_csv(path)) == 1000
    path.write_bytes(gzip.compress(b"image,label\n" + b"a" * small))
    refuses(lambda: read_csv(path), str(path), "unpacks to over 1 MiB")
    path.write_bytes(gzip.compress(b"image,label\n")[:-5])
    refuses(lambda: read_csv(path), str(path), "not a readable CSV")


def test_a_table_of_many_columns_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    many = ",".join(f"c{n}" for n in range(5000))
    for header in (many, f"\n\n{many}", f'"\n",{many}'):
        path.write_text(f"{header}\n1\n")
        refuses(lambda: read_csv(path), str(path), "over 4096 columns")
    pq.write_table(pa.table({f"c{n}": [1] for n in range(5000)}), tmp_path / "t.parquet")
    refuses(lambda: read_parquet(tmp_path / "t.parquet"), "over 4096 columns")


def test_a_text_that_a_parquet_repeats_is_counted_each_time(tmp_path: Path, small: int) -> None:
    path = tmp_path / "t.parquet"
    column = pa.array(["x" * 10_000] * 200).dictionary_encode()
    pq.write_table(pa.table({"image": column}), path)
    assert path.stat().st_size < 20_000
    refuses(lambda: read_parquet(path), str(path), "unpacks to over 1 MiB")


def test_a_parquet_claims_its_rows_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": pa.nulls(100, pa.int8())}), path)
    assert len(read_parquet(path)) == 100
    monkeypatch.setattr(frames, "MOST_ROWS", 99)
    refuses(lambda: read_parquet(path), str(path), "over 99 rows")


def test_a_parquet_of_other_types_names_the_column(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for name, column in {
        "bytes": pa.array([b"\xff"]),
        "lists": pa.array([[1]]),
        "tables": pa.array([{"a": 1}]),
        "spans": pa.array([1], pa.duration("s")),
    }.items():
        pq.write_table(pa.table({name: column}), path)
        refuses(lambda: read_parquet(path), f"column '{name}' is of type")
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    refuses(lambda: read_parquet(path), "two columns 'a'")


def test_numbers_dates_and_texts_are_read_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame(
        {
            "patient_id": pd.array([7, None], "Int64"),  # 7.0 would be another patient
            "sex": pd.Categorical(["F", "M"]),
            "taken": pd.to_datetime(["2020-01-31", None]),
            "score": [0.25, None],
            "label": [1, 0],
            "known": [True, False],
        }
    )
    frame.to_parquet(path)
    found = read_parquet(path)
    assert found["patient_id"].astype("string").tolist() == ["7", pd.NA]
    assert found["sex"].tolist() == ["F", "M"]
    assert found["taken"].iloc[0].startswith("2020-01-31")
    assert found["score"].iloc[0] == 0.25
    assert found["label"].tolist() == [1, 0]
    assert found["label"].dtype == "int64"
    assert found["known"].tolist() == [True, False]
    pq.write_table(pa.table({"far": pa.array([2**62], pa.timestamp("us"))}), path)
    with contextlib.suppress(UserError):  # a year that no calendar has: text, or one line
        assert isinstance(read_parquet(path)["far"].iloc[0], str)


def test_notes_of_pandas_in_a_parquet_decide_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"a": [1]}).replace_schema_metadata({b"pandas": b'{"columns": 3}'})
    pq.write_table(table, path)
    assert read_parquet(path)["a"].tolist() == [1]


def test_pitfall_long_numbers_of_patients_are_rounded_to_one(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    numbers = [Decimal("12345678901234567"), Decimal("12345678901234568"), None]
    whole = pa.array(numbers, pa.decimal128(38, 0))
    age = pa.array([Decimal("61.5"), Decimal("3.0"), None], pa.decimal128(5, 1))
    pq.write_table(pa.table({"patient_id": whole, "age": age}), path)
    table = read_parquet(path)
    assert table["patient_id"].dropna().tolist() == ["12345678901234567", "12345678901234568"]
    assert table["age"].dropna().tolist() == [61.5, 3.0]
