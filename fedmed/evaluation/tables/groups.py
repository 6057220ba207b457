"""Groups of images that are compared: by sex, age band, both, hospital, view and co-morbidities."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

AGE_EDGES: Final[tuple[float, ...]] = (0.0, 30.0, 60.0, 70.0, 80.0, float("inf"))
AGE_LABELS: Final[tuple[str, ...]] = ("0-29", "30-59", "60-69", "70-79", "80+")
UNKNOWN: Final = "unknown"
OTHER: Final = "other"
ATTRIBUTES: Final = ("sex", "age", "sex_age", "hospital", "view", "finding", "comorbidities")
FINDINGS: Final = 12  # most findings that are named; free text has as many as images
MOST_COMORBIDITIES: Final = 3  # and more


def age_band(ages: pd.Series) -> pd.Series:
    """Age band of each age in years.

    Bands are closed on the left: [0, 30), [30, 60), [60, 70), [70, 80) and [80, inf). An unknown
    age (null, NaN) and an impossible one (negative, infinite) give <NA>. Returns a string series
    with the index of `ages`.
    """
    years = pd.to_numeric(ages, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(years) & (years >= 0.0)
    position = np.searchsorted(np.asarray(AGE_EDGES), np.where(known, years, 0.0), side="right") - 1
    labels = np.asarray(AGE_LABELS, dtype=object)[position]
    labels[~known] = pd.NA
    return pd.Series(labels, index=ages.index, name="age_band", dtype="string")


def members(values: pd.Series) -> pd.Series:
    """Group of each image as text, with a missing value as the group ``unknown``."""
    return values.astype("string").fillna(UNKNOWN)


def of(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Groups of every row of a predictions table by attribute, in the order of ATTRIBUTES.

    A row that lacks the attribute is in the group "unknown"; ``sex_age`` ("F 60-69") needs both.
    An attribute that no row has is left out, and so is ``finding`` where it decides the label:
    such groups show one class only. Findings beyond the FINDINGS most frequent are "other".
    """
    found: dict[str, pd.Series] = {}
    for attribute in ATTRIBUTES:
        values = _values(table, attribute)
        if values is not None and values.notna().any():
            found[attribute] = members(values)
    return found


def order(name: object) -> tuple[int, str, int, str]:
    """Sort key of group names: "F 60-69" by sex and age, numbers as numbers, "unknown" last."""
    text = str(name)
    if text in (UNKNOWN, OTHER):
        return 2 if text == UNKNOWN else 1, "", 0, text
    sex, _, band = text.rpartition(" ")
    if band in AGE_LABELS:
        return 0, sex, AGE_LABELS.index(band), text
    digits = "".join(ch for ch in text if ch.isdigit())
    return 0, "", int(digits) if digits else 0, text


def _values(table: pd.DataFrame, attribute: str) -> pd.Series | None:
    if attribute == "age":
        return age_band(table["age"])
    if attribute == "sex_age":
        return table["sex"].astype("string") + " " + age_band(table["age"])
    if attribute not in table:
        return None
    if attribute == "comorbidities":
        return _counts(table[attribute])
    if attribute == "finding":
        return _findings(table)
    return table[attribute].astype("string")


def _counts(values: pd.Series) -> pd.Series:
    """0, 1, 2 and "3+"."""
    count = values.astype("Int64")
    text = count.clip(upper=MOST_COMORBIDITIES).astype("string")
    return text.mask((count >= MOST_COMORBIDITIES).fillna(False), f"{MOST_COMORBIDITIES}+")


def _findings(table: pd.DataFrame) -> pd.Series | None:
    finding = table["finding"].astype("string")
    if (table.groupby(finding)["label"].nunique() < 2).all():
        return None
    frequent = finding.value_counts().index[:FINDINGS]
    return finding.where(finding.isna() | finding.isin(frequent), OTHER)
