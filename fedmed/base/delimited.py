"""CSV from anywhere: every entry as text in the column that its header names, or refused.

A row of another length than the header is refused: readers that fill or shift it put numbers under
another column's name. Which separator a file has is read from its header alone, so a wrong guess
ends at the first row that does not fit it.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, read_bytes, size

MOST_BYTES: Final = 256 * MIB
"""Of a table, packed or not: the largest public sets' tables have a quarter of it."""

MOST_COLUMNS: Final = 4096
MOST_ROWS: Final = 5_000_000
_BLOCK: Final = 16 * MIB  # a row may be as long
_SEPARATORS: Final = (",", ";", "\t", "|")
_SEP_LINE: Final = re.compile(rb'"?sep=([,;\t|])"?\r?\n')  # what Excel itself writes and reads
_OTHERS: Final = (
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"PK\x03\x04", "an Excel workbook or another packed file", "save the sheet as 'CSV UTF-8'"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as 'CSV UTF-8'"),
    (b"$FL2", "an SPSS file", "export it as CSV"),
    (b"%PDF", "a PDF", "export the table as CSV"),
)


@dataclass(frozen=True)
class _Form:
    """How a file is written: its separator, its header and the lines that the header takes."""

    separator: str
    header: list[str]
    lines: int
    first: list[str]  # the first row
    quoted: bool  # whether that begins with a quote


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV, ``.gz`` or plain, every entry as text, an empty one as missing.

    Separated by comma, semicolon, tab or bar, in UTF-8 with or without its mark, or in UTF-16 with
    it. Names of columns lose the blanks around them, and a column without a name is left out, as is
    the column of row numbers that R's ``write.table`` writes without a name. Empty lines do not
    count as rows. Raises FileNotFoundError, or :class:`UserError` naming the file and the row
    (counted from 1, without the header).
    """
    data = read_bytes(path, MOST_BYTES, "give a smaller table")
    try:
        if data[:2] == b"\x1f\x8b":
            data = _unpacked(data, path)
        data = _utf8(data, path)
        given = _SEP_LINE.match(data)
        data = data[given.end() :] if given else data
        form = _form(data, given[1].decode() if given else "")
        _check_quotes(data, form, path)
        return _read(data, form, path)
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(
            f"{path} is not a readable CSV file ({first_line(error)}); export it again"
        ) from error


def _unpacked(data: bytes, path: Path) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as source:
        plain = source.read(MOST_BYTES + 1)
    if len(plain) > MOST_BYTES:
        raise UserError(f"{path} unpacks to over {size(MOST_BYTES)}; give a smaller table")
    return plain


def _utf8(data: bytes, path: Path) -> bytes:
    """The file's text in UTF-8, without a mark; no encoding is guessed."""
    for start, what, remedy in _OTHERS:
        if data.startswith(start):
            raise UserError(f"{path} is {what}, not a CSV; {remedy}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16").encode()
    if b"\0" in data:
        raise UserError(f"{path} is no text, or in UTF-16 without its mark; save it as 'CSV UTF-8'")
    if data.count(b"\n") > MOST_ROWS:
        raise UserError(f"{path} has over {MOST_ROWS:,} lines; give a smaller table")
    return data.removeprefix(codecs.BOM_UTF8)


def _form(data: bytes, separator: str) -> _Form:
    # A header that does not end within this has more columns than may be, or names like books.
    head = data[: 4 * MIB].decode("utf-8", "replace")
    forms = [_header(head, one) for one in ([separator] if separator else _SEPARATORS)]
    return max(forms, key=lambda form: len(form.header))  # the first of those that tell most


def _header(head: str, separator: str) -> _Form:
    rows = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    header = next((row for row in rows if row), [])
    lines = rows.line_num
    try:
        first = next((row for row in rows if row), [])
    except csv.Error:  # an entry too long for this reader, which only counts
        first = header
    quoted = head.split("\n", lines)[-1].lstrip("\r\n").startswith('"')
    return _Form(separator, [name.strip() for name in header], lines, first, quoted)


def _read(data: bytes, form: _Form, path: Path) -> pd.DataFrame:
    _check_header(form.header, path)
    if "\ufffd" in "".join(form.header):
        _check_utf8(data, path)
    if not form.first:
        return pd.DataFrame({name: pd.Series(dtype="str") for name in form.header if name})
    numbered = len(form.first) == len(form.header) + 1
    header = ["", *form.header] if numbered else form.header
    names = [name or f"\0{place}" for place, name in enumerate(header)]
    odd: list[Any] = []

    def skip(row: Any) -> str:
        odd.append(row)
        return "skip"

    try:
        table = arrow.read_csv(
            pa.BufferReader(data),
            read_options=arrow.ReadOptions(
                use_threads=False, column_names=names, skip_rows=form.lines, block_size=_BLOCK
            ),
            parse_options=arrow.ParseOptions(
                delimiter=form.separator, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        _check_utf8(data, path)
        raise
    if numbered and (odd or not _counts(table, form)):
        raise _of_another_length(path, 1, len(form.first), len(form.header))
    if odd:
        row = odd[0].number - form.lines
        raise _of_another_length(path, row, odd[0].actual_columns, len(form.header))
    named: pd.DataFrame = table.select([name for name in header if name]).to_pandas()
    return named


def _check_quotes(data: bytes, form: _Form, path: Path) -> None:
    """Refuse an entry whose quote is not closed: it would take all rows up to the next quote."""
    if b'"' not in data:
        return
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8", "replace", newline="")
    rows, read = csv.reader(text, delimiter=form.separator, strict=True), -1  # the header is none
    most = csv.field_size_limit(MOST_BYTES)
    try:
        for row in rows:
            read += bool(row)
    except csv.Error:
        raise UserError(
            f"{path}, row {read + 1}: a quote that is not closed, or text behind a closed one; "
            "correct the row, or export the table again"
        ) from None
    finally:
        csv.field_size_limit(most)


def _check_header(header: list[str], path: Path) -> None:
    if len(header) > MOST_COLUMNS:
        raise UserError(f"{path} has over {MOST_COLUMNS} columns; drop those that nobody needs")
    if not any(header):
        raise UserError(f"{path} has no header; its first line must name the columns")
    seen: set[str] = set()
    for name in header:
        if name and name in seen:
            raise UserError(f"{path} has two columns '{name}'; rename or drop one")
        seen.add(name)


def _counts(table: pa.Table, form: _Form) -> bool:
    """Whether the first of one field too many is the number of a row, as R writes it.

    Commas at the ends of rows leave the last field empty, and in other shifted rows the first does
    not count; what R has left out of its numbering, it has put in quotes.
    """
    if table.column(table.num_columns - 1).null_count == len(table):
        return False
    first = [str(name) for name in table.column(0).to_pylist()]
    counting = all(name == str(row) for row, name in enumerate(first, start=1))
    distinct = all(map(str.isdecimal, first)) and len(set(first)) == len(first)
    return counting or (distinct and form.quoted)


def _of_another_length(path: Path, row: int, fields: int, columns: int) -> UserError:
    return UserError(
        f"{path}, row {row}: {fields} field{'s' * (fields != 1)} where the header has {columns}; "
        "export the table again, with quotes around entries that hold the separator, and no "
        "separator at the ends of rows"
    )


def _check_utf8(data: bytes, path: Path) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: not in UTF-8 (older Excel writes Windows-1252); save it as "
            "'CSV UTF-8'"
        ) from None


def first_line(error: Exception) -> str:
    """What a parser says, without what follows in further lines."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
