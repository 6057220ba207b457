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

from fedmed.base.entries import MISSING, NOBODY, OLDEST, missing, numbers, text, years
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
_ROUNDED = r"\d(?:[.,]\d+)?[eE]\+\d+"
_NAMES = ("image", "finding", "view", "site")
_TEXT = ("patient_id", "sex", "split")


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
    """A validated table of images and the store that reads them.

    ``notes`` are for whoever reads the results; ``remarks`` count private images and words, and are
    for the terminal of who holds them alone.
    """

    name: str
    table: pd.DataFrame
    images: ImageStore
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.table)

    def with_table(self, table: pd.DataFrame) -> "Cohort":
        """The same store with another table of its images."""
        return replace(self, table=table)


def validate(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check a table against the schema and return it with the schema's dtypes.

    ``where`` names the table in messages (a file name). Labels become ``Int8``, ages ``Float32``,
    co-morbidities ``Int16``, everything else pandas' ``string``; rows are renumbered from 0.
    Raises :class:`UserError` naming the first bad row (counted from 1, without the header: by the
    table's index, so that rows left out before count) and the remedy.
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
    result = pd.DataFrame(index=table.index)
    for column in table.columns:
        values = table[column]
        if column in _NAMES:
            result[column] = text(values)
        elif column in _TEXT:
            words = NOBODY if column == "patient_id" else MISSING
            result[column] = text(values).mask(missing(values, words), pd.NA)
        elif column in labels:
            result[column] = _label(values, column, where, required=column == "label")
        elif column == "age":
            result[column] = _age(values, where).astype("Float32")
        else:
            result[column] = _count(values, column, where).astype("Int16")
    _check_text(result, where)
    return result.reset_index(drop=True)


def label_columns(table: pd.DataFrame) -> list[str]:
    """Names of the label columns: ``label`` alone, or each ``label:<name>``."""
    if "label" in table.columns:
        return ["label"]
    return target_columns(table)


def target_columns(table: pd.DataFrame) -> list[str]:
    """Each ``label:<name>``: in a cohort, the labels that are trained on where they are several."""
    return [c for c in table.columns if c.startswith(LABEL_PREFIX)]


def _first(mask: pd.Series, values: pd.Series) -> tuple[int, str]:
    """Number of the first true row, counted from 1, and what stands there."""
    place = int(mask.to_numpy(dtype=bool).argmax())
    return int(mask.index[place]) + 1, str(values.iloc[place])


def _label(values: pd.Series, column: str, where: str, required: bool) -> pd.Series:
    read, absent = numbers(values), missing(values)
    bad = ~read.isin([0, 1]) & ~absent
    if bad.any():
        row, value = _first(bad, values)
        raise UserError(
            f"{where}, row {row}: {column} is '{value}', not 0 or 1; "
            "correct the row, or map the labels with data.positive"
        )
    if required and absent.any():
        row, _ = _first(absent, values)
        raise UserError(
            f"{where}, row {row}: {column} is empty; fill it, drop the row, or leave such rows "
            'out with data.uncertain = "ignore"'
        )
    return read.astype("Int8")


def _age(values: pd.Series, where: str) -> pd.Series:
    age, wrong = years(values)
    if wrong.any():
        row, value = _first(wrong, values)
        raise UserError(
            f"{where}, row {row}: age is '{value}', not years from 0 to {OLDEST} "
            "(or 58Y, 36M, 45D); correct it or leave it empty"
        )
    return age


def _count(values: pd.Series, column: str, where: str) -> pd.Series:
    count = numbers(values)
    whole = count.between(0, 1000) & (count % 1 == 0)
    bad = ~whole & ~missing(values)
    if bad.any():
        row, value = _first(bad, values)
        raise UserError(
            f"{where}, row {row}: {column} is '{value}', not a whole number from 0 "
            "to 1000; correct it or leave it empty"
        )
    return count


def _check_text(table: pd.DataFrame, where: str) -> None:
    empty = table["image"].isna()
    if empty.any():
        row, _ = _first(empty, table["image"])
        raise UserError(f"{where}, row {row}: image is empty; fill it or drop the row")
    twice = table["image"].duplicated()
    if twice.any():
        row, name = _first(twice, table["image"])
        raise UserError(
            f"{where}, row {row}: image '{name}' is listed twice; keep one row per image"
        )
    if "patient_id" in table.columns:
        cut = table["patient_id"].str.fullmatch(_ROUNDED).fillna(False)
        if cut.any():
            row, _ = _first(cut, table["patient_id"])
            raise UserError(
                f"{where}, row {row}: patient_id is a number that a spreadsheet has rounded (as in "
                "1.23E+12), so that several patients have it; export the column as text"
            )
    for column, allowed in (("sex", SEXES), ("split", SPLITS)):
        if column in table.columns:
            bad = table[column].notna() & ~table[column].isin(allowed)
            if bad.any():
                row, value = _first(bad, table[column])
                raise UserError(
                    f"{where}, row {row}: {column} is '{value}'; "
                    f"use {', '.join(allowed)} or leave it empty"
                )
