"""Whole files or none: atomic writes, full disks, damaged JSON."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from support import goes_red, refuses

from fedmed.base import files


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOTDIR, "not a folder"),
    ],
)
def test_a_failed_write_names_the_file_and_leaves_the_old_one(
    number: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    before = path.read_text()

    def half(temporary: Path) -> None:
        temporary.write_text('{"a": 2')
        raise OSError(number, "stop")

    def check(write: object) -> None:
        refuses(lambda: write(path, half), str(path), words)  # type: ignore[operator]  # a parameter of the test
        assert path.read_text() == before
        assert [p.name for p in tmp_path.iterdir()] == ["result.json"]

    def in_place(path: Path, write: object) -> None:
        with files.disk_errors(path):
            write(path)  # type: ignore[operator]  # a parameter of the test

    check(files.write_atomically)
    goes_red(check, in_place)


def test_other_errors_of_the_disk_are_told_in_the_systems_words(tmp_path: Path) -> None:
    def fails(error: Exception) -> None:
        with files.disk_errors(tmp_path):
            raise error

    refuses(lambda: fails(OSError(errno.EIO, "odd")), str(tmp_path), "odd", "choose another")
    refuses(lambda: files.write_text(tmp_path / ("n" * 300), "x"), "name too long")
    refuses(lambda: files.write_text(tmp_path / "a\0b", "x"), "cannot write", "null")
    for other in (OSError("no number"), ValueError("of the content")):
        with pytest.raises(type(other)):
            fails(other)


def test_what_is_no_plain_file_is_not_written_over(tmp_path: Path) -> None:
    """A device would be replaced by a file, for everybody on the machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "null", Path(".")):
        refuses(lambda path=path: files.write_text(path, "x"), "no plain file")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    (tmp_path / "dangling").symlink_to("nowhere")
    files.write_text(tmp_path / "dangling", "x")
    assert (tmp_path / "dangling").read_text() == "x"
    assert not list(tmp_path.glob(".*"))


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "result.json"
    refuses(lambda: files.write_text(path, "x"), str(path), "choose another folder")


def test_folders_are_made_and_files_are_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    files.write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    files.write_bytes(path, b"\0")
    assert path.read_bytes() == b"\0"


def test_json_holds_no_nan_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    files.write_json(path, {"x": [1, None, "é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": [1, None, "é"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"x": float("nan")})
    assert files.read_json(path) == {"x": [1, None, "é"]}


def test_absent_and_damaged_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    refuses(lambda: files.read_json(path), str(path), "is missing")
    for content in (b"{", b"", b"\xff"):
        path.write_bytes(content)
        refuses(lambda: files.read_json(path), str(path), "not valid JSON")


def test_home_and_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    assert files.home() == tmp_path
    assert files.run_folder("", 7) == tmp_path / "runs" / "flwr-7"
    assert files.run_folder("out", 7) == Path("out")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("FEDMED_HOME")
    assert files.home() == tmp_path / "user" / ".local" / "share" / "fedmed"
    assert files.run_folder("~/out", 7) == tmp_path / "user" / "out"
