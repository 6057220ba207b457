"""Kermany's paediatric chest X-rays (Cell, 2018): the folder or zip as published, or a flat one.

The views are anterior-posterior, of children of 1 to 5 years; sex and age are not given.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.frames import read_table
from fedmed.config import Data
from fedmed.data.cohort import SPLITS, Cohort
from fedmed.data.sources.table import existing, open_images

CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
_PERSON = re.compile(r"(person\d+)_(bacteria|virus)_\d+(?:_\d+)?$")
_STUDY = re.compile(r"((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?$")
_NUMBERED = re.compile(r"((NORMAL|BACTERIA|VIRUS)-\d+)-\d+$")


def load(data: Data) -> Cohort:
    """Images below ``NORMAL`` and ``PNEUMONIA`` folders; split and patients from their paths.

    Without ``train``, ``val`` and ``test`` folders ``data.index``, a CSV with ``image`` (ending in
    class folder and file name) and ``split``, gives the split; without both there is none. Raises
    :class:`UserError` where nothing fits.
    """
    path = existing(data.path, "data.path")
    images = open_images(path)
    rows: dict[tuple[str | None, str, str], str] = {}
    for name in sorted(images.names(), key=lambda name: (name.count("/"), name)):
        parts = PurePosixPath(name).parts
        if len(parts) < 2 or parts[-2] not in CLASSES or parts[-1].startswith("."):
            continue
        if PurePosixPath(name).suffix.lower() not in (".jpeg", ".jpg", ".png"):
            continue
        split = parts[-3] if len(parts) > 2 and parts[-3] in SPLITS else None
        # The published zip holds the whole set twice; the shallower copy is kept.
        rows.setdefault((split, parts[-2], parts[-1]), name)
    if not rows:
        raise UserError(
            f"{path}: no images in NORMAL and PNEUMONIA folders; set data.path to the folder "
            "'chest_xray' or its zip"
        )
    table = pd.DataFrame(
        {
            "image": list(rows.values()),
            "key": [f"{kind}/{file}" for _, kind, file in rows],
            "folder": pd.Series([split for split, _, _ in rows], dtype="string"),
            "label": [CLASSES[kind] for _, kind, _ in rows],
        }
    )
    table["split"] = table["folder"]
    if data.index:
        table["split"] = _indexed(table["key"], existing(data.index, "data.index"))
    # Official folders number patients apart: person7 of test is not person7 of train.
    pool = table["folder"].fillna(table["split"])
    prefix = pool.map({"test": "test:", "train": "train:", "val": "train:"}).fillna("")
    read = [_patient_and_finding(key) for key in table["key"]]
    table["patient_id"] = prefix + pd.Series([patient for patient, _ in read], dtype="string")
    table["finding"] = [finding for _, finding in read]
    table["view"] = "AP"
    table = table.sort_values("image", ignore_index=True).drop(columns=["key", "folder"])
    if table["split"].isna().all():
        table = table.drop(columns=["split"])
    return Cohort(path.name, table, images)


def _patient_and_finding(key: str) -> tuple[str | None, str]:
    """Patient and finding from a file name; None and the class for an unknown pattern."""
    stem = PurePosixPath(key).stem
    if match := _PERSON.match(stem):
        return match[1], match[2]
    if match := _STUDY.match(stem):
        return match[1], "normal"
    if match := _NUMBERED.match(stem):
        return match[1], match[2].lower()
    return None, "normal" if key.startswith("NORMAL") else "pneumonia"


def _indexed(keys: pd.Series, path: Path) -> pd.Series:
    """The split of each image by the last two parts of its name."""
    index = read_table(path)
    for column in ("image", "split"):
        if column not in index.columns:
            raise UserError(f"{path}: no column '{column}'; data.index needs image and split")
    tail = index["image"].str.strip().str.split("/").str[-2:].str.join("/")
    twice = tail.duplicated()
    if twice.any():
        raise UserError(f"{path}, row {int(twice.argmax()) + 1}: the image is listed twice")
    split = keys.map(dict(zip(tail, index["split"], strict=True))).astype("string")
    if split.isna().any():
        raise UserError(
            f"{path}: no split for {int(split.isna().sum())} of {len(keys)} images, first "
            f"'{keys[split.isna()].iloc[0]}'; add them"
        )
    return split
