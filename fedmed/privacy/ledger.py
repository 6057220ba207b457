"""A hospital's durable record of what it spent: reserved before data is touched, never undone.

One SQLite file of the hospital's own (and one of the server for central noise) over all its runs.
It holds one row for each plan that was opened, each round that was reserved and each reply that was
committed; rows are never changed, and each holds the hash of the one before. The head of that chain
is anchored in an audit log of its own (:mod:`fedmed.privacy.audit`).

Spend is charged to accounts. Inside a plan, whose parameters are fixed before it starts, a privacy
loss distribution holds. Across plans, whose parameters may depend on what earlier plans released,
Rényi divergences are added up and a filter of one order, fixed by the account's first plan, decides
(Feldman and Zrnic 2021, Theorem 4.3). A plan that the filter would refuse although its own epsilon
fits may be an account's only one, ever: ``sole``.
"""

import glob
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fedmed import files
from fedmed.errors import RunError
from fedmed.privacy import filtering
from fedmed.privacy.audit import START, AuditLog, canonical, digest
from fedmed.privacy.filtering import Limit, OverBudget, Request

VERSION: Final = 1
_CLOCK_SLACK: Final = 3600.0  # seconds that a clock may be set back before it counts as wrong
_RUNS_WITH_REPLIES: Final = 2  # whose last release is kept: each is as large as the model
_COLUMNS: Final = (
    "id", "kind", "time", "account", "run", "round", "model", "steps", "entry", "body", "spent",
    "previous", "hash",
)  # fmt: skip
_SCHEMA: Final = """
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
create index if not exists by_account on ledger (account, id);
create index if not exists by_request on ledger (run, kind, round, model);
create trigger if not exists no_update before update on ledger
    begin select raise(abort, 'rows of a ledger are never changed'); end;
create trigger if not exists no_delete before delete on ledger
    begin select raise(abort, 'rows of a ledger are never deleted'); end;
"""


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

    def text(self) -> str:
        """What is hashed."""
        return canonical({name: getattr(self, name) for name in _COLUMNS if name != "hash"})


@dataclass(frozen=True)
class Ledger:
    """The ledger at ``path``, safe for several processes; a write is on disk when it returns.

    ``audit`` is where its log lies (by default beside it). Raises :class:`RunError` wherever the
    record cannot be trusted or written: without one no private step may be taken.
    """

    path: Path
    audit: Path | None = None
    patience: float = 30.0  # seconds to wait for another process
    clock: Any = field(default=time.time, repr=False, compare=False)

    @property
    def log(self) -> AuditLog:
        """The audit log."""
        return AuditLog(self.audit or self.path.with_suffix(".audit.jsonl"), self.patience)

    def open_plan(self, run: str, request: Request, limit: Limit | None = None) -> None:
        """Write down, before its first round, what a run may take; again for a resumed run.

        Raises :class:`OverBudget`, and writes nothing, where ``limit`` has no room for it, and
        :class:`RunError` where the run was opened with another plan.
        """
        with self._writing() as db:
            earlier = _plan_row(db, run)
            body = request.to_json()
            if earlier is not None:
                theirs = {k: v for k, v in earlier.body.items() if k not in ("sole", "cohort")}
                if theirs != {k: v for k, v in body.items() if k != "cohort"}:
                    raise RunError(
                        f"the ledger {self.path} holds this run with another plan; start a new run"
                    )
                if earlier.body["cohort"] not in (None, request.cohort):
                    raise RunError(
                        "the cohort changed since this run began; what was reserved stays spent, "
                        "start a new run on the data as they are now"
                    )
                return
            opened = _plans(db, request.account)
            total = _total(db, request.account)
            body["sole"] = filtering.admit(request, limit, [r.body for r in opened], total)
            self._add(db, "plan", request.account, run, 0, "", 0, 0, body, total)

    def reserve(
        self,
        run: str,
        round_number: int,
        model: str,
        steps: int,
        *,
        limit: Limit | None = None,
        repeatable: bool = False,
    ) -> int:
        """Write down, durably, that ``steps`` are about to be taken; returns the entry's number.

        Raises :class:`OverBudget`, and writes nothing, where the run would pass its plan or the
        account its limit. Check and entry are one transaction, so two requests at once cannot both
        pass. ``repeatable`` noise is the same for the same round and model: known, it is free.
        """
        if steps < 1:
            raise RunError(f"a reservation of {steps} steps is none; ask for at least one")
        with self._writing() as db:
            plan = _plan_row(db, run)
            if plan is None:
                raise RunError(f"the ledger {self.path} has no plan of this run; open it first")
            if repeatable:
                known = _find(db, run, "reserve", round_number, model)
                if known is not None:
                    return known.id
            request = Request.from_json(plan.body)
            if _taken(db, run) + steps > request.steps:
                raise OverBudget(f"the plan of {request.steps} steps is used up", by_policy=False)
            opened = _plans(db, plan.account)
            total = filtering.after(request, steps, _total(db, plan.account))
            filtering.check(plan.body, limit, opened[0].body, total)
            return self._add(
                db, "reserve", plan.account, run, round_number, model, steps, 0, {}, total
            )

    def commit(self, entry: int, reply: bytes, *, cohort: str | None = None) -> None:
        """Keep the released bytes for a repeated request, then record that they were released.

        ``cohort`` is the fingerprint of the data now: where it is not the plan's, the reply is
        refused (:class:`RunError`) and what was reserved stays spent.
        """
        path = self._reply_path(entry)
        with self._reading() as db:
            reserved = _row(db, "select * from ledger where id = ? and kind = 'reserve'", entry)
            plan = None if reserved is None else _plan_row(db, reserved.run)
        if reserved is None or plan is None:
            raise RunError(f"the ledger {self.path} holds no reservation {entry}; reserve first")
        if cohort is not None and plan.body.get("cohort") not in (None, cohort):
            raise RunError(
                "the cohort changed between reservation and release; what was reserved stays "
                "spent, start a new run on the data as they are now"
            )
        # Hashing and writing megabytes side by side: the hospital's answer waits for both.
        with ThreadPoolExecutor(1) as pool, files.disk_errors(path):
            hashed = pool.submit(lambda: hashlib.sha256(reply).hexdigest())
            path.write_bytes(reply)
        body = {"reply": hashed.result()}
        with self._writing() as db:
            total = _total(db, reserved.account)
            self._add(
                db, "commit", reserved.account, reserved.run, reserved.round, reserved.model, 0,
                entry, body, total,
            )  # fmt: skip
            kept = {f"{self.path.stem}.reply-{number}" for number in _replies_to_keep(db)}
        for old in self.path.parent.glob(f"{glob.escape(self.path.stem)}.reply-*"):
            if old.name not in kept and old != path:
                old.unlink(missing_ok=True)

    def answered(self, run: str, round_number: int, model: str) -> bytes | None:
        """The bytes released for this run, round and model before, whole, or None."""
        if not self.path.exists():
            return None
        with self._reading() as db:
            row = _find(db, run, "commit", round_number, model)
        if row is None or not self._reply_path(row.entry).is_file():
            return None
        reply = self._reply_path(row.entry).read_bytes()
        return reply if hashlib.sha256(reply).hexdigest() == row.body["reply"] else None

    def steps(self, run: str) -> int:
        """Steps that a run reserved so far."""
        if not self.path.exists():
            return 0
        with self._reading() as db:
            return _taken(db, run)

    def state(self, account: str) -> tuple[list[dict[str, Any]], list[float]]:
        """The plans opened on an account, and its total divergence; empty for a new one."""
        if not self.path.exists():
            return [], []
        with self._reading() as db:
            return [row.body for row in _plans(db, account)], _total(db, account)

    def rows(self) -> list[Row]:
        """Every row, in order."""
        if not self.path.exists():
            return []
        with self._reading() as db:
            return [_parse(row) for row in db.execute("select * from ledger order by id")]

    def note(self, what: str, **details: Any) -> None:
        """A line in the audit log about something that is no row: a refusal, say."""
        with self.log.locked():
            last = self.log.last()
            self.log.append(what, last.rows, last.head, **details)

    def verify(self) -> int:
        """Check every row, the chain and the log against each other; returns the number of rows.

        Raises :class:`RunError` naming the first edit, gap, truncation or rollback. A rollback of
        ledger and log together shows only against an anchor kept elsewhere (``fedmed ledger verify
        --anchor``).
        """
        with self.log.locked():
            self.log.last()  # drops half a line that a crash left
            entries = self.log.entries()
            if not self.path.exists() and not entries:
                raise RunError(f"{self.path}: no such ledger; give the path of a hospital's ledger")
            rows = self.rows()
        heads = [START]
        totals: dict[str, list[float]] = {}
        plans: dict[str, Request] = {}
        for number, row in enumerate(rows, start=1):
            where = f"{self.path}, row {number}"
            if row.id != number or row.previous != heads[-1] or digest_of(row) != row.hash:
                raise RunError(f"{where}: it was edited, or rows before it were removed")
            heads.append(row.hash)
            if row.kind == "plan":
                plans[row.run] = Request.from_json(row.body)
            if row.kind == "reserve":
                before = totals.get(row.account, [])
                totals[row.account] = filtering.after(plans[row.run], row.steps, before)
            if row.spent["rdp"] != totals.get(row.account, []):
                raise RunError(f"{where}: its running total is not the sum of the rows before it")
        for number, entry in enumerate(entries, start=1):
            if entry["rows"] >= len(heads):
                raise RunError(
                    f"{self.path} has {len(rows)} rows but its log knew of {entry['rows']} (line "
                    f"{number}): the ledger was cut short or rolled back"
                )
            if heads[entry["rows"]] != entry["head"]:
                raise RunError(
                    f"{self.path}, row {entry['rows']}: not the row that its log knew of (line "
                    f"{number}): the ledger was rewritten"
                )
        if rows and (not entries or entries[-1]["rows"] < len(rows) - 1):
            raise RunError(
                f"{self.log.path} knows of {entries[-1]['rows'] if entries else 0} rows but the "
                f"ledger has {len(rows)}: the log was cut short or removed"
            )
        return len(rows)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(self.path, timeout=self.patience, isolation_level=None)
            ) as db:
                self._check_version(db)
                yield db
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise self._unusable(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, alone with ledger and log; the log's anchor follows what it wrote."""
        with self.log.locked():
            try:
                with files.disk_errors(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                with closing(
                    sqlite3.connect(self.path, timeout=self.patience, isolation_level=None)
                ) as db:
                    db.execute("pragma synchronous = full")
                    if not self._check_version(db):
                        db.executescript(_SCHEMA)
                        db.execute(f"pragma user_version = {VERSION}")
                    db.execute("begin immediate")
                    self._check_anchor(db)
                    try:
                        yield db
                        db.execute("commit")
                    except BaseException:
                        if db.in_transaction:
                            db.execute("rollback")
                        raise
                    self._anchor(db)
            except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
                raise self._unusable(error) from error

    def _check_version(self, db: sqlite3.Connection) -> bool:
        """Whether the file is a ledger already; raises where it is of another version."""
        found = int(db.execute("pragma user_version").fetchone()[0])
        if found > VERSION:
            raise RunError(
                f"the ledger {self.path} was made by a newer fedmed (version {found}, this one "
                f"reads {VERSION}); update fedmed"
            )
        return found == VERSION

    def _check_anchor(self, db: sqlite3.Connection) -> None:
        """The ledger must hold what its log last knew of; it may be one crash ahead."""
        anchor, last = self.log.last(), _row(db, "select * from ledger order by id desc limit 1")
        if last is not None and digest_of(last) != last.hash:
            raise RunError(f"{self.path}, row {last.id}: it was edited; restore it from a backup")
        rows = 0 if last is None else last.id
        if rows < anchor.rows:
            raise RunError(
                f"{self.path} has {rows} rows but its log knew of {anchor.rows}: the ledger was "
                "deleted, cut short or rolled back; restore it from a backup"
            )
        if anchor.rows:
            known = _row(db, "select * from ledger where id = ?", anchor.rows)
            if known is None or known.hash != anchor.head:
                raise RunError(
                    f"{self.path}, row {anchor.rows}: not the row that its log knew of; restore "
                    "the ledger from a backup"
                )
        if rows > anchor.rows + 1:
            raise RunError(
                f"{self.log.path} knows of {anchor.rows} rows but the ledger has {rows}: the log "
                "was cut short or removed; restore it from a backup"
            )
        if rows > anchor.rows:
            self._anchor(db)

    def _anchor(self, db: sqlite3.Connection) -> None:
        last = _row(db, "select * from ledger order by id desc limit 1")
        if last is not None and last.id > self.log.last().rows:
            self.log.append(
                last.kind, last.id, last.hash, account=last.account, run=last.run, steps=last.steps
            )

    def _add(
        self,
        db: sqlite3.Connection,
        kind: str,
        account: str,
        run: str,
        round_number: int,
        model: str,
        steps: int,
        entry: int,
        body: Mapping[str, Any],
        total: Sequence[float],
    ) -> int:
        last = _row(db, "select * from ledger order by id desc limit 1")
        now = float(self.clock())
        if last is not None and now < last.time - _CLOCK_SLACK:
            raise RunError(
                f"the clock is {last.time - now:.0f} s behind the last entry of {self.path}; set "
                "the clock and run again"
            )
        taken = _taken(db, run) + (steps if kind == "reserve" else 0)
        row = Row(
            id=1 if last is None else last.id + 1,
            kind=kind,
            time=max(now, 0.0 if last is None else last.time),
            account=account,
            run=run,
            round=round_number,
            model=model,
            steps=steps,
            entry=entry,
            body=dict(body),
            spent={"rdp": list(total), "taken": taken},
            previous=START if last is None else last.hash,
            hash="",
        )
        values = {name: getattr(row, name) for name in _COLUMNS}
        values |= {"body": canonical(row.body), "spent": canonical(row.spent)}
        values["hash"] = digest_of(row)
        marks = ", ".join(f":{name}" for name in _COLUMNS)
        db.execute(f"insert into ledger values ({marks})", values)  # noqa: S608 -- constants
        return row.id

    def _unusable(self, error: Exception) -> RunError:
        return RunError(
            f"the ledger {self.path} cannot be used ({type(error).__name__}: {error}); check the "
            "disk and its permissions, or restore it from a backup"
        )

    def _reply_path(self, entry: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.reply-{entry}")


def digest_of(row: Row) -> str:
    """The hash that a row must have."""
    return digest(row.previous, row.text())


def _parse(values: Sequence[Any]) -> Row:
    named = dict(zip(_COLUMNS, values, strict=True))
    named |= {"body": json.loads(named["body"]), "spent": json.loads(named["spent"])}
    return Row(**named)


def _row(db: sqlite3.Connection, query: str, *values: Any) -> Row | None:
    found = db.execute(query, values).fetchone()
    return None if found is None else _parse(found)


def _find(db: sqlite3.Connection, run: str, kind: str, round_number: int, model: str) -> Row | None:
    return _row(
        db,
        "select * from ledger where run = ? and kind = ? and round = ? and model = ?"
        " order by id desc limit 1",
        run, kind, round_number, model,
    )  # fmt: skip


def _plan_row(db: sqlite3.Connection, run: str) -> Row | None:
    return _row(db, "select * from ledger where run = ? and kind = 'plan' limit 1", run)


def _plans(db: sqlite3.Connection, account: str) -> list[Row]:
    query = "select * from ledger where account = ? and kind = 'plan' order by id"
    return [_parse(row) for row in db.execute(query, (account,))]


def _total(db: sqlite3.Connection, account: str) -> list[float]:
    last = _row(db, "select * from ledger where account = ? order by id desc limit 1", account)
    return [] if last is None else [float(value) for value in last.spent["rdp"]]


def _replies_to_keep(db: sqlite3.Connection) -> list[int]:
    """The newest reply of each of the newest runs.

    A server that sent a newer model has the older reply; an older run's is not asked for again.
    """
    query = (
        "select max(entry) from ledger where kind = 'commit' group by run"
        " order by max(id) desc limit ?"
    )
    return [int(row[0]) for row in db.execute(query, (_RUNS_WITH_REPLIES,))]


def _taken(db: sqlite3.Connection, run: str) -> int:
    """Steps a run has reserved: the newest of its rows that counts them."""
    query = "select * from ledger where run = ? and kind = 'reserve' order by id desc limit 1"
    last = _row(db, query, run)
    return 0 if last is None else int(last.spent["taken"])
