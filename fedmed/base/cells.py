"""CSV files that a spreadsheet shows and does not run.

A cell that begins with ``=``, ``+``, ``-`` or ``@`` is a formula to Excel and LibreOffice, and an
arm, a group or a hospital may be named so.
"""

from typing import Any, Final

import pandas as pd

_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def harmless(value: Any) -> Any:
    """A text with an apostrophe before what a spreadsheet would take for a formula.

    Numbers stay numbers, and so does everything else that is no text.
    """
    if isinstance(value, str) and value.lstrip(" \u00a0\ufeff").startswith(_STARTS):
        return f"'{value}"
    return value


def csv_text(frame: pd.DataFrame, *, end: str = "\n") -> str:
    """A table as CSV, its texts and the names of its columns :func:`harmless`."""
    safe = frame.rename(columns=harmless)
    for place, kind in enumerate(safe.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)):
            column = safe.iloc[:, place].astype(object)
            safe.isetitem(place, column.map(harmless, na_action="ignore").to_numpy())
    text: str = safe.to_csv(index=False, lineterminator=end)
    return text
