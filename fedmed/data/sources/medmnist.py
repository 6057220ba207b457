"""MedMNIST sets in 2D and 3D: an ``.npz`` file, or a name that the package may download."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.base.files import home
from fedmed.base.frames import read_table
from fedmed.base.opening import GIB, opened, present
from fedmed.base.packed import check_zip
from fedmed.config import Data
from fedmed.data.cohort import LABEL_PREFIX, SPLITS, Cohort
from fedmed.data.sources.table import existing
from fedmed.data.stores import ArrayStore

MOST = 16 * GIB
"""Bytes of a set, packed or not: a hundred thousand images of 224 pixels have a third of it."""

MOST_LABELS = 1000


def load(data: Data) -> Cohort:
    """The set's images as ``train/000012`` with its official splits.

    MedMNIST knows no patients: ``data.index``, a CSV with ``split``, ``row`` and ``patient_id``
    (empty where unknown), supplies them. A set of two classes is its own label; of several,
    ``data.target`` names one by number or name, against the rest. Raises :class:`UserError`.
    """
    volumes = data.dimensions == 3 or data.slices > 0
    if re.fullmatch(r"[a-z]+mnist(3d)?", data.path) and not present(Path(data.path)):
        path = _download(data.path, data.image_size, volumes)
    else:
        path = existing(data.path, "data.path")
    images, labels = _read(path, volumes)
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "image": [f"{split}/{row:06d}" for row in range(len(labels[split]))],
                    "split": split,
                }
            )
            for split in SPLITS
        ],
        ignore_index=True,
    )
    values = np.concatenate([labels[split].reshape(len(labels[split]), -1) for split in SPLITS])
    for column, label in _labels(values, data, path).items():
        table[column] = label
    table["patient_id"] = pd.Series(pd.NA, index=table.index, dtype="string")
    if data.index:
        table["patient_id"] = _patients(table, values, existing(data.index, "data.index"))
    return Cohort(path.name, table, ArrayStore(images, volumes=volumes, labels=labels))


def _read(
    path: Path, volumes: bool
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
    images: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    try:
        with opened(path, MOST, "give the .npz of a MedMNIST set") as handle:
            check_zip(handle, MOST, str(path))
            file = np.load(handle, allow_pickle=False, max_header_size=10_000)
            arrays: dict[str, NDArray[Any]] = {
                f"{split}_{kind}": file[f"{split}_{kind}"]
                for split in SPLITS
                for kind in ("images", "labels")
            }
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: no array {error}; give an .npz as MedMNIST makes it") from None
    except Exception as error:  # numpy, zipfile and zlib errors share no base class
        raise UserError(
            f"{path}: not a readable .npz ({type(error).__name__}); fetch the file again"
        ) from None
    for split in SPLITS:
        image, label = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        flat = image.ndim == 3 or (image.ndim == 4 and image.shape[3] == 3)
        if image.ndim not in (3, 4) or image.dtype != np.uint8:
            raise UserError(f"{path}: {split}_images must be images of uint8; fetch it again")
        if volumes and flat:
            raise UserError(
                f"{path}: {split}_images are 2D images; set data.dimensions = 2 and "
                "data.slices = 0, or use a 3D set"
            )
        if not volumes and not flat:
            raise UserError(
                f"{path}: {split}_images are volumes; set data.dimensions = 3 (or data.slices), or "
                "use a 2D set"
            )
        if min(image.shape[1:]) < 1:
            raise UserError(f"{path}: {split}_images are without pixels; fetch it again")
        if (
            label.ndim not in (1, 2)
            or len(label) != len(image)
            or not np.issubdtype(label.dtype, np.integer)
            or (label.ndim == 2 and not 1 <= label.shape[1] <= MOST_LABELS)
        ):
            raise UserError(f"{path}: {split}_labels does not fit {split}_images; fetch it again")
        if label.size and not 0 <= int(label.min()) <= int(label.max()) < MOST_LABELS:
            raise UserError(
                f"{path}: {split}_labels are no numbers from 0 to {MOST_LABELS - 1}; fetch it again"
            )
        images[split], labels[split] = image, label.astype(np.int64)
    return images, labels


def _labels(values: NDArray[np.int64], data: Data, path: Path) -> dict[str, NDArray[np.int64]]:
    """Column -> 0/1; several ``label:<name>`` columns where ``data.target`` has yet to pick one."""
    several = values.shape[1] > 1
    classes = list(range(values.shape[1])) if several else sorted(int(v) for v in np.unique(values))
    if not several and not data.target and set(classes) <= {0, 1}:
        return {"label": values[:, 0]}
    numbered = all(t.strip().isdecimal() for t in data.target.split("|"))
    names = {} if numbered else _class_names(path.stem.partition("_")[0])
    columns = {
        number: (values[:, number] if several else (values[:, 0] == number).astype(np.int64))
        for number in classes
    }
    for number, column in columns.items():
        if data.target and data.target in (str(number), names.get(number)):
            return {"label": column}
    return {f"{LABEL_PREFIX}{names.get(n, n)}": column for n, column in columns.items()}


def _class_names(flag: str) -> dict[int, str]:
    """Names of a set's classes, where the file is named as MedMNIST names it."""
    try:
        import medmnist  # takes seconds to import, so only where a name is needed
    except ImportError:
        return {}  # classes then go by their numbers

    info = medmnist.INFO.get(flag, {"label": {}})
    return {int(number): str(name) for number, name in info["label"].items()}


def _patients(table: pd.DataFrame, values: NDArray[np.int64], path: Path) -> pd.Series:
    """Patient ids by split and row; labels, where the index has them, must agree."""
    index = read_table(path)
    for column in ("split", "row", "patient_id"):
        if column not in index.columns:
            raise UserError(f"{path}: no column '{column}'; it needs split, row, patient_id")
    number = pd.to_numeric(index["row"], errors="coerce")
    wrong = ~((number >= 0) & (number < 1e9) & (number % 1 == 0))
    if wrong.any():
        raise UserError(
            f"{path}, row {int(wrong.to_numpy().argmax()) + 1}: 'row' must be a whole number"
        )
    index["image"] = index["split"] + "/" + number.astype(int).astype(str).str.zfill(6)
    unknown = ~index["image"].isin(table["image"])
    if unknown.any():
        where = int(unknown.argmax()) + 1
        raise UserError(f"{path}, row {where}: the .npz has no such split and row; correct it")
    twice = index["image"].duplicated()
    if twice.any():
        raise UserError(f"{path}, row {int(twice.argmax()) + 1}: split and row are listed twice")
    indexed = index.set_index("image")
    if "label" in index.columns and values.shape[1] == 1:
        told = pd.to_numeric(indexed["label"].reindex(table["image"]), errors="coerce").to_numpy()
        differs = ~np.isnan(told) & (told != values[:, 0])
        if differs.any():
            raise UserError(
                f"{path}: its label for {table['image'].iloc[int(differs.argmax())]} is not the "
                ".npz's; the index belongs to another file"
            )
    ids: pd.Series = indexed["patient_id"].reindex(table["image"]).reset_index(drop=True)
    return ids.astype("string")


def _download(flag: str, image_size: int, volumes: bool) -> Path:
    """The set's file from its publisher, checked and kept: 28 pixels, or the next size above."""
    if flag.endswith("3d") != volumes:
        remedy = "data.dimensions = 2" if volumes else "data.dimensions = 3"
        raise UserError(f"data.path = '{flag}': not of the dimensions asked for; set {remedy}")
    try:
        import medmnist
    except ImportError as error:
        raise UserError(
            f"data.path = '{flag}': no such .npz file, and a set's name needs the medmnist "
            "package; give a file, or install fedmed[medmnist]"
        ) from error

    info = medmnist.INFO.get(flag)
    if info is None:
        known = ", ".join(name for name in medmnist.INFO if name.endswith("3d") == volumes)
        raise UserError(f"data.path = '{flag}': no such set; give an .npz or: {known}")
    sizes = (28, 64) if volumes else (28, 64, 128, 224)
    size = next((s for s in sizes if image_size <= max(s, 32)), sizes[-1])
    folder = home() / "medmnist"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{flag}{'' if size == 28 else f'_{size}'}.npz"
    if not path.exists():
        kind = getattr(medmnist, info["python_class"])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                kind(split="train", download=True, root=str(folder), size=size)
        except Exception:  # the package turns every cause into a RuntimeError of many lines
            path.unlink(missing_ok=True)
            raise UserError(
                f"data.path = '{flag}': the download of {path.name} failed; fetch it on a machine "
                "with internet and set data.path to the .npz file"
            ) from None
    return path
