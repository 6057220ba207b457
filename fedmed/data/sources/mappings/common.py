"""What the mappings share: columns under the names that sets give them, and findings in cells."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed.base.entries import missing, years
from fedmed.base.errors import UserError
from fedmed.base.frames import spelled
from fedmed.base.sexes import SEX_WORDS
from fedmed.data.cohort import LABEL_PREFIX


def columns(
    raw: pd.DataFrame,
    path: Path,
    needs: tuple[str, ...],
    may: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[pd.DataFrame, dict[str, pd.Series], list[str]]:
    """The table with the set's spelling of its columns, the optional ones it has, and notes.

    ``needs`` must be there: :class:`UserError` names the first that is not. ``may`` says for a
    column of the schema what the set's editions call it; one that the table lacks is noted.
    """
    may = may or {}
    raw = spelled(raw, [*needs, *(name for names in may.values() for name in names)])
    for column in needs:
        if column not in raw.columns:
            raise UserError(
                f"{path}: no column '{column}', which data.mapping expects; give the set's own "
                "table, or map the columns with data.columns"
            )
    raw = raw.assign(**{name: raw[name].astype("string") for name in needs})
    there: dict[str, pd.Series] = {}
    notes = []
    for column, names in may.items():
        own = next((name for name in names if name in raw.columns), None)
        if own is None:
            listed = " or ".join(f"'{name}'" for name in names)
            notes.append(f"{path.name}: no column {listed}: {column} is unknown")
        else:
            there[column] = raw[own]
    return raw, there, notes


def people(there: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Age, sex and view of the optional columns that a table has.

    What is no age from 0 to 120 (typing errors of a set), and what the sets write for an unknown
    sex, becomes <NA>.
    """
    told: dict[str, pd.Series] = {}
    if "age" in there:
        age, wrong = years(there["age"])
        told["age"] = age.mask(wrong)
    if "sex" in there:
        lower = there["sex"].astype("string").str.strip().str.lower()
        told["sex"] = lower.map(SEX_WORDS).astype("string")
    if "view" in there:
        told["view"] = there["view"]
    return pd.DataFrame(told, index=next(iter(there.values())).index if there else None)


def of_parts(parts: Iterable[list[str]], names: Iterable[str] | None = None) -> pd.DataFrame:
    """A column ``label:<name>`` of 0 and 1 for each of ``names``, or for each part there is.

    ``parts`` are the findings of each row.
    """
    rows = list(parts)
    named = sorted({part for row in rows for part in row if part}) if names is None else list(names)
    place = {name: column for column, name in enumerate(named)}
    marks = np.zeros((len(rows), len(named)), dtype=np.int8)
    for number, row in enumerate(rows):
        for part in row:
            if part in place:
                marks[number, place[part]] = 1
    return pd.DataFrame(marks, columns=[LABEL_PREFIX + name for name in named])


def uncertain_or_empty(raw: pd.DataFrame, path: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """``label:<name>`` for each of ``names`` that the table has, an empty cell as 0."""
    present = [name for name in names if name in raw.columns]
    if not present:
        raise UserError(
            f"{path}: no column '{names[0]}' nor another finding of data.mapping; give the set's "
            "own table"
        )
    return pd.DataFrame({LABEL_PREFIX + n: raw[n].mask(missing(raw[n]), "0") for n in present})


def beside(path: Path, name: str) -> Path | None:
    """A file beside the table, packed or not; None where there is none."""
    for candidate in (path.parent / name, path.parent / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None
