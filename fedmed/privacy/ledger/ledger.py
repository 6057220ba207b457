"""A hospital's durable record of what it spent: reserved before data is touched, never undone.

One SQLite file of the hospital's own (and one of the server for central noise) over all its runs.
It holds one row for each plan that was opened, each round that was reserved and each reply that was
committed; rows are never changed, and each holds the hash of the one before. The head of that chain
is anchored in an audit log of its own (:mod:`fedmed.privacy.ledger.log`).

Spend is charged to accounts. Inside a plan, whose parameters are fixed before it starts, a privacy
loss distribution holds. Across plans, whose parameters may depend on what earlier plans released,
Rényi divergences are added up and a filter of one order, fixed by the account's first plan, decides
(Feldman and Zrnic 2021, Theorem 4.3). A plan that the filter would refuse although its own epsilon
fits may be an account's only one, ever: ``sole``.
"""

import contextlib
import glob
import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fedmed.base.errors import RunError
from fedmed.privacy.ledger import connections, filtering
from fedmed.privacy.ledger import rows as ledger_rows
from fedmed.privacy.ledger.filtering import Charge, Limit, OverBudget
from fedmed.privacy.ledger.log import START, Anchor, AuditLog, usable
from fedmed.privacy.ledger.rows import DAMAGE, Row

VERSION: Final = 2  # 1 named the neighbouring relation in words and no limit
_MOST_CELL: Final = 1 << 24  # bytes of a value: a row that no fedmed wrote may hold a gigabyte
_CLOCK_SLACK: Final = 3600.0  # seconds that a clock may be set back before it counts as wrong
_RUNS_WITH_REPLIES: Final = 2  # whose last release is kept: each is as large as the model


class CohortChanged(RunError):
    """The data are no longer those that a run began with."""


@dataclass(frozen=True)
class Ledger:
    """The ledger at ``path``, safe for several processes; a reservation is on disk when it returns.

    ``audit`` is where its log lies (by default beside it). While a process writes, its newest rows
    may lie in ``PATH-wal``. Raises :class:`RunError` wherever the record cannot be trusted or
    written: without one no private step may be taken.
    """

    path: Path
    audit: Path | None = None
    patience: float = 30.0  # seconds to wait for another process
    clock: Any = field(default=time.time, repr=False, compare=False)

    @property
    def log(self) -> AuditLog:
        """The audit log."""
        return AuditLog(self.audit or self.path.with_suffix(".audit.jsonl"), self.patience)

    def open_plan(self, run: str, request: Charge, limit: Limit | None = None) -> None:
        """Write down, before its first round, what a run may take; again for a resumed run.

        Raises :class:`OverBudget`, and writes nothing, where ``limit`` has no room for it, and
        :class:`RunError` where the run was opened with another plan, or the account counts another
        unit.
        """
        with self._writing() as db:
            self._open(db, run, request, limit)

    def _open(
        self,
        db: sqlite3.Connection,
        run: str,
        request: Charge,
        limit: Limit | None,
        *,
        any_cohort: bool = False,
    ) -> None:
        earlier = ledger_rows.plan_of(db, run)
        body = request.to_json()
        if earlier is not None:
            decided = ("sole", "cohort", "order", "limit")
            theirs = {k: v for k, v in earlier.body.items() if k not in decided}
            if theirs != {k: v for k, v in body.items() if k != "cohort"}:
                raise RunError(
                    f"the ledger {self.path} holds this run with another plan; start a new run"
                )
            if not any_cohort and earlier.body["cohort"] not in (None, request.cohort):
                raise CohortChanged(
                    "the cohort changed since this run began; what was reserved stays spent, "
                    "start a new run on the data as they are now"
                )
            return
        opened = [row.body for row in ledger_rows.plans_on(db, request.account)]
        if opened and opened[0]["unit"] != request.unit:
            raise RunError(
                f"the ledger {self.path}: the account {request.account!r} counts in the unit "
                f"{opened[0]['unit']}, not {request.unit}; name another account"
            )
        total = ledger_rows.total_of(db, request.account)
        body["sole"] = filtering.admit(request, limit, opened, total)
        body["limit"] = None if limit is None else limit.to_json()
        if not opened and limit is not None:
            # A limit that changes later does not move it.
            body["order"] = filtering.first_order(request, limit)
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
        if not steps >= 1:
            raise RunError(f"a reservation of {steps} steps; ask for at least one")
        with self._writing() as db:
            return self._reserve(db, run, round_number, model, steps, limit, repeatable)

    def _reserve(
        self,
        db: sqlite3.Connection,
        run: str,
        round_number: int,
        model: str,
        steps: int,
        limit: Limit | None,
        repeatable: bool,
    ) -> int:
        plan = ledger_rows.plan_of(db, run)
        if plan is None:
            raise RunError(f"the ledger {self.path} has no plan of this run; open it first")
        body = {"repeatable": True} if repeatable else {}
        if repeatable:
            known = ledger_rows.find(db, run, "reserve", round_number, model)
            # Noise that was drawn afresh, or for fewer steps, is another release.
            if known is not None and (known.body, known.steps) == (body, steps):
                return known.id
        request = Charge.from_json(plan.body)
        taken = ledger_rows.taken_by(db, run) + steps
        if taken > request.steps:
            raise OverBudget(f"the plan of {request.steps} steps is used up", by_policy=False)
        first = ledger_rows.one(db, "where account = ? and kind = 'plan' order by id", plan.account)
        total = filtering.after(request, steps, ledger_rows.total_of(db, plan.account))
        filtering.check(plan.body, limit, (first or plan).body, total, taken)
        return self._add(
            db, "reserve", plan.account, run, round_number, model, steps, 0, body, total
        )

    def rehearse(
        self,
        run: str,
        request: Charge,
        round_number: int,
        model: str,
        steps: int,
        *,
        limit: Limit | None = None,
        repeatable: bool = False,
    ) -> None:
        """Raise what :meth:`open_plan` and :meth:`reserve` would, and write nothing.

        For what must be known before any data are read: ``request`` needs no cohort.
        """
        with self._writing(durable=False) as db:
            db.execute("savepoint rehearsal")
            self._open(db, run, request, limit, any_cohort=True)
            self._reserve(db, run, round_number, model, steps, limit, repeatable)
            db.execute("rollback to rehearsal")

    def commit(self, entry: int, reply: bytes, *, cohort: str | None = None) -> None:
        """Keep the released bytes for a repeated request, then record that they were released.

        ``cohort`` is the fingerprint of the data now: where it is not the plan's, the reply is
        refused (:class:`RunError`) and what was reserved stays spent. One reservation pays for one
        reply: other bytes for the same entry are refused too.
        """
        # Without a flush: a commit that the power takes away makes a repeated request cost again.
        with ThreadPoolExecutor(1) as pool, self._writing(durable=False) as db:
            hashing = pool.submit(lambda: hashlib.sha256(reply).hexdigest())
            reserved = ledger_rows.one(db, "where id = ? and kind = 'reserve'", entry)
            plan = None if reserved is None else ledger_rows.plan_of(db, reserved.run)
            if reserved is None or plan is None:
                raise RunError(
                    f"the ledger {self.path} holds no reservation {entry}; reserve first"
                )
            if cohort is not None and plan.body["cohort"] not in (None, cohort):
                raise CohortChanged(
                    "the cohort changed between reservation and release; what was reserved stays "
                    "spent, start a new run on the data as they are now"
                )
            earlier = ledger_rows.commit_of(db, reserved)
            if earlier is not None and earlier.body["reply"] != hashing.result():
                raise RunError(f"the reservation {entry} paid for another reply; reserve again")
            with usable(self._reply_path(entry)):
                self._reply_path(entry).write_bytes(reply)  # megabytes, hashed meanwhile
            if earlier is None:
                total = ledger_rows.total_of(db, reserved.account)
                self._add(
                    db, "commit", reserved.account, reserved.run, reserved.round, reserved.model,
                    0, entry, {"reply": hashing.result()}, total,
                )  # fmt: skip
            stale = ledger_rows.superseded(db, self._replies(), _RUNS_WITH_REPLIES)
        for old in stale:
            with contextlib.suppress(OSError):  # costs space, and no promise
                self._reply_path(old).unlink()

    def answered(self, run: str, round_number: int, model: str) -> bytes | None:
        """The bytes released for this run, round and model before, whole, or None."""
        with self._reading() as db:
            row = ledger_rows.find(db, run, "commit", round_number, model)
        if row is None:
            return None
        try:
            reply = self._reply_path(row.entry).read_bytes()
        except OSError:
            return None
        return reply if hashlib.sha256(reply).hexdigest() == row.body["reply"] else None

    def opened(self, run: str) -> bool:
        """Whether the plan of a run was opened before."""
        with self._reading() as db:
            return ledger_rows.plan_of(db, run) is not None

    def steps(self, run: str) -> int:
        """Steps that a run reserved so far."""
        with self._reading() as db:
            return ledger_rows.taken_by(db, run)

    def last_reserved(self, run: str) -> tuple[int, str] | None:
        """Round and model of a run's newest reservation; None where there is none."""
        with self._reading() as db:
            row = ledger_rows.one(db, "where run = ? and kind = 'reserve' order by id desc", run)
        return None if row is None else (row.round, row.model)

    def state(self, account: str) -> tuple[list[dict[str, Any]], list[float]]:
        """The plans opened on an account, and its total divergence; empty for a new one."""
        with self._reading() as db:
            plans = [row.body for row in ledger_rows.plans_on(db, account)]
            return plans, ledger_rows.total_of(db, account)

    def rows(self) -> list[Row]:
        """Every row, in order."""
        with self._reading() as db:
            return ledger_rows.select(db, "order by id")

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
        if not self.path.exists() and not self.log.path.exists():
            raise RunError(f"{self.path}: no such ledger; give the path of a hospital's ledger")
        with self.log.locked(reading=True):
            entries = self.log.entries()
            with self._reading(trusting=True) as db:
                messages = [str(row[0]) for row in db.execute("pragma integrity_check")]
                if messages != ["ok"]:
                    raise sqlite3.DatabaseError("the file is damaged")
                rows = ledger_rows.select(db, "order by id")
                known = entries[-1]["rows"] if entries else 0
                unknown = ledger_rows.unanchored(db, known)
        ledger_rows.check_rows(rows, self.path)
        heads = [START, *(row.hash for row in rows)]
        for number, entry in enumerate(entries, start=1):
            if entry["rows"] >= len(heads):
                raise RunError(
                    f"{self.path} has {len(rows)} rows but its log knew of {entry['rows']} (line "
                    f"{number}): the ledger was deleted, cut short or rolled back"
                )
            if heads[entry["rows"]] != entry["head"]:
                raise RunError(
                    f"{self.path}, row {entry['rows']}: not the row that its log knew of (line "
                    f"{number}): the ledger was rewritten"
                )
        if ledger_rows.too_far_behind(unknown, known):
            raise self._short_log(known, len(rows))
        return len(rows)

    @contextmanager
    def _reading(self, *, trusting: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection for queries; none to a ledger that its log contradicts, unless trusting."""
        try:
            # Before the rows: another process may be adding some.
            anchor = None if trusting else self.log.last()
            with closing(self._database()) as db:
                if anchor is not None:
                    self._check_anchor(db, anchor)
                yield db
        except DAMAGE as error:
            raise self._unusable(error) from error

    def _database(self) -> sqlite3.Connection:
        """The file, or where there are no rows yet an empty ledger in memory."""
        if self.path.exists():
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            db = sqlite3.connect(uri, timeout=self.patience, isolation_level=None, uri=True)
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_CELL)
            try:
                if self._check_version(db):
                    return db
            except BaseException:
                db.close()
                raise
            db.close()
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(ledger_rows.SCHEMA)
        return db

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction, alone with ledger and log; the log's anchor follows what it wrote."""
        with self.log.locked():
            try:
                with usable(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                with connections.borrowed(self.path, self.patience) as db:
                    self._prepare(db)
                    db.execute(f"pragma synchronous = {'extra' if durable else 'normal'}")
                    db.execute("begin immediate")
                    try:
                        if self._check_anchor(db, self.log.last()):
                            self._anchor(db)
                        before = db.total_changes
                        yield db
                        spends = durable and db.total_changes > before
                        self._end(db, flush=spends)
                    except BaseException:
                        if db.in_transaction:
                            db.execute("rollback")
                        raise
                    if spends:
                        self._anchor(db)
            except DAMAGE as error:
                raise self._unusable(error) from error

    def _prepare(self, db: sqlite3.Connection) -> None:
        if self._check_version(db):
            return
        db.executescript(ledger_rows.SCHEMA)
        db.execute(f"pragma user_version = {VERSION}")

    def _end(self, db: sqlite3.Connection, *, flush: bool) -> None:
        """Commit; side by side with it the log's line about the row before comes to the disk."""
        if not flush:
            db.execute("commit")
            return
        with ThreadPoolExecutor(1) as pool:
            flushed = pool.submit(self.log.flush)
            db.execute("commit")
            flushed.result()

    def _check_version(self, db: sqlite3.Connection) -> bool:
        """Whether the file is a ledger already; raises where it is of another version."""
        version = int(db.execute("pragma user_version").fetchone()[0])
        # SQLite itself takes what is left of a page for the whole of it.
        if self.path.stat().st_size % int(db.execute("pragma page_size").fetchone()[0]):
            raise sqlite3.DatabaseError("the file was cut short")
        if version > VERSION:
            raise RunError(
                f"the ledger {self.path} was made by a newer fedmed (version {version}, this one "
                f"reads {VERSION}); update fedmed"
            )
        if 0 < version < VERSION:
            raise RunError(
                f"the ledger {self.path} was made by an earlier fedmed (version {version}, this "
                f"one reads {VERSION}); keep it, name a new file, and lower the policy's "
                "maximum-epsilon by what the old one shows"
            )
        return version == VERSION

    def _check_anchor(self, db: sqlite3.Connection, anchor: Anchor) -> int:
        """The ledger must hold what its log last knew of; by how much spend it is ahead.

        That may be what a crash or two left without a line, and no more.
        """
        last = ledger_rows.last(db)
        rows = 0 if last is None else last.id
        if rows < anchor.rows:
            raise RunError(
                f"{self.path} has {rows} rows but its log knew of {anchor.rows}: the ledger was "
                "deleted, cut short or rolled back; restore it from a backup"
            )
        unknown = ledger_rows.unanchored(db, anchor.rows)
        if ledger_rows.too_far_behind(unknown, anchor.rows):
            raise self._short_log(anchor.rows, rows)
        previous = anchor.head
        for row in ledger_rows.select(db, "where id >= ? order by id", max(1, anchor.rows)):
            if row.id == anchor.rows and row.hash != anchor.head:
                raise RunError(
                    f"{self.path}, row {row.id}: not the row that its log knew of; restore the "
                    "ledger from a backup"
                )
            follows = row.id <= anchor.rows or row.previous == previous
            if not follows or row.right_hash() != row.hash:
                raise RunError(
                    f"{self.path}, row {row.id}: it was edited; restore the ledger from a backup"
                )
            previous = row.hash
        return unknown

    def _anchor(self, db: sqlite3.Connection) -> None:
        """Add a line about the newest row."""
        last = ledger_rows.last(db)
        if last is not None:
            about = {"account": last.account, "run": last.run, "steps": last.steps}
            self.log.append(last.kind, last.id, last.hash, flush=False, **about)

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
        last = ledger_rows.last(db)
        now = float(self.clock())
        if last is not None and now < last.time - _CLOCK_SLACK:
            raise RunError(
                f"the clock is {last.time - now:.0f} s behind the last entry of {self.path}; set "
                "the clock and run again"
            )
        taken = ledger_rows.taken_by(db, run) + (steps if kind == "reserve" else 0)
        number = 1 if last is None else last.id + 1
        row = Row(
            id=number,
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
        ledger_rows.insert(db, row)
        return number

    def _short_log(self, known: int, rows: int) -> RunError:
        return RunError(
            f"{self.log.path} knows of {known} rows but the ledger has {rows}: the log was cut "
            "short or removed; restore it from a backup"
        )

    def _unusable(self, error: Exception) -> RunError:
        reason = " ".join(str(error).split())
        if "locked" in reason:
            return RunError(
                f"the ledger {self.path} is locked by another process; wait for it, or end it"
            )
        return RunError(
            f"the ledger {self.path} cannot be used ({type(error).__name__}: {reason}); check the "
            "disk and its permissions, or restore it from a backup"
        )

    def _replies(self) -> list[int]:
        start = f"{self.path.stem}.reply-"
        names = [path.name for path in self.path.parent.glob(f"{glob.escape(start)}*")]
        return [int(n.removeprefix(start)) for n in names if n.removeprefix(start).isdecimal()]

    def _reply_path(self, entry: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.reply-{entry}")
