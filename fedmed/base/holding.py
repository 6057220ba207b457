"""One process at a time in a folder of results: a lock that names its holder."""

import contextlib
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fedmed.base.errors import UserError
from fedmed.base.files import disk_errors

NAME: Final = ".in-use"
"""The lock's file, there while a process holds the folder; what a crash left locks nobody."""

_LONGEST: Final = 4096  # bytes of a note that are read
_SHOWN: Final = 200  # characters of a command that are shown
_held: dict[Path, int] = {}  # by this process: folder, how often


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made where it is absent, against every other process.

    The system takes the lock back when the process ends, however it ends. Within one process it may
    be held again. Raises :class:`UserError` naming who holds it.
    """
    with disk_errors(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    key = folder.resolve()
    if _held.get(key):
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    handle = _locked(folder)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, _note(), 0)
        _held[key] = 1
        yield
    finally:
        _held.pop(key, None)
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()  # while it is locked: who opened it meanwhile looks again
            if made:
                folder.rmdir()
        os.close(handle)


def _locked(folder: Path) -> int:
    path = folder / NAME
    while True:
        with disk_errors(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(path, flags, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BlockingIOError:
            holder = _holder(os.pread(handle, _LONGEST, 0))
            os.close(handle)
            raise UserError(
                f"{folder} is in use by {holder}; wait for it, end it, or choose another folder"
            ) from None
        except OSError as error:
            os.close(handle)
            raise UserError(
                f"{path}: this file system gives no locks ({error.strerror}); choose another folder"
            ) from error
        os.close(handle)  # its holder removed it before we had it


def _note() -> bytes:
    """Who holds the folder, as JSON."""
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(sys.orig_argv)[:_SHOWN],
    }
    return json.dumps(about).encode()


def _holder(note: bytes) -> str:
    """A note in words; it may be half written, or none of ours."""
    try:
        about = json.loads(note)
        words = "process {pid} on {host} since {since} ({command})".format_map(about)
    except (ValueError, TypeError, KeyError, RecursionError):
        return "another process"
    return "".join(c if c.isprintable() else "?" for c in words)[: 2 * _SHOWN]
