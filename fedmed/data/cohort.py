"""The cohort: one validated table of images, and the store that reads their pixels.

Columns (a column that is missing is missing, never invented):

=================  =========================================================================
``image``          name of the image in the store; unique
``label``          0 or 1 (1 = disease); or several columns ``label:<name>``, each 0, 1 or <NA>
``finding``        free text
``comorbidities``  number of co-morbidities, integer >= 0
``patient_id``     text; <NA> where the patient is not known
``age``            years, 0 to 120
``sex``            ``F`` or ``M``
``view``           text, for example ``PA`` or ``AP``
``site``           text, the hospital the image comes from
``split``          ``train``, ``val`` or ``test``
=================  =========================================================================

Sources may add ``soft``: what training aims at where a label is uncertain, <NA> for all others.
A cohort that is trained on several labels keeps their columns ``label:<name>``, <NA> where one is
not known, and ``soft:<name>``; its ``label`` is then 1 where any of them is, by which patients are
dealt and split.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.base.sexes import SEXES
from fedmed.data.volume import Volume

COLUMNS = (
    "image",
    "label",
    "finding",
    "comorbidities",
    "patient_id",
    "age",
    "sex",
    "view",
    "site",
    "split",
)
LABEL_PREFIX = "label:"
SOFT_PREFIX = "soft:"
SPLITS = ("train", "val", "test")
_TEXT = ("image", "finding", "patient_id", "sex", "view", "site", "split")


class ImageStore(Protocol):
    """Where a cohort's pixels come from."""

    def read(self, name: str) -> NDArray[np.float32] | Volume:
        """Grey image, float32 in [0, 1], (height, width), or a volume.

        Raises :class:`UserError` naming a bad file.
        """
        ...

    def digest(self, name: str) -> str:
        """Hex digest of the image's content: it changes whenever the pixels may have changed."""
        ...

    def identity(self, name: str) -> str:
        """What the image is, whichever other images the store holds.

        Its name where names stay when others come or go, else a hash of its content.
        """
        ...


@dataclass(frozen=True)
class Cohort:
    """A validated table of images and the store that reads them."""

    name: str
    table: pd.DataFrame
    images: ImageStore
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.table)

    def with_table(self, table: pd.DataFrame) -> "Cohort":
        """The same store with another table of its images."""
        return replace(self, table=table)


def validate(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check a table against the schema and return it with the schema's dtypes.

    ``where`` names the table in messages (a file name). Labels become ``Int8``, ages ``Float32``,
    co-morbidities ``Int16``, everything else pandas' ``string``; rows are renumbered from 0.
    Raises :class:`UserError` naming the first bad row (counted from 1, without the header) and the
    remedy.
    """
    unknown = [c for c in table.columns if c not in COLUMNS and not c.startswith(LABEL_PREFIX)]
    if unknown:
        raise UserError(
            f"{where}: unknown column '{unknown[0]}'; map or drop it (known: {', '.join(COLUMNS)})"
        )
    if "image" not in table.columns:
        raise UserError(f"{where}: no column 'image'; name it with data.columns.image")
    labels = label_columns(table)
    if not labels:
        raise UserError(f"{where}: no column 'label'; name it with data.columns.label")
    if len(table) == 0:
        raise UserError(f"{where}: the table has no rows; give a table with at least one image")
    result = pd.DataFrame(index=pd.RangeIndex(len(table)))
    for column in table.columns:
        values = table[column].reset_index(drop=True)
        if column in _TEXT:
            text = values.astype("string").str.strip()
            result[column] = text.mask(text == "", pd.NA)
        elif column in labels:
            result[column] = _label(values, column, where, required=column == "label")
        elif column == "age":
            result[column] = _number(values, column, where, 0, 120).astype("Float32")
        else:
            numbers = _number(values, column, where, 0, 1000)
            broken = numbers.notna() & (numbers % 1 != 0)
            if broken.any():
                row = _row(broken)
                raise UserError(
                    f"{where}, row {row}: {column} is '{values.iloc[row - 1]}', not a whole "
                    "number; correct it or leave it empty"
                )
            result[column] = numbers.astype("Int16")
    _check_text(result, where)
    return result


def label_columns(table: pd.DataFrame) -> list[str]:
    """Names of the label columns: ``label`` alone, or each ``label:<name>``."""
    if "label" in table.columns:
        return ["label"]
    return target_columns(table)


def target_columns(table: pd.DataFrame) -> list[str]:
    """Each ``label:<name>``: in a cohort, the labels that are trained on where they are several."""
    return [c for c in table.columns if c.startswith(LABEL_PREFIX)]


def _row(mask: pd.Series) -> int:
    """Number of the first true row, counted from 1."""
    return int(np.flatnonzero(mask.to_numpy(dtype=bool))[0]) + 1


def _label(values: pd.Series, column: str, where: str, required: bool) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    absent = values.isna() | (values.astype("string").str.strip() == "").fillna(False)
    bad = ~numbers.isin([0, 1]) & ~absent
    if bad.any():
        row = _row(bad)
        raise UserError(
            f"{where}, row {row}: {column} is '{values.iloc[row - 1]}', not 0 or 1; "
            "correct the row, or map the labels with data.positive"
        )
    if required and absent.any():
        raise UserError(f"{where}, row {_row(absent)}: {column} is empty; fill it or drop the row")
    return numbers.astype("Int8")


def _number(values: pd.Series, column: str, where: str, low: float, high: float) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    absent = values.isna() | (values.astype("string").str.strip() == "").fillna(False)
    bad = (numbers.isna() & ~absent) | (numbers < low) | (numbers > high)
    if bad.any():
        row = _row(bad)
        raise UserError(
            f"{where}, row {row}: {column} is '{values.iloc[row - 1]}', not a number from "
            f"{low:g} to {high:g}; correct it or leave it empty"
        )
    return numbers


def _check_text(table: pd.DataFrame, where: str) -> None:
    empty = table["image"].isna()
    if empty.any():
        raise UserError(f"{where}, row {_row(empty)}: image is empty; fill it or drop the row")
    twice = table["image"].duplicated()
    if twice.any():
        row = _row(twice)
        raise UserError(
            f"{where}, row {row}: image '{table['image'].iloc[row - 1]}' is listed twice; "
            "keep one row per image"
        )
    for column, allowed in (("sex", SEXES), ("split", SPLITS)):
        if column in table.columns:
            bad = table[column].notna() & ~table[column].isin(allowed)
            if bad.any():
                row = _row(bad)
                raise UserError(
                    f"{where}, row {row}: {column} is '{table[column].iloc[row - 1]}'; "
                    f"use {', '.join(allowed)} or leave it empty"
                )
