"""Tables from anywhere, CSV or Parquet: their size in memory is known before it is taken.

A Parquet of kilobytes can hold a text of a gigabyte many times over.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedmed.base.delimited import MOST_BYTES, MOST_COLUMNS, MOST_ROWS, first_line, read_csv
from fedmed.base.errors import UserError
from fedmed.base.opening import opened, size

PARQUET: Final = (".parquet", ".pq")  # endings of names, in lower case
of = pa.types
_BATCH: Final = 1 << 16  # rows


def read_table(path: Path) -> pd.DataFrame:
    """A table by its name's ending: Parquet (``.parquet``, ``.pq``), else CSV.

    Raises :class:`UserError` where there is none or it cannot be read.
    """
    try:
        if path.suffix.lower() in PARQUET:
            return read_parquet(path)
        return read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the path") from None


def spelled(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The table with its columns under ``names``, where theirs differ by case and blanks alone.

    A column that has the name already keeps it, and of two that would get it neither does.

    >>> spelled(pd.DataFrame(columns=["Image", "AGE "]), ["image", "age", "sex"]).columns.tolist()
    ['image', 'age']
    """
    plain = [str(column).strip().casefold() for column in table.columns]
    given = dict(zip(plain, table.columns, strict=True))
    wanted = {
        given[name.casefold()]: name
        for name in names
        if name not in table.columns and plain.count(name.casefold()) == 1
    }
    return table.rename(columns=wanted)


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet of text, numbers and dates (read as text); raises as :func:`read_csv`."""
    with opened(path, MOST_BYTES, "give a smaller table") as source:
        try:
            table = _table(source, path)
            # Whole numbers stay whole beside empty cells: 7 and 7.0 would be two patients.
            frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True)
        except (ValueError, OSError, LookupError, TypeError, NotImplementedError) as error:
            # pyarrow's errors derive from these; its words are of several lines
            raise UserError(
                f"{path} is not a readable Parquet file ({first_line(error)}); export it again"
            ) from error
    return frame


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
    if of.is_decimal(kind):  # whole ones may be names of more digits than a float has
        return column.cast(pa.string() if kind.scale == 0 else pa.float64())
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
        return pa.string() if plain.scale == 0 else pa.float64()
    return pa.string() if _is_moment(plain) else plain


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        of.is_boolean(kind) or of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(of.is_string(kind) or of.is_large_string(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(of.is_date(kind) or of.is_timestamp(kind) or of.is_time(kind))
