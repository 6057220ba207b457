"""VinDr-CXR (Nguyen et al., 2022): ``image_labels_train.csv``, ``image_labels_test.csv``, or the
``train.csv`` of its challenge, with a row for each box.
"""

from pathlib import Path

import pandas as pd

from fedmed.base import entries
from fedmed.base.entries import numbers
from fedmed.base.errors import UserError
from fedmed.data.cohort import LABEL_PREFIX
from fedmed.data.sources.mappings import common

_READERS = ("rad_id", "rad_ID")


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """A label for each finding: 1 where at least half of the film's radiologists see it.

    Of three radiologists that is two; the test set has one row for each film, a consensus. The
    set's tables name no patient, sex or age.
    """
    raw, _, notes = common.columns(raw, path, ("image_id",))
    reader = next((name for name in _READERS if name in raw.columns), None)
    image = raw["image_id"].astype("string").str.strip()
    who = raw[reader].astype("string") if reader else pd.Series("consensus", index=raw.index)
    for name in ("image_id", reader, "class_name"):
        if name in raw.columns and entries.missing(raw[name]).any():
            row = int(entries.missing(raw[name]).to_numpy().argmax()) + 1
            raise UserError(f"{path}, row {row}: {name} is empty; fill it or drop the row")
    if "class_name" in raw.columns:
        boxes = raw["class_name"].astype("string").str.strip()
        marks = common.of_parts([[name] for name in boxes])
    else:
        marks = _marks(raw.drop(columns=["image_id", *([reader] if reader else [])]), path)
    each = marks.groupby([image, who], sort=False).max()  # what each radiologist says of a film
    share = each.groupby(level=0, sort=False).mean()
    table = (share >= 0.5).astype("Int8")
    table.insert(0, "image", table.index)
    notes.append(f"{path.name}: patients, age and sex are unknown: the set's tables name none")
    return table.reset_index(drop=True), notes


def _marks(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The findings' columns as 0 and 1."""
    if raw.shape[1] == 0:
        raise UserError(f"{path}: no column of a finding; give the set's own table")
    marks = raw.apply(numbers)
    bad = ~marks.isin([0, 1]).all(axis=1)
    if bad.any():
        row = int(bad.to_numpy().argmax()) + 1
        raise UserError(f"{path}, row {row}: a finding is not 0 or 1; give the set's own table")
    return marks.add_prefix(LABEL_PREFIX)
