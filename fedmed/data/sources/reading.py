"""Reading tables of any source."""

from pathlib import Path

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.frames import read_csv, read_parquet


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (also .gz) with every value as text, or a Parquet; raises :class:`UserError`."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return read_parquet(path)
        return read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the path") from None
