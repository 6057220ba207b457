"""Demographic groups of images: age bands and the label of a missing value."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

AGE_EDGES: Final[tuple[float, ...]] = (0.0, 30.0, 60.0, 70.0, 80.0, float("inf"))
AGE_LABELS: Final[tuple[str, ...]] = ("0-29", "30-59", "60-69", "70-79", "80+")
UNKNOWN: Final = "unknown"


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
