"""Tables from anywhere, CSV or Parquet: their size in memory is known before it is taken.

A Parquet of kilobytes can hold a text of a gigabyte many times over, and a CSV of 100,000 columns
keeps a parser busy for minutes.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, opened, read_bytes, size

MOST_BYTES: Final = 256 * MIB
"""Of a table, packed or not: the largest public sets' tables have a quarter of it."""

MOST_COLUMNS: Final = 4096
MOST_ROWS: Final = 5_000_000
of = pa.types
_BATCH: Final = 1 << 16  # rows


def read_csv(path: Path, types: Mapping[str, str] | type[str] = str) -> pd.DataFrame:
    """A CSV in UTF-8, ``.gz`` or plain; raises FileNotFoundError, or :class:`UserError`."""
    data = read_bytes(path, MOST_BYTES, "give a smaller table")
    try:
        if path.suffix.lower() == ".gz":
            data = _unpacked(data, path)
        _check_columns(data, path)
        return pd.read_csv(io.BytesIO(data), dtype=types)
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(
            f"{path} is not a readable CSV file ({_first_line(error)}); export it again"
        ) from error


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet of text, numbers and dates (read as text); raises as :func:`read_csv`."""
    with opened(path, MOST_BYTES, "give a smaller table") as source:
        try:
            table = _table(source, path)
            # Whole numbers stay whole beside empty cells: 7 and 7.0 would be two patients.
            found: pd.DataFrame = table.to_pandas(integer_object_nulls=True)
        except (ValueError, OSError, LookupError, TypeError, NotImplementedError) as error:
            # pyarrow's errors derive from these; its words are of several lines
            raise UserError(
                f"{path} is not a readable Parquet file ({_first_line(error)}); export it again"
            ) from error
    return found


def _unpacked(data: bytes, path: Path) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as source:
        plain = source.read(MOST_BYTES + 1)
    if len(plain) > MOST_BYTES:
        raise UserError(f"{path} unpacks to over {size(MOST_BYTES)}; give a smaller table")
    return plain


def _check_columns(data: bytes, path: Path) -> None:
    """Read the header as the parser will, and nothing after it."""
    # A header that does not end within this has more columns than may be, or names like books.
    head = io.StringIO(data[: 4 * MIB].decode("utf-8-sig", "replace"), newline="")
    header = next((row for row in csv.reader(head) if row), [])
    if len(header) > MOST_COLUMNS:
        raise UserError(f"{path} has over {MOST_COLUMNS} columns; drop those that nobody needs")


def _table(source: BinaryIO, path: Path) -> pa.Table:
    with pq.ParquetFile(source) as file:
        about, schema = file.metadata, file.schema_arrow
        if about.num_columns > MOST_COLUMNS:
            raise UserError(f"{path} has over {MOST_COLUMNS} columns; drop those that nobody needs")
        if about.num_rows > MOST_ROWS:
            raise UserError(f"{path} has over {MOST_ROWS:,} rows; give a smaller table")
        groups = (about.row_group(n) for n in range(about.num_row_groups))
        if sum(group.total_byte_size for group in groups) > MOST_BYTES:
            raise UserError(f"{path} unpacks to over {size(MOST_BYTES)}; give a smaller table")
        _check_names(schema, path)
    source.seek(0)
    texts = [field.name for field in schema if _is_text(field.type)]
    # Texts as numbers of a list: what they would take is counted before they are written out.
    with pq.ParquetFile(source, read_dictionary=texts) as file:
        batches, taken = [], 0
        for batch in file.iter_batches(_BATCH):
            plain = [_plain(column) for column in batch]
            taken += sum(map(_bytes, plain))
            if taken > MOST_BYTES:
                raise UserError(f"{path} unpacks to over {size(MOST_BYTES)}; give a smaller table")
            written = [c.dictionary_decode() if of.is_dictionary(c.type) else c for c in plain]
            batches.append(pa.RecordBatch.from_arrays(written, schema.names))
    # Without pandas' own notes in the file, which could make of a column what they like.
    empty = pa.schema([(field.name, _written(field.type)) for field in schema])
    return pa.Table.from_batches(batches, batches[0].schema if batches else empty)


def _check_names(schema: pa.Schema, path: Path) -> None:
    seen: set[str] = set()
    for field in schema:
        if field.name in seen:
            raise UserError(f"{path} has two columns '{field.name}'; rename or drop one")
        seen.add(field.name)
        kind = _value_type(field.type)
        if not (_is_number(kind) or _is_text(kind) or _is_moment(kind) or of.is_null(kind)):
            raise UserError(
                f"{path}: column '{field.name}' is of type {str(field.type)[:60]}; write text or "
                "numbers, or drop it"
            )


def _plain(column: Any) -> Any:
    kind = _value_type(column.type)
    if of.is_decimal(kind):
        return column.cast(pa.float64())
    if _is_moment(kind):
        return column.cast(pa.string())
    return column


def _bytes(column: Any) -> int:
    if not of.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    each = pc.binary_length(column.dictionary).cast(pa.int64())
    return int(pc.sum(each.take(column.indices)).as_py() or 0) + 8 * len(column)


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if of.is_dictionary(kind) else kind


def _written(kind: pa.DataType) -> pa.DataType:
    plain = _value_type(kind)
    if of.is_decimal(plain):
        return pa.float64()
    return pa.string() if _is_moment(plain) else plain


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        of.is_boolean(kind) or of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(of.is_string(kind) or of.is_large_string(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(of.is_date(kind) or of.is_timestamp(kind) or of.is_time(kind))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
