"""A ledger that cannot be trusted, read or written stops everything, in one line."""

import json
import sqlite3
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from support import refuses
from support.ledger import ACCOUNT, RUN, edited, filled, opened, request

from fedmed.base.errors import RunError
from fedmed.privacy.ledger import connections, filtering, rows
from fedmed.privacy.ledger.filtering import Charge, Limit
from fedmed.privacy.ledger.ledger import VERSION, Ledger


def every_use(ledger: Ledger) -> list[Callable[[], object]]:
    """Every way to read or write."""
    return [
        lambda: ledger.open_plan("new", request()),
        lambda: ledger.reserve(RUN, 9, "m", 1),
        lambda: ledger.commit(2, b"x"),
        lambda: ledger.steps(RUN),
        lambda: ledger.state(ACCOUNT),
        lambda: ledger.answered(RUN, 1, "m"),
        lambda: ledger.opened(RUN),
        ledger.rows,
        ledger.verify,
    ]


def test_a_file_that_is_no_ledger_stops_everything(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to be read as one" * 40)
    before = path.read_bytes()
    for use in every_use(Ledger(path)):
        refuses(use, "the ledger", "cannot be used", error=RunError)
    assert path.read_bytes() == before
    folder = tmp_path / "folder.sqlite"
    folder.mkdir()
    for use in every_use(Ledger(folder)):
        refuses(use, "cannot be used", error=RunError)


def test_a_ledger_of_a_newer_version_stops_everything(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    with edited(ledger.path) as db:
        db.execute(f"pragma user_version = {VERSION + 1}")
    for use in every_use(ledger):
        refuses(use, "made by a newer fedmed", "update fedmed", error=RunError)
    with edited(ledger.path) as db:
        db.execute(f"pragma user_version = {VERSION}")
    assert ledger.verify() == 8


@pytest.mark.parametrize("where", ["ledger", "log", "above"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    """A folder or a file is in the way, as root may write wherever there is none."""
    path = tmp_path / "l.sqlite"
    if where == "above":
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "l.sqlite"
    else:
        (path if where == "ledger" else Ledger(path).log.path).mkdir()
    ledger = Ledger(path)
    for use in (
        lambda: ledger.open_plan(RUN, request()),
        lambda: ledger.reserve(RUN, 1, "m", 1),
        lambda: ledger.commit(1, b""),
    ):
        refuses(use, str(path).removesuffix(".sqlite"), error=RunError)


@pytest.mark.parametrize("failure", ["attempt to write a readonly database", "disk I/O error"])
def test_a_disk_that_fails_is_a_line_about_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    ledger = opened(tmp_path / "l.sqlite")

    def fails(db: sqlite3.Connection, row: object) -> None:
        raise sqlite3.OperationalError(f"{failure}\nin two lines")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "insert", fails)
        refuses(lambda: ledger.reserve(RUN, 1, "m", 1), failure, "permissions", error=RunError)
    assert ledger.steps(RUN) == 0
    ledger.reserve(RUN, 1, "m", 1)
    assert ledger.verify() == 2


def test_a_reply_that_cannot_be_kept_stays_spent_and_unrecorded(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    entry = ledger.reserve(RUN, 1, "m", 5)
    (tmp_path / f"l.reply-{entry}").mkdir()
    refuses(lambda: ledger.commit(entry, b"x"), f"l.reply-{entry}", error=RunError)
    assert [row.kind for row in ledger.rows()] == ["plan", "reserve"]
    assert ledger.steps(RUN) == 5


def check_waits_no_longer(ledger: Ledger, use: Callable[[], object]) -> None:
    start = time.monotonic()
    refuses(use, "locked by another process", "wait for it, or end it", error=RunError)
    assert time.monotonic() - start < ledger.patience + 3


def test_a_ledger_held_by_another_process_is_waited_for_and_then_named(tmp_path: Path) -> None:
    opened(tmp_path / "l.sqlite")
    ledger = Ledger(tmp_path / "l.sqlite", patience=0.1)
    with ledger.log.locked():
        check_waits_no_longer(ledger, lambda: ledger.reserve(RUN, 1, "m", 1))
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        check_waits_no_longer(ledger, lambda: ledger.reserve(RUN, 1, "m", 1))
        other.execute("rollback")
    ledger.reserve(RUN, 1, "m", 1)
    assert ledger.steps(RUN) == 1


def test_a_ledger_that_another_frees_in_time_is_used(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    with ThreadPoolExecutor(1) as pool:
        with ledger.log.locked():
            waiting = pool.submit(ledger.reserve, RUN, 1, "m", 1)
            time.sleep(0.05)
            assert not waiting.done()
        assert waiting.result(timeout=5) == 2


def test_a_clock_set_back_is_refused_and_a_little_is_borne(tmp_path: Path) -> None:
    now = [1e9]
    ledger = Ledger(tmp_path / "l.sqlite", clock=lambda: now[0])
    ledger.open_plan(RUN, request())
    for later, fine in ((10.0, True), (-3000.0, True), (20.0, True), (-3700.0, False)):
        now[0] = 1e9 + later
        before = len(ledger.rows())
        if fine:
            ledger.reserve(RUN, 1, "m", 1)
        else:
            refuses(
                lambda: ledger.reserve(RUN, 1, "m", 1), "the clock is 3720 s behind", error=RunError
            )
        assert len(ledger.rows()) == before + fine
    assert [row.time - 1e9 for row in ledger.rows()] == [0, 10, 10, 20]
    assert ledger.verify() == 4


def test_a_start_that_was_killed_leaves_a_ledger_that_can_be_used(tmp_path: Path) -> None:
    """An empty file, and one with its table but without a version."""
    for name in ("empty", "half"):
        ledger = Ledger(tmp_path / f"{name}.sqlite")
        with closing(sqlite3.connect(ledger.path)) as db:
            if name == "half":
                db.executescript(rows.SCHEMA)
        ledger.path.touch()
        assert ledger.steps(RUN) == 0
        assert ledger.state(ACCOUNT) == ([], [])
        assert not ledger.opened(RUN)
        ledger.open_plan(RUN, request())
        ledger.reserve(RUN, 1, "m", 5)
        assert ledger.steps(RUN) == 5


def test_asking_makes_no_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "deep" / "l.sqlite")
    assert ledger.steps(RUN) == 0
    assert ledger.rows() == []
    assert ledger.answered(RUN, 1, "m") is None
    refuses(ledger.verify, "no such ledger", error=RunError)
    assert list(tmp_path.iterdir()) == []


def test_rows_and_log_hold_nothing_about_a_patient(tmp_path: Path) -> None:
    """Their words are those of plans and rounds; of the data, a fingerprint."""
    ledger = filled(tmp_path / "l.sqlite")
    ledger.note("refused", reason="the policy does not allow the arm none")
    plan = {f.strip() for f in Charge.__dataclass_fields__} | {"sole", "order", "limit"}
    for row in ledger.rows():
        allowed = {"plan": plan, "reserve": {"repeatable"}, "commit": {"reply"}}[row.kind]
        assert set(row.body) <= allowed
        assert set(row.spent) == {"rdp", "taken"}
    names = {"time", "what", "rows", "head", "previous", "hash", "account", "run", "steps"}
    for line in ledger.log.path.read_text().splitlines():
        assert set(json.loads(line)) <= names | {"reason", "arm"}


def test_a_connection_is_not_kept_for_a_file_that_was_replaced(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    ledger.reserve(RUN, 1, "m", 5)
    for path in tmp_path.iterdir():
        path.unlink()
    opened(ledger.path)
    assert ledger.steps(RUN) == 0
    ledger.reserve(RUN, 1, "m", 3)
    assert ledger.steps(RUN) == 3
    assert ledger.verify() == 2


def test_many_ledgers_keep_few_files_open(tmp_path: Path) -> None:
    for number in range(20):
        opened(tmp_path / f"{number}.sqlite")
    assert len(connections._idle) <= 16
    connections.close_all()
    assert not list(tmp_path.glob("*-wal"))
    assert all(Ledger(tmp_path / f"{n}.sqlite").verify() == 1 for n in range(20))


def test_reserve_and_commit_stay_quick_after_ten_thousand_rows(tmp_path: Path) -> None:
    """A generous bound: the machine may be busy. Without its indexes a write reads every row."""
    ledger = opened(tmp_path / "l.sqlite", steps=10**6)
    total: list[float] = []
    with ledger._writing() as db:
        for number in range(5000):
            total = filtering.after(request(), 1, total)
            asked = (db, "reserve", ACCOUNT, RUN, number, "m", 1, 0, {}, total)
            entry = ledger._add(*asked)
            ledger._add(
                db, "commit", ACCOUNT, RUN, number, "m", 0, entry, {"reply": "0" * 64}, total
            )
    seconds = []
    for number in range(20):
        start = time.perf_counter()
        entry = ledger.reserve(RUN, 10**5 + number, "m", 1, limit=Limit(1e6, 1e-5))
        ledger.commit(entry, b"x" * 1000, cohort="films of today")
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.05
    assert ledger.verify() == 10_041
