"""Opening files that come from anywhere: regular ones only, of a size that is looked at first.

A pipe would wait for ever, a device has no end, and a file of a few names can claim gigabytes. Who
reads a file says how large it may be.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final

from fedmed.base.errors import UserError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextlib.contextmanager
def opened(path: Path, most: int, remedy: str = "correct the path") -> Iterator[BufferedReader]:
    """A regular file of at most ``most`` bytes, open for reading.

    Raises FileNotFoundError where there is none, and :class:`UserError` naming the file for
    anything else that is wrong with it; ``remedy`` ends the message.
    """
    handle = _handle(path, most, remedy)
    with os.fdopen(handle, "rb") as source:
        try:
            yield source
        except OSError as error:
            raise UserError(f"{path} cannot be read ({_why(error)}); {remedy}") from error


def check_regular(path: Path, most: int, remedy: str = "correct the path") -> None:
    """What :func:`opened` raises, for a file that something else opens."""
    os.close(_handle(path, most, remedy))


def read_bytes(path: Path, most: int, remedy: str = "correct the path") -> bytes:
    """The content of a file that may have ``most`` bytes; raises as :func:`opened`."""
    with opened(path, most, remedy) as source:
        data = source.read(most + 1)  # some files say that they have no size
    if len(data) > most:
        raise UserError(f"{path} is over {size(most)}; {remedy}")
    return data


def is_folder(path: Path) -> bool:
    """Whether there is a folder; False for a name that no disk can hold."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def present(path: Path) -> bool:
    """Whether something is at the path; a name that no disk can hold is nowhere."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def expanded(path: str | Path) -> Path:
    """The path with ``~`` as the home it stands for; that of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


def absolute(path: Path) -> Path:
    """The path from the root, links followed as far as they lead anywhere."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a name with a NUL: who opens it says so
        return path.absolute()


def size(count: int) -> str:
    """A limit in words."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count // unit} {name}"
    return f"{count} bytes"


def _handle(path: Path, most: int, remedy: str) -> int:
    # A pipe is seen before it is opened, and once more by what was opened.
    try:
        _check(path, os.stat(path), most, remedy)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({_why(error)}); {remedy}") from error
    try:
        _check(path, os.fstat(handle), most, remedy)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check(path: Path, status: os.stat_result, most: int, remedy: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for holds, name in _KINDS if holds(status.st_mode)), "no plain file")
        raise UserError(f"{path} is {kind}; {remedy}")
    if status.st_size > most:
        raise UserError(f"{path} is over {size(most)}; {remedy}")


def _why(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
