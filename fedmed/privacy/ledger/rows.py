"""Rows of a ledger: their table, how they are found, and what must hold between them."""

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedmed.base.errors import RunError
from fedmed.privacy.ledger import filtering
from fedmed.privacy.ledger.filtering import Charge
from fedmed.privacy.ledger.log import START, canonical, digest

COLUMNS: Final = (
    "id", "kind", "time", "account", "run", "round", "model", "steps", "entry", "body", "spent",
    "previous", "hash",
)  # fmt: skip
SCHEMA: Final = """
create table if not exists ledger (
    id integer primary key,
    kind text not null check (kind in ('plan', 'reserve', 'commit')),
    time real not null,
    account text not null,
    run text not null,
    round integer not null,
    model text not null,
    steps integer not null check (steps >= 0),
    entry integer not null,
    body text not null,
    spent text not null,
    previous text not null,
    hash text not null
);
create index if not exists by_account on ledger (account);
create index if not exists by_plan on ledger (account) where kind = 'plan';
create index if not exists by_run on ledger (run, kind);
create index if not exists by_request on ledger (run, kind, round, model);
create trigger if not exists no_update before update on ledger
    begin select raise(abort, 'rows of a ledger are never changed'); end;
create trigger if not exists no_delete before delete on ledger
    begin select raise(abort, 'rows of a ledger are never deleted'); end;
"""
DAMAGE: Final = (
    sqlite3.Error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    RecursionError, MemoryError,
)  # fmt: skip
"""What reading rows raises that no fedmed wrote."""
_LINES_BEHIND: Final = 2  # of plans and reservations; see unanchored


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row; ``spent`` is the account's total after it, and the steps its run has reserved."""

    id: int
    kind: str
    time: float
    account: str
    run: str
    round: int
    model: str
    steps: int
    entry: int  # of a commit: the reservation it answers
    body: dict[str, Any]
    spent: dict[str, Any]
    previous: str
    hash: str

    def right_hash(self) -> str:
        """The hash that the row must have."""
        text = {name: getattr(self, name) for name in COLUMNS if name != "hash"}
        return digest(self.previous, canonical(text))


def insert(db: sqlite3.Connection, row: Row) -> None:
    """Append a row, with its hash."""
    values = {name: getattr(row, name) for name in COLUMNS}
    values |= {"body": canonical(row.body), "spent": canonical(row.spent)}
    values["hash"] = row.right_hash()
    marks = ", ".join(f":{name}" for name in COLUMNS)
    db.execute(f"insert into ledger values ({marks})", values)  # noqa: S608 -- constants


def select(db: sqlite3.Connection, where: str, *values: Any) -> list[Row]:
    """The rows for which ``where`` holds."""
    rows = []
    for row in db.execute(f"select * from ledger {where}", values):  # noqa: S608 -- constants
        named = dict(zip(COLUMNS, row, strict=True))
        named |= {"body": json.loads(named["body"]), "spent": json.loads(named["spent"])}
        rows.append(Row(**named))
    return rows


def one(db: sqlite3.Connection, where: str, *values: Any) -> Row | None:
    """The first of :func:`select`, or None."""
    rows = select(db, f"{where} limit 1", *values)
    return rows[0] if rows else None


def last(db: sqlite3.Connection) -> Row | None:
    """The newest row."""
    return one(db, "order by id desc")


def plan_of(db: sqlite3.Connection, run: str) -> Row | None:
    """The plan of a run."""
    return one(db, "where run = ? and kind = 'plan'", run)


def plans_on(db: sqlite3.Connection, account: str) -> list[Row]:
    """The plans opened on an account, in order."""
    return select(db, "where account = ? and kind = 'plan' order by id", account)


def find(db: sqlite3.Connection, run: str, kind: str, round_number: int, model: str) -> Row | None:
    """The newest row of a kind about one request."""
    return one(
        db,
        "where run = ? and kind = ? and round = ? and model = ? order by id desc",
        run, kind, round_number, model,
    )  # fmt: skip


def commit_of(db: sqlite3.Connection, reserved: Row) -> Row | None:
    """The commit that answers a reservation."""
    return one(
        db,
        "where run = ? and kind = 'commit' and round = ? and model = ? and entry = ?",
        reserved.run, reserved.round, reserved.model, reserved.id,
    )  # fmt: skip


def total_of(db: sqlite3.Connection, account: str) -> list[float]:
    """The account's total divergence: what its newest row says."""
    row = one(db, "where account = ? order by id desc", account)
    return [] if row is None else [float(value) for value in row.spent["rdp"]]


def taken_by(db: sqlite3.Connection, run: str) -> int:
    """Steps a run has reserved: the newest of its rows that counts them."""
    row = one(db, "where run = ? and kind = 'reserve' order by id desc", run)
    return 0 if row is None else int(row.spent["taken"])


def superseded(db: sqlite3.Connection, entries: Sequence[int], runs: int) -> list[int]:
    """Of the ``entries`` whose replies are kept, those that nobody asks for again.

    What stays is the newest reply of each of the ``runs`` newest runs, as a server that sent a
    newer model has the older reply, and every reply that is still being written.
    """
    newest: dict[str, tuple[int, int]] = {}
    owner: dict[int, str] = {}
    for entry in entries:
        reserved = one(db, "where id = ? and kind = 'reserve'", entry)
        if reserved is not None:
            owner[entry] = reserved.run
            row = one(db, "where run = ? and kind = 'commit' order by id desc", reserved.run)
            newest[reserved.run] = (0, 0) if row is None else (row.id, row.entry)
    kept = sorted(newest.values(), reverse=True)[:runs]
    return [
        entry
        for entry, run in owner.items()
        if entry <= newest[run][1] and (newest[run] not in kept or entry != newest[run][1])
    ]


def unanchored(db: sqlite3.Connection, rows: int) -> int:
    """Plans and reservations after the first ``rows`` rows, of which the audit log knows.

    A commit spends nothing and is anchored with the next row. Of the rest one may have come without
    its line, where a crash hit between the two, and one line may have been lost with the power.
    """
    query = "select count(*) from ledger where id > ? and kind != 'commit'"
    return int(db.execute(query, (rows,)).fetchone()[0])


def too_far_behind(unknown: int, rows: int) -> bool:
    """Whether more is :func:`unanchored` than crashes explain; the first line is never lost."""
    return unknown > (_LINES_BEHIND if rows else 1)


def check_rows(rows: Sequence[Row], path: Path) -> None:
    """Check every row against its hash, the chain, and those before it.

    Raises :class:`RunError` naming the first that no fedmed can have written.
    """
    previous = START
    totals: dict[str, list[float]] = {}
    taken: dict[str, int] = {}
    plans: dict[str, Row] = {}
    answered: set[int] = set()
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        try:
            if row.id != number or row.previous != previous or row.right_hash() != row.hash:
                raise RunError(f"{where}: it was edited, or rows before it were removed")
            wrong = _mistake(row, rows, plans, answered)
            if row.kind == "plan":
                plans.setdefault(row.run, row)
            elif row.kind == "reserve" and not wrong:
                request = Charge.from_json(plans[row.run].body)
                before = totals.get(row.account, [])
                totals[row.account] = filtering.after(request, row.steps, before)
                taken[row.run] = taken.get(row.run, 0) + row.steps
                if taken[row.run] > request.steps:
                    wrong = "it takes more steps than the plan of its run"
            right = {"rdp": totals.get(row.account, []), "taken": taken.get(row.run, 0)}
            if not wrong and row.spent != right:
                wrong = "its running total is not the sum of the rows before it"
        except DAMAGE as error:
            raise RunError(f"{where}: it was edited, no fedmed writes such a row") from error
        if wrong:
            raise RunError(f"{where}: {wrong}; restore the ledger from a backup")
        previous = row.hash


def _mistake(row: Row, rows: Sequence[Row], plans: Mapping[str, Row], answered: set[int]) -> str:
    """What is wrong with a row beside its numbers, or nothing; ``answered`` grows by commits."""
    if not math.isfinite(row.time) or (row.id > 1 and row.time < rows[row.id - 2].time):
        return "it is older than the row before it"
    if row.kind == "plan":
        Charge.from_json(row.body)
        return "its run has a plan already" if row.run in plans else ""
    plan = plans.get(row.run)
    if plan is None or plan.account != row.account:
        return "its run has no plan on that account"
    if row.kind == "commit":
        asked = rows[row.entry - 1] if 0 < row.entry < row.id else None
        same = ("run", "round", "model")
        if (
            asked is None
            or asked.kind != "reserve"
            or any(getattr(asked, name) != getattr(row, name) for name in same)
        ):
            return "it answers no reservation"
        if row.entry in answered:
            return "it answers a reservation that was answered"
        answered.add(row.entry)
    return ""
