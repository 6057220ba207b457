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

from fedmed.base import files
from fedmed.base.errors import RunError, UserError

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


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn a place that cannot be read or written into a :class:`RunError` naming it."""
    try:
        with files.disk_errors(path):
            yield
    except UserError as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(
            f"cannot use {path} ({error.strerror}); check the disk and the folder's permissions"
        ) from error


@dataclass(frozen=True)
class AuditLog:
    """The log at ``path``; whoever holds :meth:`locked` is alone with ledger and log."""

    path: Path
    patience: float = 30.0  # seconds to wait for another process

    @contextmanager
    def locked(self, *, reading: bool = False) -> Iterator[None]:
        """Keep every other process out; the lock goes with its holder, however that ends.

        ``reading`` makes and changes nothing, and locks nothing where there is no log. Raises
        :class:`RunError` where another process holds it for longer than ``patience``.
        """
        if reading and not self.path.exists():
            yield
            return
        with usable(self.path):
            if not reading:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDONLY if reading else os.O_RDWR | os.O_CREAT | os.O_APPEND
            handle = os.open(self.path, flags, 0o600)
        try:
            with usable(self.path):
                self._lock(handle)
            yield
        finally:
            # Closing is not enough where a child that was forked meanwhile holds the handle too.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def _lock(self, handle: int) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{self.path} is locked by another process; wait for it, or end it"
                    ) from None
                time.sleep(0.002)

    def last(self) -> Anchor:
        """What the last whole line says; raises :class:`RunError` where it cannot be read."""
        return self._end()[0]

    def append(
        self, what: str, rows: int, head: str, *, flush: bool = True, **details: Any
    ) -> None:
        """Add a line; ``details`` never hold anything about a patient.

        On the disk when it returns if ``flush`` says so or it is the first, else with the next
        :meth:`flush`.
        """
        before, size = self._end()
        body = {
            **details,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "what": what,
            "rows": rows,
            "head": head,
            "previous": before.line,
        }
        text = canonical(body)
        line = canonical({**body, "hash": digest(before.line, text)}) + "\n"
        with self._appending() as handle:
            if size < os.fstat(handle).st_size:
                # Half a line is what a crash left: what it was about is in the ledger itself.
                os.ftruncate(handle, size)
            rest = line.encode("ascii")
            while rest:
                rest = rest[os.write(handle, rest) :]
            if flush or not size:
                os.fsync(handle)

    def flush(self) -> None:
        """Have every line on the disk."""
        with self._appending() as handle:
            os.fsync(handle)

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the chain checked; raises :class:`RunError` naming the first broken line."""
        if not self.path.exists():
            return []
        previous = START
        entries: list[dict[str, Any]] = []
        with usable(self.path):
            whole = self.path.read_bytes().rpartition(b"\n")[0]
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            body, anchor = _read(line, self.path, number)
            if body["previous"] != previous:
                raise RunError(
                    f"{self.path}, line {number}: the chain is broken; lines before it were edited "
                    "or removed, restore the log from a backup"
                )
            if entries and anchor.rows < entries[-1]["rows"]:
                raise RunError(f"{self.path}, line {number}: it knows of fewer rows than before")
            previous = anchor.line
            entries.append({**body, "rows": anchor.rows})
        return entries

    @contextmanager
    def _appending(self) -> Iterator[int]:
        with usable(self.path):
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                yield handle
            finally:
                os.close(handle)

    def _end(self) -> tuple[Anchor, int]:
        """What the last whole line says, and where it ends; read from the end."""
        if not self.path.exists():
            return Anchor(0, START, START), 0
        with usable(self.path), self.path.open("rb") as source:
            position = source.seek(0, os.SEEK_END)
            chunk = b""
            while position > 0 and chunk.count(b"\n") < 2:
                step = min(4096, position)
                position -= step
                source.seek(position)
                chunk = source.read(step) + chunk
        whole, end, _ = chunk.rpartition(b"\n")
        if not end:
            return Anchor(0, START, START), 0
        return _read(whole.rpartition(b"\n")[2], self.path)[1], position + len(whole) + 1


def _read(line: bytes, path: Path, number: int | None = None) -> tuple[dict[str, Any], Anchor]:
    where = f"{path}, line {number}" if number else f"{path}, last line"
    try:
        body = json.loads(line)
        told = body.pop("hash")
        anchor = Anchor(int(body["rows"]), str(body["head"]), str(told))
        right = digest(body["previous"], canonical(body)) == told
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        right = False
    if not right:
        raise RunError(f"{where}: it was edited or damaged; restore the log from a backup")
    return body, anchor
