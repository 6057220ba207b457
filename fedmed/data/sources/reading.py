"""Reading tables of any source."""

from pathlib import Path

import pandas as pd

from fedmed.errors import UserError


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (also .gz) with every value as text, or a Parquet; raises :class:`UserError`."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str)
    except Exception as error:  # parsers fail on damaged files in ways that cannot be listed
        raise UserError(
            f"{path}: not a readable CSV or Parquet ({type(error).__name__}); correct the file"
        ) from None
