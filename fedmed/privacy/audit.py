"""An append-only log of what a ledger's owner did: one JSON object a line, chained by hash.

Each line holds the hash of the line before it, and the ledger's number of rows and head at that
moment. It lies beside the ledger, or wherever the site wants to keep it out of reach: whoever edits
or rolls back the one has to change the other too.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed import files
from fedmed.errors import RunError

START = "0" * 64  # what the first line and the first row follow


@dataclass(frozen=True)
class Anchor:
    """The ledger's rows and head when the log's last line was written, and that line's hash."""

    rows: int
    head: str
    line: str


def canonical(value: Any) -> str:
    """The one way in which a value is written before it is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(previous: str, text: str) -> str:
    """Hash of a link of a chain."""
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


@dataclass(frozen=True)
class AuditLog:
    """The log at ``path``; whoever holds :meth:`locked` is alone with ledger and log."""

    path: Path
    patience: float = 30.0  # seconds to wait for another process

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out; the lock goes with its holder, however that ends.

        Raises :class:`RunError` where another process holds it for longer than ``patience``.
        """
        with files.disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            deadline = time.monotonic() + self.patience
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunError(
                            f"{self.path} is locked by another process; wait for it, or end it"
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(handle)

    def last(self) -> Anchor:
        """What the last line says; raises :class:`RunError` where it cannot be read."""
        lines = self._tail()
        if not lines:
            return Anchor(0, START, START)
        return _read(lines[-1], self.path)[1]

    def append(self, what: str, rows: int, head: str, **details: Any) -> None:
        """Add a line and have it on the disk; ``details`` never hold anything about a patient."""
        before = self.last()
        body = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "what": what,
            "rows": rows,
            "head": head,
            "previous": before.line,
            **details,
        }
        text = canonical(body)
        line = canonical({**body, "hash": digest(before.line, text)}) + "\n"
        with files.disk_errors(self.path):
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, line.encode("ascii"))
                os.fsync(handle)
            finally:
                os.close(handle)

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the chain checked; raises :class:`RunError` naming the first broken line."""
        if not self.path.exists():
            return []
        previous = START
        found = []
        whole, _, rest = self.path.read_bytes().rpartition(b"\n")
        if rest:
            raise RunError(f"{self.path}: the last line is cut short; restore it from a backup")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            body, anchor = _read(line, self.path, number)
            if body["previous"] != previous:
                raise RunError(
                    f"{self.path}, line {number}: the chain is broken; lines before it were edited "
                    "or removed, restore the log from a backup"
                )
            previous = anchor.line
            found.append(body)
        return found

    def _tail(self) -> list[bytes]:
        """The last whole line, read from the end."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            if size == 0:
                return []
            chunk = b""
            position = size
            while position > 0 and chunk.count(b"\n") < 2:
                step = min(4096, position)
                position -= step
                source.seek(position)
                chunk = source.read(step) + chunk
        if not chunk.endswith(b"\n"):
            # A crash in the middle of a line: what it was about is in the ledger itself.
            chunk = chunk[: chunk.rfind(b"\n") + 1]
            with self.path.open("r+b") as target:
                target.truncate(position + len(chunk))
        return [line for line in chunk.split(b"\n") if line][-1:]


def _read(line: bytes, path: Path, number: int | None = None) -> tuple[dict[str, Any], Anchor]:
    where = f"{path}, line {number}" if number else f"{path}, last line"
    try:
        body = json.loads(line)
        told = body.pop("hash")
        anchor = Anchor(int(body["rows"]), str(body["head"]), str(told))
        right = digest(body["previous"], canonical(body)) == told
    except (ValueError, KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise RunError(f"{where}: it was edited or damaged; restore the log from a backup")
    return body, anchor
