"""Digests of files, remembered between runs for as long as a file does not change."""

import contextlib
import os
import sqlite3
import threading
from typing import Any

from fedmed.base.files import home


class Digests:
    """SHA-256 digests remembered in SQLite; where it fails, digests are just computed again."""

    def __init__(self) -> None:
        self._open: tuple[int, sqlite3.Connection] | None = None
        self._lock = threading.Lock()

    def get(self, key: str) -> str | None:
        """The digest remembered for ``key``, which says which file in which state; else None."""
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            answer = self._database().execute("SELECT digest FROM digests WHERE key = ?", (key,))
            row = answer.fetchone()
            return None if row is None else str(row[0])
        return None

    def put(self, key: str, digest: str) -> None:
        """Remember a digest."""
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
