"""The guard's socket: who is heard, what a bad frame does, and what a second guard is told."""

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support.guard import SITE, write_site
from support.socket import Book, listening, raw

from fedmed.hospital.guard import process
from fedmed.hospital.guard.listening import alone, bound, peers_of, private_folder
from fedmed.hospital.node import may_run
from fedmed.site import asking
from fedmed.site.asking import GuardRefusal
from fedmed.site.wire import send_frame

OURS = (os.getuid(),)


@pytest.fixture(autouse=True)
def _same_umask() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


def test_a_bad_frame_gets_a_code_and_the_guard_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with listening(path, OURS) as book:
        for data in (b"hello", struct.pack(">4sIQ", b"FMG1", 2**31, 0), b"", b"\x80\x04." * 100):
            assert b'{"error":"frame"}' in raw(path, data)
        assert asking.status(str(path)) == {"hospital": "st-mary", "version": "1"}
    assert book.refused == ["frame"] * 4
    assert book.answered == [{"kind": "status"}]


def test_a_peer_that_says_nothing_holds_the_guard_only_so_long(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with listening(path, OURS, reading=0.3) as book, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert asking.status(str(path), seconds=20)["hospital"] == "st-mary"
    assert book.refused == ["frame"]


def test_a_peer_that_hangs_up_before_its_answer_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with listening(path, OURS):
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(str(path))
                send_frame(rude, {"kind": "status"})
        assert asking.status(str(path))["hospital"] == "st-mary"


def test_a_user_who_is_not_named_is_not_heard(tmp_path: Path) -> None:
    def check(peers: tuple[int, ...]) -> None:
        path = tmp_path / f"{peers[0]}.sock"
        with listening(path, peers) as book:
            for _ in range(2):
                assert not may_run(str(path), "a" * 64)
            # Whether the guard lives is told to its own user, as whom health checks run.
            assert asking.status(str(path))["hospital"] == "st-mary"
        assert book.answered == [{"kind": "status"}]
        assert book.refused == ["peer"]  # one line, however often it tries

    check((os.getuid() + 1,))
    goes_red(check, OURS)


def test_a_stranger_is_not_even_told_whether_the_guard_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, us = tmp_path / "g.sock", os.getuid()
    with bound(path, (us + 1,)):
        pass
    with listening(path, (us + 1,)) as book:
        monkeypatch.setattr("fedmed.hospital.guard.listening.os.getuid", lambda: us + 2)
        refuses(lambda: asking.status(str(path)), "guard", error=GuardRefusal)
    assert book.answered == []
    assert book.refused == ["peer"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("peers", "before", "folder", "file"),
    [
        (OURS, 0o755, 0o700, 0o600),
        ((os.getuid() + 1,), 0o700, 0o711, 0o666),
        ((os.getuid() + 1,), 0o2770 & ~0o020, 0o2750, 0o660),
    ],
    ids=["own user", "another", "a shared group"],
)
def test_modes_are_as_tight_as_the_peers_allow(
    peers: tuple[int, ...], before: int, folder: int, file: int, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    place.mkdir()
    place.chmod(before)
    with bound(place / "g.sock", peers):
        assert (mode(place), mode(place / "g.sock")) == (folder, file)
    assert not (place / "g.sock").exists()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    refuses(bound(tmp_path / "g.sock", OURS).__enter__, "chmod go-w")


def test_a_socket_that_a_dead_guard_left_is_replaced_and_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "g.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with listening(path, OURS):
        assert asking.status(str(path))["hospital"] == "st-mary"
        refuses(bound(path, OURS).__enter__, "another process listens")
    path.write_text("a file")
    refuses(bound(path, OURS).__enter__, "another file")
    assert path.read_text() == "a file"
    refuses(bound(tmp_path / ("x" * 120), OURS).__enter__, "shorter")


def test_a_second_guard_on_the_same_ledger_is_refused(tmp_path: Path) -> None:
    def check(second: Path) -> None:
        with alone(tmp_path / "ledger.sqlite"):
            refuses(alone(second).__enter__, "another guard")

    check(tmp_path / "ledger.sqlite")
    goes_red(check, tmp_path / "other.sqlite")
    with alone(tmp_path / "ledger.sqlite"):  # the first is gone
        pass


def test_folders_of_ledger_and_cache_are_the_guards_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)
    owner = folder.stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    refuses(lambda: private_folder(folder), "chmod 700")
    monkeypatch.setattr("os.getuid", lambda: 0)
    refuses(lambda: private_folder(folder), "chmod 700")  # /var/log, say
    assert mode(folder) == 0o755


def test_whether_the_guard_is_there_is_told_while_it_trains(tmp_path: Path) -> None:
    path, go = tmp_path / "g.sock", threading.Event()

    class Slow(Book):
        def answer(
            self, header: dict[str, Any], body: bytes, peer: int
        ) -> tuple[dict[str, Any], bytes]:
            if header["kind"] != "status":
                assert go.wait(20)
            return super().answer(header, body, peer)

    found: list[bool] = []
    with listening(path, OURS, reading=20, book=Slow()) as book:
        asked = threading.Thread(target=lambda: found.append(may_run(str(path), "a" * 64)))
        asked.start()
        assert asking.status(str(path), seconds=10)["hospital"] == "st-mary"
        assert found == []
        go.set()
        asked.join(20)
    assert found == [True]
    assert [h["kind"] for h in book.answered] == ["status", "app"]


@pytest.mark.parametrize("name", ["site.toml", "policy.toml"])
def test_a_file_that_decides_and_others_may_write_is_refused(name: str, tmp_path: Path) -> None:
    site = write_site(tmp_path)
    (tmp_path / name).chmod(0o664)
    refuses(lambda: process.run(site, lambda _: None), name, "chmod go-w")


def test_a_socket_in_the_guards_own_folder_is_refused(tmp_path: Path) -> None:
    site = write_site(tmp_path, site=SITE.replace("run/guard.sock", "state/guard.sock"))
    refuses(lambda: process.run(site, lambda _: None), "folder of its own")


def test_no_guard_is_a_code_too(tmp_path: Path) -> None:
    refuses(lambda: asking.status(str(tmp_path / "none.sock")), "guard", error=GuardRefusal)


def test_without_peers_the_guards_own_user_is_the_peer() -> None:
    class Site:
        peers: tuple[int, ...] = ()

    found: Callable[[Any], tuple[int, ...]] = peers_of
    assert found(Site()) == OURS
