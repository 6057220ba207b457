"""Writing files so that a reader never sees half of one, and the folders fedmed keeps."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedmed.errors import UserError


def home() -> Path:
    """Folder of caches and released images: ``$FEDMED_HOME`` or ``~/.local/share/fedmed``."""
    named = os.environ.get("FEDMED_HOME", "")
    return Path(named).expanduser() if named else Path.home() / ".local" / "share" / "fedmed"


def run_folder(out: str, run_id: int) -> Path:
    """A run's directory: ``run.out``, or one of its own for a run that Flower started."""
    return Path(out).expanduser() if out else home() / "runs" / f"flwr-{run_id}"


def safe_name(name: str) -> str:
    """A hospital's name as a file's: what could lead elsewhere is escaped."""
    return quote(name, safe=" ").replace(".", "%2E")


def ledger_path(ledgers: str, folder: Path, member: str | None) -> Path:
    """The ledger of a member (by name), or of the server (None).

    It lies in ``ledgers`` (``run.ledgers``), by default with the results in ``folder``.
    """
    root = Path(ledgers).expanduser() if ledgers else folder / "ledgers"
    # No hospital's ledger is called so: a name's dots are escaped.
    return root / ("server.central.sqlite" if member is None else f"{safe_name(member)}.sqlite")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a place that cannot be written into a :class:`UserError` naming it."""
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
        if error.errno in reasons:
            raise UserError(f"cannot write {path}: {reasons[error.errno]}") from error
        raise


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Raises :class:`UserError` where the disk is full or the place cannot be written; ``path`` is
    then as it was before.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def read_json(path: Path) -> Any:
    """Read a JSON file; raises :class:`UserError` naming the file where it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing; run the experiment that should have made it"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON; delete it and run again") from error


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
