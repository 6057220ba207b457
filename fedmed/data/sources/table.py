"""Any CSV or Parquet with the schema's columns or a mapping to them, images in a folder or zip."""

import os
from pathlib import Path

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.opening import expanded, is_folder, present
from fedmed.base.packed import is_zip
from fedmed.base.sexes import SEX_WORDS
from fedmed.config import Data
from fedmed.data.cohort import COLUMNS, LABEL_PREFIX, Cohort
from fedmed.data.sources.mappings import MAPPINGS
from fedmed.data.sources.reading import read_table
from fedmed.data.stores import FolderStore, ZipStore


def load(data: Data) -> Cohort:
    """The table at ``data.path`` with its images in ``data.images``, labels not yet settled.

    Text is read as text, so that patient ids keep their leading zeros. Columns that neither the
    schema, ``data.columns`` nor ``data.mapping`` knows are left out. Raises :class:`UserError`
    naming the file, the row (counted from 1, without the header) or the key.
    """
    path = existing(data.path, "data.path")
    raw = read_table(path)
    mapped = MAPPINGS[data.mapping](raw, path) if data.mapping else _mapped(raw, data, path)
    if data.positive:
        mapped = _positive(mapped, data, path)
    images = open_images(existing(data.images, "data.images"))
    mapped = mapped.reset_index(drop=True)
    if "image" in mapped.columns:
        mapped["image"] = _located(mapped["image"], images, path)
    return Cohort(path.name, mapped, images)


def existing(value: str, key: str) -> Path:
    """The path a key gives; :class:`UserError` names the key where it is empty or absent."""
    if not value:
        raise UserError(f"{key} is not given; set it to a file or folder")
    path = expanded(value)
    if not present(path):
        raise UserError(f"{key} = '{value}': no such file or folder; correct the path")
    return path


def open_images(path: Path) -> FolderStore | ZipStore:
    """The store for a folder, or for a zip; anything else is a :class:`UserError`."""
    if is_folder(path):
        return FolderStore(path)
    if path.suffix.lower() != ".zip" and not is_zip(path):
        raise UserError(f"{path} is neither a folder nor a zip; give one that holds the images")
    return ZipStore(path)


def _mapped(raw: pd.DataFrame, data: Data, path: Path) -> pd.DataFrame:
    """Columns by ``data.columns``, else by the schema's own names; male/female become M/F."""
    named: dict[str, str] = {k: v for k, v in data.columns.model_dump().items() if v}
    for column, own in named.items():
        if own not in raw.columns:
            key = f"data.columns.{column.replace('_', '-')}"
            raise UserError(f"{path}: no column '{own}', which {key} names; correct the name")
    table = pd.DataFrame(index=raw.index)
    for column in COLUMNS:
        own = named.get(column, column)
        if own in raw.columns:
            table[column] = raw[own]
    if "label" not in table.columns:
        for name in raw.columns:
            if str(name).startswith(LABEL_PREFIX):
                table[name] = raw[name]
    if "sex" in table.columns:
        text = table["sex"].astype("string").str.strip()
        table["sex"] = text.str.lower().map(SEX_WORDS).fillna(text)
    return table


def _positive(table: pd.DataFrame, data: Data, path: Path) -> pd.DataFrame:
    """The label column made 1 where it is one of ``data.positive``, else 0; empty stays empty."""
    if "label" not in table.columns:
        raise UserError(f"{path}: data.positive needs a label column; set data.columns.label")
    values = table["label"].astype("string").str.strip()
    wanted = [value.strip() for value in data.positive.split("|")]
    absent = [value for value in wanted if not (values == value).any()]
    if absent:
        raise UserError(
            f"{path}: no row has the label '{absent[0]}' of data.positive; correct the spelling"
        )
    return table.assign(label=values.isin(wanted).astype("Int8").mask(values.isna()))


def _located(names: pd.Series, images: FolderStore | ZipStore, path: Path) -> pd.Series:
    """Each name as the store has it; the first that is not there is a :class:`UserError`.

    The public sets nest their images (``images_001/images/...``) or name them from one folder
    further up (``CheXpert-v1.0-small/train/...``). A name that is not there as it stands is looked
    for without its first folder, then by its last part where that is unique.
    """
    text = names.astype("string").str.strip()
    by_last: dict[str, str] | None = None
    found: list[str | None] = []
    for row, name in enumerate(text, start=1):
        if pd.isna(name) or name == "" or name in images:
            found.append(None if pd.isna(name) else name)
            continue
        shorter = name.partition("/")[2]
        if shorter and shorter in images:
            found.append(shorter)
            continue
        if by_last is None:
            by_last = _by_last_part(images)
        place = by_last.get(name) if "/" not in name else None
        if not place:
            where = images.root if isinstance(images, FolderStore) else images.path
            raise UserError(
                f"{path}, row {row}: image '{name}' is not in {where}; add it or drop the row"
            )
        found.append(place)
    return pd.Series(found, index=names.index, dtype="string")


def _by_last_part(images: FolderStore | ZipStore) -> dict[str, str]:
    """Name without folders -> name in the store, "" where several share it."""
    places: dict[str, str] = {}
    for name in images.names():
        last = os.path.basename(name)
        places[last] = "" if last in places else name
    return places
