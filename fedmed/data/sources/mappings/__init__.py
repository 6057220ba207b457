"""Ready mappings from public sets' own tables to the schema.

Each is a module of the mapping's name with ``read(raw, path, missing)``: the table as read (all
text), its path and ``data.missing-images``. It returns columns of the schema with a column
``label:<name>`` per finding, or one ``label``, and notes on what the table does not tell. Uncertain
labels stay -1 here. No mapping invents a column: what a set's tables do not say is missing.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd

Read = Callable[[pd.DataFrame, Path, str], tuple[pd.DataFrame, list[str]]]


def mapping(name: str) -> Read:
    """``read`` of the mapping that settings name; they name none but the known ones."""
    read: Read = import_module(f"{__name__}.{name.replace('-', '_')}").read
    return read
