"""Ledger and log against each other: edits, cuts and rollbacks are found."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support.ledger import ACCOUNT, LIMIT, ROWS, RUN, edited, filled, forged, request

from fedmed.base.errors import RunError
from fedmed.privacy.ledger import connections
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.log import START
from fedmed.privacy.ledger.report import check
from fedmed.privacy.ledger.rows import COLUMNS


class Trusting(Ledger):
    """A ledger that believes its file."""

    def verify(self) -> int:
        return ROWS


def check_found(make: Callable[[Path], Ledger], path: Path, damage: Callable[[Path], None]) -> None:
    ledger = filled(path)
    assert make(path).verify() == ROWS
    damage(path)
    refuses(make(path).verify, str(ledger.path.with_suffix("")), error=RunError)


def other(column: str) -> object:
    """A value that no row of a filled ledger has."""
    return {
        "id": 100, "kind": "other", "time": 1.5, "round": 7, "steps": 4, "entry": 1,
        "body": '{"reply": ""}', "spent": '{"rdp": [1.0], "taken": 0}',
    }.get(column, "other")  # fmt: skip


@pytest.mark.parametrize("row", [1, 2, 3, ROWS])
@pytest.mark.parametrize("column", COLUMNS)
def test_an_edit_of_any_column_of_any_row_is_found(tmp_path: Path, column: str, row: int) -> None:
    def damage(path: Path) -> None:
        with edited(path) as db:
            db.execute(f"update ledger set {column} = ? where id = ?", (other(column), row))

    check_found(Ledger, tmp_path / "a.sqlite", damage)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("body", "[1]"), ("body", "{"), ("body", "null"), ("spent", "7"), ("model", b"\xff\xfe"),
        ("run", b"run-1"), ("time", "noon"), ("steps", 1.5), ("hash", START), ("id", -4),
    ],
)  # fmt: skip
def test_a_value_that_is_no_ledgers_is_a_line_and_no_traceback(
    tmp_path: Path, column: str, value: object
) -> None:
    def damage(path: Path) -> None:
        with edited(path) as db:
            db.execute(f"update ledger set {column} = ? where id = ?", (value, 2))

    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)


def test_text_that_is_no_text_is_a_line_of_its_own(tmp_path: Path) -> None:
    """The database's own message repeats the value, line breaks and all."""

    def damage(path: Path) -> None:
        with edited(path) as db:
            db.execute("update ledger set model = cast(x'0aff0a' as text) where id = 2")

    check_found(Ledger, tmp_path / "a.sqlite", damage)


@pytest.mark.parametrize("row", [1, 3, ROWS])
def test_a_deleted_row_is_found(tmp_path: Path, row: int) -> None:
    def damage(path: Path) -> None:
        with edited(path) as db:
            db.execute("delete from ledger where id = ?", (row,))
            db.execute("update ledger set id = id - 1 where id > ?", (row,))

    if row < ROWS:  # a commit at the end spends nothing, and is anchored with the next row
        check_found(Ledger, tmp_path / "a.sqlite", damage)
        goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)
    else:
        ledger = filled(tmp_path / "a.sqlite")
        damage(ledger.path)
        assert ledger.verify() == ROWS - 1
        assert ledger.answered("run-2", 1, "another") is None
        assert ledger.steps("run-2") == 3


def test_rows_that_spend_are_not_cut_off_the_end(tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        with edited(path) as db:
            db.execute("delete from ledger where id >= 7")

    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)
    ledger = Ledger(tmp_path / "a.sqlite")
    for use in (
        lambda: ledger.reserve(RUN, 9, "m", 1),
        lambda: ledger.steps(RUN),
        lambda: ledger.state(ACCOUNT),
        lambda: ledger.answered(RUN, 2, "model-2"),
    ):
        refuses(use, "cut short or rolled back", error=RunError)


def test_triggers_refuse_update_and_delete(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    with closing(sqlite3.connect(ledger.path)) as db:
        for statement in ("update ledger set steps = 0", "delete from ledger where id = 8"):
            with pytest.raises(sqlite3.IntegrityError, match=r"never (changed|deleted)"):
                db.execute(statement)
        db.rollback()
    assert ledger.verify() == ROWS


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.95])
def test_a_truncated_file_is_found_by_whoever_reads_or_writes(tmp_path: Path, share: float) -> None:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)
    ledger = Ledger(tmp_path / "a.sqlite")
    size = ledger.path.stat().st_size
    for use in (
        lambda: ledger.reserve(RUN, 9, "m", 1),
        lambda: ledger.open_plan("new", request()),
        lambda: ledger.steps(RUN),
    ):
        refuses(use, str(ledger.path), error=RunError)
    if share:
        assert ledger.path.stat().st_size == size


def test_an_index_that_was_edited_is_found(tmp_path: Path) -> None:
    """Rows are whole, but what a query finds through the index is not all of them."""

    def damage(path: Path) -> None:
        with edited(path) as db:
            schema = db.execute(
                "select sql from sqlite_master where name = 'by_account'"
            ).fetchone()
            db.execute("drop index by_account")
            db.execute("create index by_account on ledger (account) where id < 3")
            db.execute("pragma writable_schema = on")
            db.execute("update sqlite_master set sql = ? where name = 'by_account'", schema)

    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)


def log_of(path: Path) -> Path:
    """The audit log beside a ledger."""
    return Ledger(path).log.path


def without_log(path: Path) -> None:
    """The log is gone."""
    log_of(path).unlink()


def emptied_log(path: Path) -> None:
    """Nothing is left in the log."""
    log_of(path).write_text("")


def first_line(path: Path) -> None:
    """Only the first line is left."""
    log = log_of(path)
    log.write_text(log.read_text().splitlines(keepends=True)[0])


def without_a_line(path: Path) -> None:
    """A line in the middle is gone."""
    lines = log_of(path).read_text().splitlines(keepends=True)
    log_of(path).write_text("".join(lines[:2] + lines[3:]))


def edited_line(path: Path) -> None:
    """A line says something else."""
    log_of(path).write_text(log_of(path).read_text().replace('"steps":5', '"steps":4', 1))


def other_last_line(path: Path) -> None:
    """The last line is no JSON."""
    log_of(path).write_bytes(log_of(path).read_bytes() + b"\xff\n")


def older_claim(path: Path) -> None:
    """A line with its right place in the chain that knows of fewer rows than the one before."""
    log = Ledger(path).log
    log.append("reserve", 0, START)


def foreign_claim(path: Path) -> None:
    """A line with its right place in the chain about rows that the ledger never had."""
    log = Ledger(path).log
    log.append("reserve", 20, "f" * 64)


@pytest.mark.parametrize(
    "damage",
    [
        without_log, emptied_log, first_line, without_a_line, edited_line, other_last_line,
        older_claim, foreign_claim,
    ],
)  # fmt: skip
def test_a_log_that_was_cut_edited_or_removed_is_found(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)


@pytest.mark.parametrize("damage", [without_log, emptied_log, first_line, foreign_claim])
def test_nothing_is_written_beside_a_log_that_does_not_fit(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    damage(ledger.path)
    log = log_of(ledger.path).read_bytes() if log_of(ledger.path).exists() else b""
    refuses(lambda: ledger.reserve(RUN, 9, "m", 1), "restore", error=RunError)
    with edited(ledger.path) as db:
        assert db.execute("select count(*) from ledger").fetchone() == (ROWS,)
    assert log_of(ledger.path).read_bytes() == log


def test_a_deleted_ledger_is_missed_by_its_log(tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        path.unlink()

    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)
    ledger = Ledger(tmp_path / "a.sqlite")
    for use in (
        lambda: ledger.open_plan("new", request(), LIMIT),
        lambda: ledger.state(ACCOUNT),
        lambda: ledger.steps(RUN),
        lambda: ledger.opened(RUN),
        ledger.rows,
    ):
        refuses(use, "deleted, cut short or rolled back", error=RunError)


@pytest.mark.parametrize("values", [{}, {"steps": 0, "kind": "commit"}, {"run": "stranger"}])
def test_a_row_inserted_by_hand_is_found(tmp_path: Path, values: dict[str, Any]) -> None:
    """Its hash is right, and its place in the chain; what it says cannot be."""
    check_found(Ledger, tmp_path / "a.sqlite", lambda path: forged(Ledger(path), **values))
    goes_red(
        check_found,
        Trusting,
        tmp_path / "b.sqlite",
        lambda path: forged(Ledger(path), **values),
    )


def test_a_row_that_is_not_chained_is_refused_by_the_next_write(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    forged(ledger, previous=START)
    refuses(lambda: ledger.reserve(RUN, 9, "m", 1), "row 9", "edited", error=RunError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "reserve", "steps": 3}, "total"),
        ({"kind": "reserve", "run": RUN, "account": "another"}, "no plan on that account"),
        ({"kind": "plan"}, "no fedmed writes"),
        ({"kind": "commit", "entry": 1}, "answers no reservation"),
        ({"kind": "commit", "entry": 99}, "answers no reservation"),
        ({"kind": "commit", "entry": 3, "spent": {"rdp": [], "taken": 0}}, "answers no"),
        ({"kind": "commit"}, "that was answered"),
        ({"kind": "commit", "time": 1.0}, "older than the row before"),
    ],
)
def test_what_a_forged_row_says_wrong_is_named(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    forged(ledger, **values)
    refuses(ledger.verify, f"{ledger.path}, row 9", words, error=RunError)


def test_a_plan_that_is_overdrawn_by_hand_is_named(tmp_path: Path) -> None:
    """Totals and chain are right; only the plan says that it cannot be."""
    from fedmed.privacy.ledger import filtering

    ledger = filled(tmp_path / "l.sqlite")
    last = ledger.rows()[-1]
    total = filtering.after(request(steps=10), 8, last.spent["rdp"])
    forged(ledger, kind="reserve", steps=8, entry=0, body={}, spent={"rdp": total, "taken": 11})
    refuses(ledger.verify, "row 9", "more steps than the plan", error=RunError)


def check_rollback_found(anchor: Callable[[Ledger], str], folder: Path) -> None:
    folder.mkdir()
    ledger = filled(folder / "l.sqlite")
    for path in (ledger.path, ledger.log.path):
        shutil.copy(path, path.with_name(path.name + ".old"))
    ledger.reserve("run-2", 2, "m", 5)
    connections.close_all()
    outside = anchor(ledger)
    for path in (ledger.path, ledger.log.path):
        shutil.copy(path.with_name(path.name + ".old"), path)
    assert ledger.verify() == ROWS  # together they agree
    refuses(lambda: check(ledger, outside), "rolled back", error=RunError)


def test_a_rollback_of_both_is_found_with_an_anchor_kept_elsewhere(tmp_path: Path) -> None:
    check_rollback_found(lambda ledger: f"9:{ledger.rows()[-1].hash}", tmp_path / "a")
    goes_red(check_rollback_found, lambda ledger: "", tmp_path / "b")
    goes_red(check_rollback_found, lambda ledger: f"8:{ledger.rows()[7].hash}", tmp_path / "c")


def test_a_rollback_of_the_ledger_alone_is_found(tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        shutil.copy(path, tmp_path / "old")
        Ledger(path).reserve("run-2", 2, "m", 5)
        connections.close_all()
        shutil.copy(tmp_path / "old", path)

    check_found(Ledger, tmp_path / "a.sqlite", damage)
    goes_red(check_found, Trusting, tmp_path / "b.sqlite", damage)
