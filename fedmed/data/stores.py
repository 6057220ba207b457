"""Where a cohort's pixels lie: a folder, a zip, or arrays in memory."""

import contextlib
import hashlib
import os
import sqlite3
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.data.decode import decode
from fedmed.errors import UserError
from fedmed.files import home

MAX_BYTES = 1 << 29
"""Files above 512 MiB are refused before they are read: no radiograph is that large."""


class FolderStore:
    """Images in a folder, named by their path below it with ``/``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests = _Digests()

    def read(self, name: str) -> NDArray[np.float32]:
        """Grey image, float32 in [0, 1]; raises :class:`UserError` naming a bad or absent file."""
        path = self._path(name)
        return decode(self._bytes(path), str(path))

    def digest(self, name: str) -> str:
        """SHA-256 of the file's bytes, remembered for as long as the file does not change."""
        path = self._path(name)
        with _reading(path):
            state = path.stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}"
        known = self._digests.get(key)
        if known is None:
            known = hashlib.sha256(self._bytes(path)).hexdigest()
            self._digests.put(key, known)
        return known

    def names(self) -> Iterator[str]:
        """Every file below the folder, hidden ones left out, in sorted order."""
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            below = Path(folder).relative_to(self.root)
            for file in sorted(files):
                if not file.startswith("."):
                    yield (below / file).as_posix()

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(f"image '{name}' leads out of {self.root}; name a file below it")
        return self.root / parts

    def _bytes(self, path: Path) -> bytes:
        with _reading(path):
            if path.stat().st_size > MAX_BYTES:
                raise UserError(f"{path} is over 512 MiB; give a smaller image or drop its row")
            return path.read_bytes()


class ZipStore:
    """Images in a zip file, named as in its directory; safe across threads, forks and pickling."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.RLock()
        self._archive()  # a damaged zip is found at once

    def read(self, name: str) -> NDArray[np.float32]:
        """Grey image, float32 in [0, 1]; raises :class:`UserError` naming a bad or absent file."""
        info = self._info(name)
        where = f"{self.path}: {name}"
        if info.file_size > MAX_BYTES:
            raise UserError(f"{where} is over 512 MiB; give a smaller image or drop its row")
        try:
            with self._lock:
                data = self._archive().read(info)
        except Exception as error:  # zlib, CRC, encryption and I/O errors share no base class
            reason = f"cannot be unpacked ({type(error).__name__}); fetch or make the zip again"
            raise UserError(f"{where} {reason}") from None
        return decode(data, where)

    def digest(self, name: str) -> str:
        """CRC-32 and size as the zip's directory has them: no pixel is read."""
        info = self._info(name)
        return f"{info.CRC:08x}{info.file_size:012x}"

    def names(self) -> Iterator[str]:
        """Every file in the zip, in sorted order."""
        with self._lock:
            infos = self._archive().infolist()
        yield from sorted(info.filename for info in infos if not info.is_dir())

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._archive().NameToInfo

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open = None
        self._lock = threading.RLock()

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
                try:
                    self._open = os.getpid(), zipfile.ZipFile(self.path)
                except (zipfile.BadZipFile, NotImplementedError):
                    raise UserError(
                        f"{self.path}: not a zip file, or a damaged one; fetch or make it again"
                    ) from None
        return self._open[1]


class ArrayStore:
    """Images in arrays: ``train/000012`` is row 12 of the array ``train``.

    Each array is uint8, of shape (n, height, width) or (n, height, width, 3) in RGB.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.uint8]]) -> None:
        self.arrays = dict(arrays)

    def read(self, name: str) -> NDArray[np.float32]:
        """Grey image, float32 in [0, 1]; RGB becomes luminance by ITU-R BT.601."""
        image = self._row(name).astype(np.float32) / np.float32(255)
        if image.ndim == 3:
            image = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return image

    def digest(self, name: str) -> str:
        """SHA-256 of the row's shape and bytes."""
        row = np.ascontiguousarray(self._row(name))
        return hashlib.sha256(repr(row.shape).encode() + row.tobytes()).hexdigest()

    def _row(self, name: str) -> NDArray[np.uint8]:
        key, _, row = name.rpartition("/")
        array = self.arrays.get(key)
        if array is None or not row.isdecimal() or int(row) >= len(array):
            raise UserError(f"no image '{name}'; the arrays are {', '.join(self.arrays)}")
        found: NDArray[np.uint8] = array[int(row)]
        return found


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


class _Digests:
    """SHA-256 digests remembered in SQLite; where it fails, digests are just computed again."""

    def __init__(self) -> None:
        self._open: tuple[int, sqlite3.Connection] | None = None
        self._lock = threading.Lock()

    def get(self, key: str) -> str | None:
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            found = self._database().execute("SELECT digest FROM digests WHERE key = ?", (key,))
            row = found.fetchone()
            return None if row is None else str(row[0])
        return None

    def put(self, key: str, digest: str) -> None:
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            statement = "INSERT OR REPLACE INTO digests (key, digest) VALUES (?, ?)"
            self._database().execute(statement, (key, digest))

    def _database(self) -> sqlite3.Connection:
        if self._open is None or self._open[0] != os.getpid():
            path = home() / "cache" / "digests.sqlite"
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # losing a cache's last rows is harmless
            database.execute(
                "CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, digest TEXT NOT NULL)"
            )
            self._open = os.getpid(), database
        return self._open[1]

    def __del__(self) -> None:
        if self._open is not None:
            self._open[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open = None
        self._lock = threading.Lock()
