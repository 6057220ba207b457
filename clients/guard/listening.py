"""The guard's socket: who may connect, one request at a time, and nothing that ends the guard."""

import contextlib
import fcntl
import logging
import os
import queue
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from fedmed.errors import UserError
from fedmed.files import disk_errors
from fedmed.site.file import SiteFile
from fedmed.site.wire import BadFrame, read_body, read_header, send_frame

log = logging.getLogger("fedmed.guard")

READING: Final = 120.0  # seconds for a frame's body: a model of a gigabyte over a local socket
_HEADER: Final = 5.0  # seconds for its header, while nobody else is heard
_MOST_WAITING: Final = 8  # requests
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: ucred of socket(7)
_LONGEST_NAME: Final = 107  # bytes of a Unix socket's path
_LINGER: Final = 0.5  # seconds, and pieces of 64 KiB, that are read after a reply and dropped
_MOST_UNREAD: Final = 64
_A_LINE_EACH: Final = 60.0  # seconds between two lines about a stranger who tries again

Answer = Callable[[dict[str, Any], bytes, int], tuple[dict[str, Any], bytes]]
Refuse = Callable[..., tuple[dict[str, Any], bytes]]


def peers_of(site: SiteFile) -> tuple[int, ...]:
    """User ids that may connect: those of the site's file, else the guard's own."""
    return site.peers or (os.getuid(),)


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can look into; raises :class:`UserError` where it is not.

    Whoever may write into a ledger's or a cache's folder can replace what is in it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.stat()
        if not stat.S_IMODE(found.st_mode) & 0o077:
            return
        # Root may own folders that many others need.
        if found.st_uid == os.getuid() != 0:
            folder.chmod(0o700)
            return
    raise UserError(
        f"{folder}: other users may look into it; give ledger, log and cache a folder of the "
        f"guard's own, or run chmod 700 {folder}"
    )


@contextlib.contextmanager
def alone(ledger: Path) -> Iterator[None]:
    """Hold a lock for as long as the guard lives; a second guard of the same ledger is refused."""
    path = ledger.with_name(f"{ledger.name}.guard")
    with disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{ledger}: another guard runs on this ledger; end it first, or give this site a "
                "ledger of its own"
            ) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def bound(path: Path, peers: tuple[int, ...]) -> Iterator[socket.socket]:
    """The listening socket at ``path``; one that a dead guard left is replaced.

    Reached by the guard's own user alone, by a group where the folder is set-group-id, and else by
    every user of the machine, of whom only ``peers`` are heard.
    """
    if len(os.fsencode(path)) > _LONGEST_NAME:
        raise UserError(
            f"socket: {path} is longer than {_LONGEST_NAME} bytes; choose a shorter one"
        )
    shared = set(peers) != {os.getuid()}
    with disk_errors(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, mode=0o700)
        mode = stat.S_IMODE(path.parent.stat().st_mode)
        if mode & 0o022:
            raise UserError(
                f"socket: others may write into {path.parent}, and could put another socket there; "
                f"run chmod go-w {path.parent}"
            )
        group = bool(mode & stat.S_ISGID)
        folder = 0o700 if not shared else (0o2750 if group else 0o711)
        if path.parent.stat().st_uid == os.getuid():
            path.parent.chmod(folder)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with disk_errors(path):
            listener.bind(str(path))
            path.chmod(0o600 if not shared else (0o660 if group else 0o666))
        listener.listen(16)
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove the socket of a guard that is gone; raises where something else is in the way."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise UserError(f"socket: {path} is another file; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        with contextlib.suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise UserError(f"socket: another process listens on {path}; end it first")
    path.unlink()


def serve(
    listener: socket.socket,
    peers: tuple[int, ...],
    answer: Answer,
    refuse: Refuse,
    running: Callable[[], bool],
    *,
    reading: float = READING,
) -> None:
    """Hear connections until ``running`` says no: one request is answered after the other.

    Whether the guard is there (``status``) is answered meanwhile. What is being answered at the
    end is finished first.
    """
    strangers: dict[int, float] = {}
    waiting: queue.Queue[_Waiting | None] = queue.Queue(_MOST_WAITING)
    worker = threading.Thread(target=_work, args=(waiting, answer, refuse, reading))
    worker.start()
    try:
        while running():
            listener.settimeout(0.5)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            uid = peer_of(connection)
            if uid in peers:
                _hear(connection, uid, waiting, answer, refuse, reading)
                continue
            connection.close()
            if time.monotonic() - strangers.get(uid, -_A_LINE_EACH) >= _A_LINE_EACH:
                strangers[uid] = time.monotonic()
                refuse("peer", peer=uid)
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                left = waiting.get_nowait()
                if left is not None:
                    left[0].close()
        waiting.put(None)
        worker.join()


_Waiting = tuple[socket.socket, int, dict[str, Any], int]


def _hear(
    connection: socket.socket,
    uid: int,
    waiting: "queue.Queue[_Waiting | None]",
    answer: Answer,
    refuse: Refuse,
    reading: float,
) -> None:
    """Read a header; whether the guard is there is told at once, all else waits its turn."""
    try:
        header, size = read_header(connection, seconds=min(reading, _HEADER))
        if header == {"kind": "status"} and not size:
            _send(connection, answer(header, b"", uid), reading)
            return
        waiting.put_nowait((connection, uid, header, size))
    except BadFrame as error:
        _send(connection, refuse("frame", peer=uid, reason=str(error)), reading)
    except queue.Full:
        _send(connection, refuse("guard", peer=uid, reason="too many requests wait"), reading)


def _work(
    waiting: "queue.Queue[_Waiting | None]", answer: Answer, refuse: Refuse, reading: float
) -> None:
    while (item := waiting.get()) is not None:
        connection, uid, header, size = item
        try:
            reply = answer(header, read_body(connection, size, seconds=reading), uid)
        except BadFrame as error:
            reply = refuse("frame", peer=uid, reason=str(error))
        except MemoryError:
            reply = refuse("memory", peer=uid)
        _send(connection, reply, reading)


def peer_of(connection: socket.socket) -> int:
    """User id of the process at the other end, as the kernel knows it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1]) % 2**32


def _send(connection: socket.socket, reply: tuple[dict[str, Any], bytes], reading: float) -> None:
    # Whoever hung up meanwhile may ask again, and gets the stored bytes.
    with connection, contextlib.suppress(OSError):
        send_frame(connection, *reply, seconds=reading)
        # What was not read would reset the connection, and take the code with it.
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER)
        for _ in range(_MOST_UNREAD):
            if not connection.recv(1 << 16):
                break
