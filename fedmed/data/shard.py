"""A shard: preprocessed images of one hospital as a uint8 memory map, made once and cached."""

import errno
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base import files
from fedmed.data.brightness import MEASURES, check_left, measured
from fedmed.data.cohort import LABEL_PREFIX, SOFT_PREFIX, Cohort, target_columns
from fedmed.data.form import Form

_MEASURES: Final = "pictures.npy"
_LAYOUT: Final = "-2"
"""Ends folders' names. Older ones may hold pictures that are refused now, and are left alone."""


@dataclass(frozen=True)
class Shard:
    """Images (n, *form), uint8 or (once noised) float32, read-only, and the rows they show.

    ``form`` is (size, size), (slices, size, size) or, for volumes, (size, size, size).
    """

    key: str
    images: NDArray[np.uint8] | NDArray[np.float32]
    table: pd.DataFrame
    path: Path | None = None  # of the images' file
    state: tuple[int, int, int] | None = None  # of that file when it was opened
    measures: NDArray[np.float32] | None = None  # brightness.MEASURES of each image, once clean

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> NDArray[np.float32]:
        """What training aims at (n,): 0 or 1, or between them where a label is uncertain.

        Of several labels (n, k), NaN where one is not known.
        """
        several = target_columns(self.table)
        if several:
            return np.stack([self._aims(name) for name in several], axis=1)
        labels = self.table["label"].to_numpy(dtype=np.float32)
        if "soft" in self.table.columns:
            soft = self.table["soft"].to_numpy(dtype=np.float32, na_value=np.nan)
            labels = np.where(np.isnan(soft), labels, soft)
        return labels

    def _aims(self, column: str) -> NDArray[np.float32]:
        labels = self.table[column].to_numpy(dtype=np.float32, na_value=np.nan)
        soft = self.table.get(SOFT_PREFIX + column.removeprefix(LABEL_PREFIX))
        if soft is None:
            return labels
        aims = soft.to_numpy(dtype=np.float32, na_value=np.nan)
        return np.where(np.isnan(aims), labels, aims)

    def fingerprint(self) -> str:
        """What the data are now: the rows' and images' key, and the state of the images' file."""
        if self.path is None or file_state(self.path) == self.state:
            return self.key
        return f"{self.key}:changed"

    def patients(self) -> list[NDArray[np.int64]]:
        """Row numbers of each patient's images, patients in order of first appearance."""
        if not len(self.table):
            return []
        codes, names = pd.factorize(self.table["patient_id"])
        order = np.argsort(codes, kind="stable")
        return np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])


def shard_key(cohort: Cohort, form: Form) -> str:
    """Key of the cohort's images in ``form``: content, rows and preprocessing."""
    key = hashlib.sha256(f"{form.key}|".encode())
    for name in cohort.table["image"]:
        key.update(f"{name}={cohort.images.digest(str(name))}|".encode())
    key.update(cohort.table.to_csv(index=False).encode())
    return key.hexdigest()[:32]


def load_shard(cohort: Cohort, form: Form, *, nothing_left: bool = False) -> Shard:
    """The cohort's images as a shard, decoded on first use and read from the cache after that.

    Two processes may make the same shard at once: each fills a folder of its own and the first
    rename wins. Raises :class:`UserError` for an image that cannot be read, or a full disk; and,
    unless ``nothing_left``, for pictures of which nothing is left (:func:`brightness.check_left`).
    """
    key = shard_key(cohort, form)
    folder = files.home() / "cache" / "shards" / f"{key}{_LAYOUT}"
    if not (folder / "meta.json").is_file():
        _make(cohort, form, key, folder)
    path = folder / "images.npy"
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    table = cohort.table.reset_index(drop=True)
    measures: NDArray[np.float32] = np.load(folder / _MEASURES, allow_pickle=False)
    if not nothing_left:
        check_left(measures, [str(name) for name in table["image"]], flat=not form.volumes)
    return Shard(key, images, table, path, file_state(path), measures)


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of change of a file; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _make(cohort: Cohort, form: Form, key: str, folder: Path) -> None:
    with files.disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{key}."))
        try:
            shape = (len(cohort), *form.shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            # Ordinary writes: a full disk under a memory map kills the process (SIGBUS).
            with (temporary / "images.npy").open("wb") as target:
                np.lib.format.write_array_header_1_0(target, header)
                measures = np.empty((len(cohort), len(MEASURES)), dtype=np.float32)
                for row, name in enumerate(cohort.table["image"]):
                    image = cohort.images.read(str(name))
                    picture = form.make(image, str(name))
                    measures[row] = measured(picture, image)
                    target.write(picture.tobytes())
            np.save(temporary / _MEASURES, measures, allow_pickle=False)
            meta = {"form": form.key, "images": len(cohort)}
            (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            rename_once(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def rename_once(temporary: Path, folder: Path) -> None:
    """Move a finished folder into place, unless another process was first."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
