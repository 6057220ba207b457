"""The predictions table: one row per scored image, from which every metric is computed.

Columns: ``image`` and ``patient_id`` (pseudonyms; the patient may be null), ``hospital``,
``split`` (``val`` or ``test``), ``label`` (0 or 1), ``score`` (probability of disease, 0 to 1),
``age`` (years), ``sex`` (``F`` or ``M``) and ``view``; the last three are null where unknown.
``finding`` and ``comorbidities`` follow where a cohort has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from fedmed.errors import UserError
from fedmed.files import write_atomically

REQUIRED: Final = (
    "image",
    "patient_id",
    "hospital",
    "split",
    "label",
    "score",
    "age",
    "sex",
    "view",
)
OPTIONAL: Final = ("finding", "comorbidities")
SPLITS: Final = ("val", "test")


def validate(table: pd.DataFrame, where: str = "predictions") -> pd.DataFrame:
    """Check a predictions table and return it with the schema's columns and types.

    Text columns become ``string``, `label` int64, `score` and `age` float64. One class only is
    allowed: metrics are then null. `where` names the table in messages.

    Raises UserError naming the row (counted from 1) or column for a missing column, an empty
    table, a null or repeated image, an unknown split, label or sex, a score that is not a number
    from 0 to 1, an impossible age, and a patient in two splits.
    """
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise UserError(
            f"{where}: column '{missing[0]}' is missing; add it, with nulls where it is unknown"
        )
    if table.empty:
        raise UserError(f"{where}: no rows; score at least one test image")
    kept = [*REQUIRED, *(name for name in OPTIONAL if name in table.columns)]
    clean = table[kept].reset_index(drop=True)
    for name in kept:
        if name == "comorbidities":
            clean[name] = pd.to_numeric(clean[name], errors="coerce").astype("Int16")
        elif name not in ("label", "score", "age"):
            clean[name] = clean[name].astype("string")
    for name in ("image", "hospital"):
        _refuse(clean[name].isna(), where, f"{name} is null; fill it")
    _refuse(clean["image"].duplicated(), where, "image is listed twice; keep one row per image")
    _refuse(~clean["split"].isin(SPLITS), where, "split is not 'val' or 'test'; correct it")
    sex = clean["sex"]
    _refuse(sex.notna() & ~sex.isin(("F", "M")), where, "sex is not F, M or null; correct it")

    label = pd.to_numeric(clean["label"], errors="coerce")
    _refuse(~label.isin((0, 1)), where, "label is not 0 or 1; correct it")
    clean["label"] = label.astype(np.int64)
    score = pd.to_numeric(clean["score"], errors="coerce").astype(np.float64)
    _refuse(
        score.isna(), where, "score is not a number; the model diverged, lower the learning rate"
    )
    _refuse((score < 0.0) | (score > 1.0), where, "score is outside 0 to 1; give the probability")
    clean["score"] = score
    age = pd.to_numeric(clean["age"], errors="coerce").astype(np.float64)
    _refuse(
        (age.isna() & clean["age"].notna()) | (age < 0.0) | np.isinf(age),
        where,
        "age is not a number of years; correct it or leave it null",
    )
    clean["age"] = age

    splits = clean.dropna(subset=["patient_id"]).groupby("patient_id")["split"].nunique()
    twice = splits[splits > 1]
    if len(twice):
        raise UserError(
            f"{where}: patient '{twice.index[0]}' is in both val and test; "
            "split the cohort by patient"
        )
    return clean


def write(table: pd.DataFrame, path: Path) -> None:
    """Validate a predictions table and write it to a Parquet file, atomically."""
    clean = validate(table, str(path))
    write_atomically(path, lambda temporary: clean.to_parquet(temporary, index=False))


def read(path: Path) -> pd.DataFrame:
    """Read and validate a predictions table; raises UserError if it is absent or damaged."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run the arm that should have made it") from error
    except (ValueError, OSError) as error:  # pyarrow's errors derive from these
        raise UserError(f"{path} is not a readable Parquet file; run the arm again") from error
    return validate(table, str(path))


def _refuse(bad: pd.Series, where: str, problem: str) -> None:
    """Raise UserError for the first row where `bad` holds."""
    rows = np.flatnonzero(bad.to_numpy(dtype=bool, na_value=True))
    if rows.size:
        raise UserError(f"{where}, row {rows[0] + 1}: {problem}")
