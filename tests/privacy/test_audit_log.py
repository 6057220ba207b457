"""The audit log: on the disk first, chained, healed after a crash, and read from its end."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support.ledger import ROWS, RUN, filled, opened, request

from fedmed.base.errors import RunError
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.log import START, AuditLog, canonical, digest


class Crash(BaseException):
    """The process dies here."""


def crash_before_the_line(patch: pytest.MonkeyPatch) -> None:
    """Die after the database has the row."""

    def dies(*_: object) -> None:
        raise Crash

    patch.setattr(Ledger, "_anchor", dies)


def crash_within_the_line(patch: pytest.MonkeyPatch) -> None:
    """Die when half of the line is written."""
    write = os.write

    def dies(handle: int, data: bytes) -> int:
        write(handle, data[: len(data) // 2])
        raise Crash

    patch.setattr(os, "write", dies)


def check_heals(crash: Callable[[pytest.MonkeyPatch], None], ledger: Ledger, taken: int) -> None:
    before = len(ledger.log.entries())
    with pytest.MonkeyPatch.context() as patch:
        crash(patch)
        with pytest.raises(Crash):
            ledger.reserve(RUN, 9, "m", 1)
    assert len(ledger.log.entries()) == before
    again = Ledger(ledger.path)
    assert again.steps(RUN) == taken  # the caller never heard of it, and it counts
    again.verify()
    again.reserve(RUN, 10, "m", 1)
    assert again.steps(RUN) == taken + 1
    assert again.verify() == again.log.entries()[-1]["rows"]
    assert len(again.log.entries()) == before + 2  # the missing line and the new one


@pytest.mark.parametrize("crash", [crash_before_the_line, crash_within_the_line])
def test_a_crash_between_ledger_and_log_heals_with_the_next_write(
    tmp_path: Path, crash: Callable[[pytest.MonkeyPatch], None]
) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    for number in range(4):  # and again: nothing adds up to a log that seems cut
        check_heals(crash, ledger, 11 + 2 * number)

    def before_the_row(patch: pytest.MonkeyPatch) -> None:
        def dies(*_: object, **__: object) -> None:
            raise Crash

        patch.setattr(Ledger, "_end", dies)

    goes_red(check_heals, before_the_row, ledger, 19)


def test_lines_that_the_power_took_are_healed_and_more_are_not(tmp_path: Path) -> None:
    """A line is on the disk only with the next row: two may be missing, three cannot."""
    for lost, fine in ((1, True), (2, True), (3, False)):
        ledger = opened(tmp_path / f"{lost}.sqlite")
        for number in range(5):
            ledger.reserve(RUN, number, "m", 1)
        lines = ledger.log.path.read_text().splitlines(keepends=True)
        ledger.log.path.write_text("".join(lines[:-lost]))
        if fine:
            assert ledger.verify() == 6
            ledger.reserve(RUN, 9, "m", 1)
            assert ledger.log.entries()[-1]["rows"] == 7
        else:
            refuses(ledger.verify, "the log was cut short", error=RunError)
            refuses(partial(ledger.reserve, RUN, 9, "m", 1), "cut short", error=RunError)


def test_an_older_line_is_on_the_disk_before_a_new_row_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else power could take any number of lines: each write flushes the log, the first its line."""
    flushed: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.append(1), sync(handle)))
    ledger = opened(tmp_path / "l.sqlite")
    assert len(flushed) >= 1
    flushed.clear()
    entry = ledger.reserve(RUN, 1, "m", 1)
    assert len(flushed) == 1
    ledger.commit(entry, b"x")
    assert len(flushed) == 1  # a commit spends nothing, and waits for no disk


def test_the_log_knows_the_ledgers_head_after_each_spend(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    rows = ledger.rows()
    for entry in ledger.log.entries():
        assert entry["head"] == rows[entry["rows"] - 1].hash
    kinds = [(entry["what"], entry["rows"]) for entry in ledger.log.entries()]
    assert kinds == [
        (row.kind, row.id) for row in rows if row.kind != "commit"
    ]  # a commit is anchored with the row after it


def test_notes_stand_in_the_log_and_change_no_anchor(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.note("refused", reason="the cohort is smaller than the policy's minimum")
    assert not ledger.path.exists()
    assert ledger.verify() == 0
    ledger.open_plan(RUN, request())
    ledger.note("refused", reason="another")
    first, _, last = ledger.log.entries()
    assert (first["rows"], first["head"], last["rows"]) == (0, START, 1)
    assert last["reason"] == "another"
    assert ledger.verify() == 1
    ledger.note("refused", previous="x", time="y")  # what a line says of itself stays its own
    assert ledger.verify() == 1
    ledger.log.entries()


def test_checking_changes_no_file(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    with ledger.log.path.open("ab") as log:
        log.write(b'{"half')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert ledger.verify() == ROWS
    ledger.rows()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_child_that_was_forked_keeps_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the handle, as a fork makes one, outlives the holder."""
    log = AuditLog(tmp_path / "log", patience=0.1)
    copies: list[int] = []
    make = os.open

    def copied(*arguments: Any) -> int:
        handle = make(*arguments)
        copies.append(os.dup(handle))
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", copied)
        with log.locked():
            pass
    with log.locked():
        assert copies
    for handle in copies:
        os.close(handle)


def test_each_line_is_chained_to_the_one_before(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log")
    with log.locked():
        assert log.last().line == START
        for number in range(3):
            log.append("note", number, "0" * 64, number=number)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    previous = START
    for line in lines:
        told = line.pop("hash")
        assert line["previous"] == previous
        assert told == digest(previous, canonical(line))
        previous = told
    assert log.last().line == previous
    assert log.last().rows == 2


def test_a_line_longer_than_what_is_read_at_once_is_the_last_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log")
    with log.locked():
        log.append("note", 1, "a" * 64)
        log.append("note", 2, "b" * 64, text="long " * 3000)
        assert log.last().rows == 2
        with log.path.open("ab") as target:
            target.write(b"half " * 2000)
        assert log.last().rows == 2
        log.append("note", 3, "c" * 64)
    assert [entry["rows"] for entry in log.entries()] == [1, 2, 3]


def test_chains_written_before_are_still_whole() -> None:
    """Another spelling of the same value would break every ledger and log that exists."""
    assert canonical({"b": [1, None], "a": "é"}) == r'{"a":"\u00e9","b":[1,null]}'
    assert digest(START, "{}") == "5649d09ed68c17156095d175eef152856c5b1a81c117c409c1e00f096aa6838e"


def test_a_log_is_its_owners_alone_in_a_folder_made_for_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "site" / "books" / "log")
    with log.locked(reading=True):
        assert not (tmp_path / "site").exists(), "whoever reads makes nothing"
    with log.locked():
        log.append("note", 0, START)
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_reader_waits_for_the_writer(tmp_path: Path) -> None:
    log, impatient = AuditLog(tmp_path / "log"), AuditLog(tmp_path / "log", patience=0.0)

    def enter(reading: bool) -> None:
        with impatient.locked(reading=reading):
            pass

    with log.locked():
        for reading in (True, False):
            refuses(partial(enter, reading), "locked by another process", error=RunError)
    enter(True)


def test_a_line_is_on_the_disk_when_it_has_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line makes the file, and a refused plan waits for no later row."""
    log = AuditLog(tmp_path / "log")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)

    def flushes(**asked: bool) -> int:
        flushed.clear()
        log.append("note", 0, START, **asked)
        return len(flushed)

    with log.locked():
        assert flushes(flush=False) == 1
        assert flushes(flush=False) == 0
        assert flushes() == flushes(flush=True) == 1
        flushed.clear()
        log.flush()
        assert len(flushed) == 1
