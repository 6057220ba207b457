"""Where a cohort's pixels lie: a folder, a zip, or arrays in memory.

Names that end in .nii, .nii.gz, .npy or .npz are volumes, and so is a folder (or, in a folder, a
zip) of a DICOM series; every other file is a flat image.
"""

import contextlib
import hashlib
import itertools
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.base.opening import absolute, check_regular, is_folder, present, read_bytes, size
from fedmed.base.packed import check_directory
from fedmed.data import arrays, nifti
from fedmed.data.decode import decode
from fedmed.data.digests import Digests
from fedmed.data.series import MAX_SLICES, read_series
from fedmed.data.volume import Volume

MAX_BYTES = 1 << 29
"""Files above 512 MiB are refused before they are read: no radiograph is that large."""

MAX_VOLUME_BYTES = 3 << 28
"""The same for a volume in one file."""

MAX_ZIP_BYTES = 1 << 40
"""A zip is read image by image: only its directory takes memory."""

_SMALLER = "give a smaller image or drop its row"

Image = NDArray[np.float32] | Volume


class FolderStore:
    """Images in a folder, named by their path below it with ``/``; a name may be a folder's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests = Digests()

    def read(self, name: str, bits: int = 0) -> Image:
        """Grey image, float32 in [0, 1], or a volume; :class:`UserError` names a bad file.

        ``bits`` are those of a 16-bit file's values, 0 where nobody says.
        """
        path = self._path(name)
        if is_folder(path):
            files = _few(FolderStore(path).names(), path)
            return read_series(files, lambda file: self._bytes(path / file), str(path))
        if path.suffix.lower() == ".zip":
            return ZipStore(path).series("")
        return _decoded(self._bytes(path), str(path), bits)

    def digest(self, name: str) -> str:
        """SHA-256 of the file's bytes, remembered for as long as the file does not change.

        Of a folder: of its files' names and digests.
        """
        path = self._path(name)
        if is_folder(path):
            below = FolderStore(path)
            told = [f"{file}={below.digest(file)}" for file in _few(below.names(), path)]
            return hashlib.sha256("|".join(told).encode()).hexdigest()
        with _reading(path):
            state = path.stat()
        key = f"{absolute(path)}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}"
        known = self._digests.get(key)
        if known is None:
            known = hashlib.sha256(self._bytes(path)).hexdigest()
            self._digests.put(key, known)
        return known

    def identity(self, name: str) -> str:
        """The path below the folder: no other file changes it."""
        return name

    def names(self) -> Iterator[str]:
        """Every file below the folder, hidden ones left out, in sorted order."""
        seen = {_identity(self.root)}
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for inner in list(folders):
                # A link may lead back up: a folder is walked once.
                if (one := _identity(Path(folder) / inner)) in seen:
                    folders.remove(inner)
                seen.add(one)
            below = Path(folder).relative_to(self.root)
            for file in sorted(files):
                if not file.startswith("."):
                    yield (below / file).as_posix()

    def __contains__(self, name: str) -> bool:
        path = self._path(name)
        return path != self.root and present(path)

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(f"image '{name}' leads out of {self.root}; name a file below it")
        return self.root / parts

    def _bytes(self, path: Path) -> bytes:
        with _reading(path):
            return read_bytes(path, _most(path.name), _SMALLER)


class ZipStore:
    """Images in a zip file, named as in its directory; safe across threads, forks and pickling.

    A folder of the zip is a name too: that of the DICOM series in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile] | None = None
        self._folders: set[str] | None = None
        self._lock = threading.RLock()
        self._archive()  # a damaged zip is found at once

    def read(self, name: str, bits: int = 0) -> Image:
        """Grey image, float32 in [0, 1], or a volume; :class:`UserError` names a bad file.

        ``bits`` are those of a 16-bit file's values, 0 where nobody says.
        """
        if name not in self._archive().NameToInfo and name in self:
            return self.series(name)
        return _decoded(self._bytes(name), f"{self.path}: {name}", bits)

    def series(self, folder: str) -> Volume:
        """The DICOM series in a folder of the zip, "" for the whole of it."""
        where = f"{self.path}: {folder}" if folder else str(self.path)
        below = self._below(folder)
        return read_series(self._files(folder), lambda file: self._bytes(below + file), where)

    def digest(self, name: str) -> str:
        """CRC-32 and size as the zip's directory has them: no pixel is read."""
        if name not in self._archive().NameToInfo and name in self:
            below = self._below(name)
            told = [f"{file}={self.digest(below + file)}" for file in self._files(name)]
            return hashlib.sha256("|".join(told).encode()).hexdigest()
        info = self._info(name)
        return f"{info.CRC:08x}{info.file_size:012x}"

    def identity(self, name: str) -> str:
        """The path in the zip: no other file changes it."""
        return name

    def names(self) -> Iterator[str]:
        """Every file in the zip, in sorted order."""
        with self._lock:
            infos = self._archive().infolist()
        yield from sorted(info.filename for info in infos if not info.is_dir())

    def __contains__(self, name: str) -> bool:
        with self._lock:
            if name in self._archive().NameToInfo:
                return True
            if self._folders is None:
                parents = (PurePosixPath(file).parents for file in self.names())
                self._folders = {str(folder) for above in parents for folder in above} - {"."}
            return name.rstrip("/") in self._folders

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open = None
        self._folders = None
        self._lock = threading.RLock()

    @staticmethod
    def _below(folder: str) -> str:
        return f"{folder.rstrip('/')}/" if folder else ""

    def _files(self, folder: str) -> list[str]:
        """Names below a folder of the zip, hidden ones left out."""
        below = self._below(folder)
        inside = (name.removeprefix(below) for name in self.names() if name.startswith(below))
        seen = (n for n in inside if not any(p.startswith(".") for p in PurePosixPath(n).parts))
        return _few(seen, self.path)

    def _bytes(self, name: str) -> bytes:
        info = self._info(name)
        where = f"{self.path}: {name}"
        if info.file_size > _most(name):
            raise UserError(f"{where} is over {size(_most(name))}; {_SMALLER}")
        try:
            with self._lock:
                return self._archive().read(info)
        except Exception as error:  # zlib, CRC, encryption and I/O errors share no base class
            reason = f"cannot be unpacked ({type(error).__name__}); fetch or make the zip again"
            raise UserError(f"{where} {reason}") from None

    def _info(self, name: str) -> zipfile.ZipInfo:
        with self._lock:
            info = self._archive().NameToInfo.get(name)
        if info is None:
            raise UserError(f"{self.path} holds no '{name}'; correct the name or drop its row")
        return info

    def _archive(self) -> zipfile.ZipFile:
        # A forked child shares the parent's file position, so each process opens its own.
        if self._open is None or self._open[0] != os.getpid():
            with _reading(self.path):
                check_regular(self.path, MAX_ZIP_BYTES, "give a folder or a zip of images")
                check_directory(self.path)
                try:
                    self._open = os.getpid(), zipfile.ZipFile(self.path)
                except Exception:  # a hostile directory fails in ways that cannot be listed
                    raise UserError(
                        f"{self.path}: not a zip file, or a damaged one; fetch or make it again"
                    ) from None
        return self._open[1]


class ArrayStore:
    """Images in arrays: ``train/000012`` is row 12 of the array ``train``.

    Each array is uint8, of shape (n, height, width) or (n, height, width, 3) in RGB; with
    ``volumes``, (n, depth, height, width). ``labels`` are what the set says of each row, (n, ...).
    """

    def __init__(
        self,
        given: Mapping[str, NDArray[np.uint8]],
        *,
        volumes: bool = False,
        labels: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> None:
        self.arrays = dict(given)
        self.volumes = volumes
        self.labels = dict(labels or {})

    def read(self, name: str) -> Image:
        """Grey image, float32 in [0, 1], or a volume; RGB becomes luminance by ITU-R BT.601."""
        if self.volumes:
            return Volume(self._row(name), None, hounsfield=False, where=name)
        image = self._row(name).astype(np.float32) / np.float32(255)
        if image.ndim == 3:
            image = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return image

    def digest(self, name: str) -> str:
        """SHA-256 of the row's shape and bytes."""
        row = np.ascontiguousarray(self._row(name))
        return hashlib.sha256(repr(row.shape).encode() + row.tobytes()).hexdigest()

    def identity(self, name: str) -> str:
        """SHA-256 of the row's array, label and content; not its number, which others decide."""
        key, _, row = name.rpartition("/")
        label = self.labels[key][int(row)].tolist() if key in self.labels else None
        return hashlib.sha256(f"{key}|{label}|{self.digest(name)}".encode()).hexdigest()

    def _row(self, name: str) -> NDArray[np.uint8]:
        key, _, row = name.rpartition("/")
        array = self.arrays.get(key)
        if array is None or not row.isdecimal() or int(row) >= len(array):
            raise UserError(f"no image '{name}'; the arrays are {', '.join(self.arrays)}")
        row_pixels: NDArray[np.uint8] = array[int(row)]
        return row_pixels


def _decoded(data: bytes, where: str, bits: int) -> Image:
    """A volume where the name says so, else a flat image."""
    name = where.lower()
    if name.endswith(nifti.SUFFIXES):
        return nifti.read_nifti(data, where)
    if name.endswith(arrays.SUFFIXES):
        return arrays.read_array(data, where)
    return decode(data, where, bits)


def _most(name: str) -> int:
    """Bytes that the file of this name may have."""
    volume = name.lower().endswith((*nifti.SUFFIXES, *arrays.SUFFIXES))
    return MAX_VOLUME_BYTES if volume else MAX_BYTES


def _few(names: Iterator[str], where: Path) -> list[str]:
    """The files of one series; a folder far up is not walked to its end."""
    listed = list(itertools.islice(names, MAX_SLICES + 1))
    if len(listed) > MAX_SLICES:
        raise UserError(f"{where}: over {MAX_SLICES} files; name a folder with one CT series")
    return listed


def _identity(folder: Path) -> tuple[int, int]:
    with _reading(folder):
        status = folder.stat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong when a file is opened into a :class:`UserError` naming it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the name or drop its row") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}; correct that") from None
