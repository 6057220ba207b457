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

from fedmed.base.errors import RunError, UserError
from fedmed.base.files import disk_errors
from fedmed.site.file import SiteFile
from fedmed.site.wire import BadFrame, check_header, read_body, read_header, send_frame

log = logging.getLogger("fedmed.guard")

READING: Final = 120.0  # seconds for a frame's body: a model of a gigabyte over a local socket
_HEADER: Final = 5.0  # seconds for its header
_MOST_WAITING: Final = 8  # requests
_MOST_HEARD: Final = 64  # connections whose header has not come
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
        status = folder.stat()
        if not stat.S_IMODE(status.st_mode) & 0o077:
            return
        # Root may own folders that many others need.
        if status.st_uid == os.getuid() != 0:
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
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
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

    Whether the guard could answer (``status``) is told meanwhile, to the peers and to the guard's
    own user, whatever else is being read or answered. What is being answered at the end is finished
    first. Raises :class:`RunError` where nothing would be answered any more.
    """
    desk = _Desk(answer, refuse, reading, peers)
    desk.worker.start()
    try:
        while running():
            if not desk.worker.is_alive():
                raise RunError("the guard answers nothing any more; start it again")
            listener.settimeout(0.5)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError as error:  # no file descriptors, say
                log.error("a connection was lost: %s", error.strerror)
                time.sleep(0.1)
                continue
            desk.hear(connection)
    finally:
        desk.end()


_Waiting = tuple[socket.socket, int, dict[str, Any], int]


class _Desk:
    """Connections that are heard, each by a thread of its own, and the one worker that answers."""

    def __init__(
        self, answer: Answer, refuse: Refuse, reading: float, peers: tuple[int, ...]
    ) -> None:
        self._answer, self._refuse = answer, refuse
        self._reading, self._peers = reading, peers
        self._strangers: dict[int, float] = {}
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(_MOST_WAITING)
        self._heard: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self.worker = threading.Thread(target=self._work)

    def hear(self, connection: socket.socket) -> None:
        """Have a connection's header read; where too many are open, the oldest is given up."""
        uid = peer_of(connection)
        if uid not in (*self._peers, os.getuid()):
            connection.close()
            self._stranger(uid)
            return
        with self._lock:
            while len(self._heard) >= _MOST_HEARD:
                oldest = next(iter(self._heard))
                del self._heard[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread finds the connection broken
            thread = threading.Thread(target=self._hear, args=(connection, uid), daemon=True)
            self._heard[connection] = thread
        thread.start()

    def end(self) -> None:
        """Finish what is being answered, and drop what waits."""
        with self._lock:
            heard = list(self._heard.items())
        for connection, _ in heard:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for _, thread in heard:
            thread.join(self._reading)
        with contextlib.suppress(queue.Empty):
            while True:
                left = self._waiting.get_nowait()
                if left is not None:
                    left[0].close()
        if self.worker.is_alive():
            self._waiting.put(None)
            self.worker.join()

    def _hear(self, connection: socket.socket, uid: int) -> None:
        """Read a header; ``status`` is answered at once, and all else waits its turn."""
        reply: tuple[dict[str, Any], bytes] | None = None
        try:
            header, size = read_header(connection, seconds=min(self._reading, _HEADER))
            if header == {"kind": "status"} and not size:
                alive = self.worker.is_alive()
                reply = self._answer(header, b"", uid) if alive else ({"error": "guard"}, b"")
            elif uid not in self._peers:
                reply = self._stranger(uid)
            else:
                self._waiting.put_nowait((connection, uid, header, size))
        except BadFrame as error:
            reply = self._refuse("frame", peer=uid, reason=str(error))
        except queue.Full:
            reply = self._refuse("guard", peer=uid, reason="too many requests wait")
        except Exception as error:
            log.error("a connection failed: %s", type(error).__name__)
            reply = {"error": "internal"}, b""
        finally:
            with self._lock:
                self._heard.pop(connection, None)
        if reply is not None:
            _send(connection, reply, self._reading)

    def _work(self) -> None:
        """Answer one request after the other; none of them ends this, whatever it does."""
        while (item := self._waiting.get()) is not None:
            connection, uid, header, size = item
            try:
                reply = self._answer(
                    header, read_body(connection, size, seconds=self._reading), uid
                )
                check_header(reply[0])  # what is no JSON would be found when it is half sent
            except BadFrame as error:
                reply = self._refuse("frame", peer=uid, reason=str(error))
            except MemoryError:
                reply = self._refuse("memory", peer=uid)
            except Exception as error:
                # The text of an exception can hold data: its kind alone is logged.
                log.error("an answer failed: %s", type(error).__name__)
                reply = {"error": "internal"}, b""
            try:
                _send(connection, reply, self._reading)
            except Exception as error:
                log.error("an answer was not sent: %s", type(error).__name__)

    def _stranger(self, uid: int) -> tuple[dict[str, Any], bytes]:
        """A line about a user who is not heard: one a minute, however often it tries."""
        now = time.monotonic()
        with self._lock:
            told = now - self._strangers.get(uid, -_A_LINE_EACH) < _A_LINE_EACH
            if not told:
                self._strangers[uid] = now
        return ({"error": "peer"}, b"") if told else self._refuse("peer", peer=uid)


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
