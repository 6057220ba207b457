"""Any CSV or Parquet with the schema's columns or a mapping to them, images in a folder or zip."""

from pathlib import Path

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.frames import read_table, spelled
from fedmed.base.opening import expanded, is_folder, present
from fedmed.base.packed import is_zip
from fedmed.base.sexes import SEX_WORDS
from fedmed.config import Data
from fedmed.data.cohort import COLUMNS, LABEL_PREFIX, Cohort
from fedmed.data.sources.labels import Words, zero_or_one
from fedmed.data.sources.locating import located
from fedmed.data.sources.mappings import mapping
from fedmed.data.stores import FolderStore, ZipStore


def load(data: Data) -> Cohort:
    """The table at ``data.path`` with its images in ``data.images``, labels not yet settled.

    Text is read as text, so that patient ids keep their leading zeros. Columns that neither the
    schema, ``data.columns`` nor ``data.mapping`` knows are left out. Raises :class:`UserError`
    naming the file, the row (counted from 1, without the header) or the key.
    """
    path = existing(data.path, "data.path")
    raw = read_table(path)
    remarks: list[str] = []
    if data.mapping:
        mapped, remarks = mapping(data.mapping)(raw, path, data.missing_images)
    else:
        mapped = _mapped(raw, data, path)
    place = existing(data.images, "data.images")
    images = open_images(place)
    if "image" in mapped.columns:
        names, absent, told = located(
            mapped["image"], images, str(path), str(place), data.missing_images
        )
        mapped = mapped.assign(image=names).drop(index=mapped.index[absent])
        remarks = [*remarks, *told]
    if data.positive:
        mapped, told = _zero_or_one(mapped, data, path)
        remarks = [*remarks, *told]
    return Cohort(path.name, mapped, images, remarks=tuple(remarks))


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
    raw = spelled(raw, [*named.values(), *COLUMNS])
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


def _zero_or_one(table: pd.DataFrame, data: Data, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table with the words of its label column read, and remarks on how."""
    if "label" not in table.columns:
        raise UserError(f"{path}: data.positive needs a label column; set data.columns.label")
    words = Words.of(data.positive, data.negative, data.separator)
    labels, remarks = zero_or_one(table["label"], words, str(path))
    return table.assign(label=labels), remarks
