"""The guard's socket: who may connect, one request at a time, and nothing that ends the guard."""

import contextlib
import fcntl
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from fedmed.errors import UserError
from fedmed.files import disk_errors
from fedmed.site.file import SiteFile
from fedmed.site.wire import BadFrame, read_frame, send_frame

log = logging.getLogger("fedmed.guard")

READING: Final = 120.0  # seconds for a whole frame: a model of a gigabyte over a local socket
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
    """Make a folder that only its owner can look into; raises :class:`UserError` where it cannot.

    Whoever may write into a ledger's or a cache's folder can replace what is in it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            folder.chmod(0o700)


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
    """Answer one connection after the other until ``running`` says no."""
    strangers: dict[int, float] = {}
    while running():
        listener.settimeout(0.5)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            uid = peer_of(connection)
            if uid in peers:
                _one(connection, uid, answer, refuse, reading)
            elif time.monotonic() - strangers.get(uid, -_A_LINE_EACH) >= _A_LINE_EACH:
                strangers[uid] = time.monotonic()
                refuse("peer", peer=uid)


def peer_of(connection: socket.socket) -> int:
    """User id of the process at the other end, as the kernel knows it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1]) % 2**32


def _one(
    connection: socket.socket, uid: int, answer: Answer, refuse: Refuse, reading: float
) -> None:
    try:
        header, body = read_frame(connection, seconds=reading)
    except BadFrame as error:
        reply = refuse("frame", peer=uid, reason=str(error))
    except MemoryError:
        reply = refuse("memory", peer=uid)
    else:
        reply = answer(header, body, uid)
    # Whoever hung up meanwhile may ask again, and gets the stored bytes.
    with contextlib.suppress(OSError):
        send_frame(connection, *reply, seconds=reading)
        # What was not read would reset the connection, and take the code with it.
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER)
        for _ in range(_MOST_UNREAD):
            if not connection.recv(1 << 16):
                break
