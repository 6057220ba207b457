"""Files from anywhere: what is no file is refused at once, and so is what is too large."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support import refuses

from fedmed.base.opening import check_regular, opened, read_bytes


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def sparse(path: Path) -> None:
    with path.open("wb") as made:
        made.truncate(5 << 30)


def endless(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (pipe, "is a pipe"),
        (device, "is a device"),
        (listening, "is a socket"),
        (Path.mkdir, "is a folder"),
        (sparse, "is over 1 MiB"),
        (endless, "cannot be read"),
        (circle, "cannot be read"),
    ],
)
@pytest.mark.timeout(20)
def test_what_is_no_file_is_named_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], None], word: str
) -> None:
    path = tmp_path / "given"
    make(path)
    refuses(lambda: read_bytes(path, 1 << 20, "mend it"), str(path), word, "mend it")


def test_a_file_at_its_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(b"x" * 100)
    assert read_bytes(path, 100) == b"x" * 100
    check_regular(path, 100)
    refuses(lambda: read_bytes(path, 99), "is over 99 bytes")
    refuses(lambda: check_regular(path, 99), "is over 99 bytes")


def test_a_file_that_tells_no_size_is_read_to_its_limit_only() -> None:
    """Files of /proc are regular, and of size 0."""
    assert read_bytes(Path("/proc/self/status"), 1 << 16)
    refuses(lambda: read_bytes(Path("/proc/self/status"), 100), "is over 100 bytes")


def test_an_absent_file_is_the_readers_to_explain(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("absent", "dangling"):
        with pytest.raises(FileNotFoundError):
            read_bytes(tmp_path / name, 10)
    refuses(lambda: read_bytes(tmp_path / ("n" * 300), 10), "cannot be read", "name too long")
    refuses(lambda: read_bytes(tmp_path / "a\0b", 10), "cannot be read", "null")


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"x")
    before = os.listdir("/proc/self/fd")
    with opened(tmp_path / "given", 10) as source:
        assert source.read() == b"x"
    refuses(lambda: read_bytes(tmp_path, 10), "is a folder")
    refuses(lambda: read_bytes(tmp_path / "given", 0), "is over 0 bytes")
    assert len(os.listdir("/proc/self/fd")) == len(before)
