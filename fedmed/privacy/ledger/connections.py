"""Connections to a ledger's SQLite file that stay open between writes.

In SQLite's write-ahead mode a transaction is one append and one flush, and the last connection that
closes pays for the rest: kept open, a write costs a fifth of what it does alone.
"""

import atexit
import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_KEPT: Final = 16  # each holds three files open
_idle: dict[Path, tuple[tuple[int, int], sqlite3.Connection]] = {}
_of_parents: list[object] = []  # what must be neither used nor closed in a forked child
_lock = threading.Lock()


@contextlib.contextmanager
def borrowed(path: Path, patience: float) -> Iterator[sqlite3.Connection]:
    """A connection to the file at ``path`` that nobody else uses; made where there is none."""
    path = path.absolute()
    with _lock:
        known = _idle.pop(path, None)
    if known is not None and known[0] == _identity(path):
        db = known[1]
    else:
        if known is not None:  # the file was moved, deleted or replaced
            known[1].close()
        db = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        if known is None or known[1] is not db:
            with contextlib.suppress(sqlite3.OperationalError):  # slower without, not less safe
                db.execute("pragma journal_mode = wal")
        db.execute(f"pragma busy_timeout = {round(patience * 1000)}")
        yield db
    except BaseException:
        db.close()
        raise
    _keep(path, db)


def close_all() -> None:
    """Close what is idle; each ledger is then one file again."""
    with _lock:
        databases = [db for _, db in _idle.values()]
        _idle.clear()
    for db in databases:
        _settle(db)


def _keep(path: Path, db: sqlite3.Connection) -> None:
    identity = _identity(path)
    if identity is None:
        db.close()
        return
    with _lock:
        older = [_idle.pop(path, None)]
        if len(_idle) >= _KEPT:
            older.append(_idle.pop(next(iter(_idle))))
        _idle[path] = (identity, db)
    for item in older:
        if item is not None:
            _settle(item[1])


def _settle(db: sqlite3.Connection) -> None:
    # So that a copy of the one file, or a reader without rights to write, finds everything in it.
    with contextlib.suppress(sqlite3.Error):  # another process uses it
        db.execute("pragma busy_timeout = 0")
        db.execute("pragma journal_mode = delete")
    db.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _of_parents.append(dict(_idle))
    _idle.clear()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_all)
