"""A guard's socket with something else behind it, in a thread of this process."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmed.hospital.guard.listening import bound, serve


class Book:
    """What was answered and refused, in place of a guard."""

    def __init__(self) -> None:
        self.answered: list[dict[str, Any]] = []
        self.refused: list[str] = []

    def answer(
        self, header: dict[str, Any], body: bytes, peer: int
    ) -> tuple[dict[str, Any], bytes]:
        self.answered.append(header)
        return {"hospital": "st-mary", "version": "1"}, b""

    def refuse(self, code: str, **_: Any) -> tuple[dict[str, Any], bytes]:
        self.refused.append(code)
        return {"error": code}, b""


@contextmanager
def listening(
    path: Path, peers: tuple[int, ...], reading: float = 1.0, book: Book | None = None
) -> Iterator[Book]:
    book, stop = book or Book(), threading.Event()
    with bound(path, peers) as listener:
        thread = threading.Thread(
            target=serve,
            args=(listener, peers, book.answer, book.refuse, lambda: not stop.is_set()),
            kwargs={"reading": reading},
        )
        thread.start()
        try:
            yield book
        finally:
            stop.set()
            thread.join(20)
    assert not thread.is_alive()


def raw(path: Path, data: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))  # waits where the queue is full; with a timeout it would fail
        connection.settimeout(20)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(4096):
            found += piece
        return found
