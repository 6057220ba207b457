"""The predictions table: one row per scored image, from which every metric is computed.

Columns: ``image`` and ``patient_id`` (pseudonyms; the patient may be null), ``hospital``,
``split`` (``val`` or ``test``), ``label`` (0 or 1), ``score`` (probability of disease, 0 to 1),
``age`` (years), ``sex`` (``F`` or ``M``) and ``view``; the last three are null where unknown.
``finding`` and ``comorbidities`` follow where a cohort has them. With ``target`` the table is long:
one row per image and target. Tables from elsewhere: :mod:`fedmed.evaluation.tables.foreign`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from fedmed.base.entries import OLDEST, missing, numbers, years
from fedmed.base.errors import UserError
from fedmed.base.files import write_atomically
from fedmed.base.frames import read_parquet
from fedmed.base.sexes import SEXES

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
OPTIONAL: Final = ("finding", "comorbidities", "target")
SPLITS: Final = ("val", "test")


def validate(table: pd.DataFrame, where: str = "predictions") -> pd.DataFrame:
    """Check a predictions table and return it with the schema's columns and types.

    Text columns become ``string``, `label` int64, `score` and `age` float64. One class only is
    allowed: metrics are then null. `where` names the table in messages.

    Raises UserError naming the row (counted from 1) or column for a missing column, an empty
    table, a null or repeated image (per target), an unknown split, label or sex, a score that is
    not a number from 0 to 1, an impossible age or number of co-morbidities, and a patient in two
    splits.
    """
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        what = "; every image without one counts as a patient of its own"
        raise UserError(
            f"{where}: column '{missing[0]}' is missing; add it, with nulls where it is unknown"
            f"{what if missing[0] == 'patient_id' else ''}"
        )
    clean = typed(table, where)
    for name in ("image", "hospital"):
        refuse(clean[name].isna(), where, f"{name} is null; fill it")
    check(clean, where)
    return clean


def typed(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The schema's columns of a table that has rows, as its types; rows are counted from 0 again.

    Raises UserError for an empty table and for a cell that is not of its column's type.
    """
    if table.empty:
        raise UserError(f"{where}: no rows; score at least one test image")
    kept = [name for name in (*REQUIRED, *OPTIONAL) if name in table.columns]
    clean = table[kept].reset_index(drop=True)
    for name in kept:
        if name not in ("label", "score", "age", "comorbidities"):
            clean[name] = clean[name].astype("string")
    label = numbers(clean["label"])
    refuse(~label.isin((0, 1)), where, "label is not 0 or 1; correct it")
    clean["label"] = label.astype(np.int64)
    clean["score"] = numbers(clean["score"])
    refuse(
        clean["score"].isna(),
        where,
        "column 'score' is not a number; give the probability of disease, 0 to 1, with a point",
    )
    refuse(
        (clean["score"] < 0.0) | (clean["score"] > 1.0),
        where,
        "score is outside 0 to 1; give the probability",
    )
    if "age" in clean:
        clean["age"], wrong = years(clean["age"])
        refuse(wrong, where, f"age is not years from 0 to {OLDEST}; correct it or leave it null")
    if "comorbidities" in clean:
        count = numbers(clean["comorbidities"])
        whole = count.between(0, 1000) & (count % 1 == 0)
        refuse(
            ~whole & ~missing(clean["comorbidities"]),
            where,
            "comorbidities is not a whole number; correct it or leave it null",
        )
        clean["comorbidities"] = count.astype("Int16")
    return clean


def check(clean: pd.DataFrame, where: str) -> None:
    """Raise UserError where rows of a typed table contradict each other or name nothing known.

    `image` may be all null (nothing is paired); columns ``sex`` and ``patient_id`` must be there.
    """
    refuse(~clean["split"].isin(SPLITS), where, "split is not 'val' or 'test'; correct it")
    sex = clean["sex"]
    refuse(sex.notna() & ~sex.isin(SEXES), where, "sex is not F, M or null; correct it")
    named = clean["image"].notna()
    if "target" in clean:
        refuse(clean["target"].isna(), where, "target is null; fill it")
        refuse(
            named & clean.duplicated(["image", "target"]),
            where,
            "image is listed twice for its target; keep one row per image and target",
        )
        _one_patient_per_image(clean[named], where)
    else:
        refuse(
            named & clean["image"].duplicated(),
            where,
            "image is listed twice; keep one row per image",
        )
    for who, key in (("patient", "patient_id"), ("image", "image")):
        splits = clean.dropna(subset=[key]).groupby(key)["split"].nunique()
        twice = splits[splits > 1]
        if len(twice):
            raise UserError(
                f"{where}: {who} '{twice.index[0]}' is in both val and test; "
                "split the cohort by patient"
            )


def write(table: pd.DataFrame, path: Path) -> None:
    """Validate a predictions table and write it to a Parquet file, atomically."""
    clean = validate(table, str(path))
    write_atomically(path, lambda temporary: clean.to_parquet(temporary, index=False))


def read(path: Path) -> pd.DataFrame:
    """Read and validate a predictions table; raises UserError if it is absent or damaged."""
    try:
        table = read_parquet(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run the arm that should have made it") from error
    return validate(table, str(path))


def refuse(bad: pd.Series, where: str, problem: str) -> None:
    """Raise UserError for the first row where `bad` holds, counted from 1."""
    rows = np.flatnonzero(bad.to_numpy(dtype=bool, na_value=True))
    if rows.size:
        raise UserError(f"{where}, row {rows[0] + 1}: {problem}")


def _one_patient_per_image(clean: pd.DataFrame, where: str) -> None:
    patients = clean.groupby("image")["patient_id"].nunique(dropna=False)
    several = patients[patients > 1]
    if len(several):
        raise UserError(
            f"{where}: image '{several.index[0]}' has two patients; give one patient_id per image"
        )
