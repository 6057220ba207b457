"""Writing files so that a reader never sees half of one, and the folders fedmed keeps."""

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from fedmed.base.errors import UserError
from fedmed.base.opening import GIB, MIB, expanded, opened, read_bytes
from fedmed.base.parsing import Unparsable, parse_json

MOST_FILE: Final = 16 * GIB
"""Bytes of a file that is read in parts: no bundle, table or model is larger."""

MOST_JSON: Final = 64 * MIB
"""Bytes of a JSON file: a comparison of many arms has a few hundred thousand."""


def home() -> Path:
    """Folder of caches and released images: ``$FEDMED_HOME`` or ``~/.local/share/fedmed``."""
    named = os.environ.get("FEDMED_HOME", "")
    return expanded(named) if named else Path.home() / ".local" / "share" / "fedmed"


def run_folder(out: str, run_id: int) -> Path:
    """A run's directory: ``run.out``, or one of its own for a run that Flower started."""
    return expanded(out) if out else home() / "runs" / f"flwr-{run_id}"


def safe_name(name: str) -> str:
    """A hospital's name as a file's: what could lead elsewhere is escaped."""
    return quote(name, safe=" ").replace(".", "%2E")


def ledger_path(ledgers: str, folder: Path, member: str | None) -> Path:
    """The ledger of a member (by name), or of the server (None).

    It lies in ``ledgers`` (``run.ledgers``), by default with the results in ``folder``.
    """
    root = expanded(ledgers) if ledgers else folder / "ledgers"
    # No hospital's ledger is called so: a name's dots are escaped.
    return root / ("server.central.sqlite" if member is None else f"{safe_name(member)}.sqlite")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a place that cannot be written into a :class:`UserError` naming it.

    A missing file of another path, and what a network answers, is no matter of the disk.
    """
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space and run again",
            errno.EDQUOT: "the disk quota is used up; free some space and run again",
            errno.EROFS: "the place is read-only; choose another folder",
            errno.EACCES: "permission denied; choose another folder or change its permissions",
            errno.EPERM: "permission denied; choose another folder or change its permissions",
            errno.EEXIST: "a part of the path is a file, not a folder; choose another folder",
            errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
        }
        if error.errno is None:
            raise
        reason = reasons.get(error.errno, f"{error.strerror}; choose another folder")
        raise UserError(f"cannot write {path}: {reason}") from error
    except ValueError as error:  # a path with a NUL, or one that no encoding can write
        if "null" not in str(error) and not isinstance(error, UnicodeError):
            raise
        raise UserError(f"cannot write {path}: {error}; choose another folder") from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Raises :class:`UserError` where the disk is full or the place cannot be written; ``path`` is
    then as it was before.
    """
    with disk_errors(path):
        if not path.name or (os.path.exists(path) and not path.is_file()):
            raise UserError(f"cannot write {path}: it is no plain file; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomically(path, lambda temporary: _put(temporary, data))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN is refused (``ValueError``), use ``None``."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def without_nan(value: Any) -> Any:
    """The same nested value with None for NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def is_seed(digits: str) -> bool:
    """Whether the end of a folder's name ``seed-N`` is a seed: digits as this project writes them.

    Other scripts have digits too, and int() reads them; a thousand digits it does not read.
    """
    return digits.isascii() and digits.isdecimal() and len(digits) <= 10


def digest(path: Path) -> str:
    """SHA-256 of a file, read in parts; raises as :func:`fedmed.base.opening.opened`."""
    with opened(path, MOST_FILE) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file; raises :class:`UserError` naming the file where it is absent or damaged."""
    try:
        return parse_json(read_bytes(path, MOST_JSON, "delete it and run again"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing; run the experiment that should have made it"
        ) from error
    except Unparsable as error:
        raise UserError(f"{path} is not valid JSON; delete it and run again") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; raises :class:`UserError` as :func:`read_json`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; delete it and run again")
    return value


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
