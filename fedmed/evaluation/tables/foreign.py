"""Predictions tables from elsewhere: what they leave out is filled with "unknown", and told.

Only ``label`` and ``score`` are required. Without ``split`` every row is a test row; without
``image`` a table is evaluated but cannot be paired with another; without ``patient_id`` every image
counts as a patient of its own. Nothing is dropped: a missing demographic is the group "unknown".
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from fedmed.base.entries import MISSING, NOBODY, missing, text
from fedmed.base.errors import UserError
from fedmed.base.frames import PARQUET, read_table, spelled
from fedmed.base.sexes import SEX_WORDS
from fedmed.evaluation.tables import predictions

CSV: Final = (".csv", ".tsv", ".txt", ".gz")  # endings of names, in lower case
_NAMES: Final = ("image", "patient_id", "hospital", "view", "finding", "target")
_NOTHING: Final = (*MISSING, "unknown", "u")


def accept(table: pd.DataFrame, where: str = "predictions") -> tuple[pd.DataFrame, list[str]]:
    """The table with all columns of the schema, checked, and notes on what it does not tell.

    Raises UserError naming the row (counted from 1) or column as
    :func:`predictions.validate` does, except that only ``label`` and ``score``
    must be there and a hospital may be null. A column ``target`` needs ``image``.
    """
    table = spelled(table, (*predictions.REQUIRED, *predictions.OPTIONAL))
    for name in ("label", "score"):
        if name not in table.columns:
            listed = ", ".join(str(c) for c in table.columns[:12])
            raise UserError(f"{where}: column '{name}' is missing; rename yours ({listed}) to it")
    clean = predictions.typed(table, where)
    absent = [name for name in predictions.REQUIRED if name not in clean]
    for name in absent:
        clean[name] = pd.Series(pd.NA, index=clean.index, dtype="string")
    if "age" in absent:
        clean["age"] = float("nan")
    if "split" in absent:
        clean["split"] = "test"
    if "target" in clean and "image" in absent:
        raise UserError(
            f"{where}: column 'image' is missing; a table with targets needs it to know which rows "
            "show the same image"
        )
    for name in _NAMES:
        if name in clean:
            clean[name] = text(clean[name])
    clean["patient_id"] = clean["patient_id"].mask(missing(clean["patient_id"], NOBODY), pd.NA)
    if "image" not in absent:
        predictions.refuse(
            clean["image"].isna(), where, "image is null; fill it or leave the column out"
        )
    clean["sex"] = _sexes(clean["sex"])
    clean["split"] = clean["split"].str.strip().str.lower().replace("validation", "val")
    predictions.check(clean, where)
    kept = [n for n in (*predictions.REQUIRED, *predictions.OPTIONAL) if n in clean]
    return clean[kept], _notes(clean, absent)


def load(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file as it is; raises UserError if it is absent or damaged."""
    if path.suffix.lower() not in (*PARQUET, *CSV):
        raise UserError(f"{path}: give a .parquet or a .csv file, or the folder of a comparison")
    return read_table(path)


def _sexes(values: pd.Series) -> pd.Series:
    """F and M however they are written; anything else stays, to be refused by its row."""
    lower = values.str.strip().str.lower()
    return lower.map(SEX_WORDS).fillna(values).mask(lower.isin(_NOTHING), pd.NA).astype("string")


def _notes(clean: pd.DataFrame, absent: list[str]) -> list[str]:
    notes = []
    if "split" in absent:
        notes.append("no column split: every row is a test row")
    if "image" in absent:
        notes.append("no column image: this table cannot be paired with another")
    unknown = int(clean["patient_id"].isna().sum())
    if unknown:
        which = f"{unknown} images without patient_id" if unknown < len(clean) else "images"
        column = "no column patient_id: " if "patient_id" in absent else ""
        notes.append(
            f"{column}{which} count as patients of their own; where patients have several images, "
            "intervals are too narrow without it"
        )
    return notes
