"""What an entry of a table means, wherever the table comes from: nothing, a number, an age.

One list says which words stand for a missing value, in CSV and Parquet alike. It holds for numbers,
ages, sexes, labels and patients; in names (of images, hospitals, views and findings) only an empty
entry is missing, as a ward may well be called "NA".
"""

import contextlib
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

MISSING: Final = ("", "na", "n/a", "nan", "null", "none", "<na>")
"""Entries that count as missing, in lower case and without the blanks around them."""

NOBODY: Final = (*MISSING, "-", "--", "?", ".", "unknown", "anonymous", "anonymized", "anonymised")
"""Entries for a patient that name nobody, written alike."""

OLDEST: Final = 120  # years; above it an age is a typing error
_PER_YEAR: Final = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
_AGE: Final = r"^\s*(\d{1,3})\s*([YyMmWwDd])\s*$"


def missing(values: pd.Series, words: tuple[str, ...] = MISSING) -> pd.Series:
    """Which entries are missing: null, or one of ``words`` in any case.

    >>> missing(pd.Series(["7", " NA ", None, "nobody"])).tolist()
    [False, True, True, False]
    """
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.isna()
    text = values.astype("string")
    return text.isna() | text.str.strip().str.lower().isin(words).fillna(True).astype(bool)


def text(values: pd.Series) -> pd.Series:
    """Names without the blanks around them; an empty one is <NA>, and "NA" is a name."""
    stripped = values.astype("string").str.strip()
    return stripped.mask(stripped == "", pd.NA)


def numbers(values: pd.Series) -> pd.Series:
    """Entries as float64, NaN where one is missing or no number; "true" and "false" are 1 and 0.

    >>> numbers(pd.Series(["3", "2.5", "null", "True", "x"])).tolist()
    [3.0, 2.5, nan, 1.0, nan]
    """
    if isinstance(values.dtype, pd.StringDtype):
        with contextlib.suppress(pa.ArrowInvalid):  # at once, where all are written plainly
            read = pc.cast(pa.array(values, pa.string()), pa.float64())
            return pd.Series(read.to_numpy(zero_copy_only=False), index=values.index)
    if values.dtype != bool and not pd.api.types.is_numeric_dtype(values.dtype):
        plain = values.astype("string").str.strip()
        said = plain.str.lower().map({"true": "1", "false": "0"}).astype("string")
        values = said.fillna(plain)
    read = pd.to_numeric(values, errors="coerce")
    return pd.Series(read.to_numpy(dtype=np.float64, na_value=np.nan), index=values.index)


def years(values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Ages in years (float64, NaN where unknown), and which entries are none from 0 to 120.

    A number counts years. Digits before Y, M, W or D count years, months, weeks or days, as DICOM
    (PS3.5, AS) and the public sets write them.

    >>> age, wrong = years(pd.Series(["58", "058Y", "036M", "", "414"]))
    >>> age.tolist(), wrong.tolist()
    ([58.0, 58.0, 3.0, nan, 414.0], [False, False, False, False, True])
    """
    age = numbers(values)
    open_ = age.isna() & ~missing(values)
    if open_.any():
        parts = values[open_].astype("string").str.extract(_AGE)
        count = numbers(parts[0]) / parts[1].str.upper().map(_PER_YEAR).astype("float64")
        age = age.where(~open_, count.reindex(age.index))
    wrong = (open_ & age.isna()) | ~age.fillna(0.0).between(0, OLDEST)
    return age, wrong
