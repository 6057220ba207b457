"""A hospital's durable record of what it spent: reserved before data is touched, never undone.

One SQLite file per hospital and run. A crash between reservation and reply leaves the reservation,
so that spend can only be over-counted. A request that was answered gets the stored bytes again, and
costs nothing.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedmed import files
from fedmed.errors import RunError

_SCHEMA = """
create table if not exists spend (
    id integer primary key,
    round integer not null,
    model text not null,
    steps integer not null check (steps > 0),
    state text not null check (state in ('reserved', 'committed')),
    reply text
)
"""


class OverBudget(Exception):
    """A reservation that would pass the limit; nothing was written."""


@dataclass(frozen=True)
class Ledger:
    """The ledger at ``path``, safe for several processes; a write is on disk when it returns."""

    path: Path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with files.disk_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
                db.execute("pragma synchronous = full")
                db.execute(_SCHEMA)
                yield db
        except sqlite3.Error as error:
            # Without a record no private step may be taken: fail closed.
            raise RunError(
                f"the ledger {self.path} cannot be used ({type(error).__name__}); "
                "check the disk and its permissions"
            ) from error

    def reserve(
        self,
        round_number: int,
        model: str,
        steps: int,
        *,
        limit: int | None = None,
        distinct: bool = False,
    ) -> int:
        """Write down, durably, that ``steps`` are about to be taken; returns the entry's number.

        Raises :class:`OverBudget`, and writes nothing, where the total would pass ``limit``. The
        check and the entry are one transaction, so two requests at once cannot both pass.
        ``distinct`` counts a repeated round and model once (see :meth:`steps`).
        """
        with self._open() as db:
            db.execute("begin immediate")
            try:
                same = "select 1 from spend where round = ? and model = ? limit 1"
                known = distinct and db.execute(same, (round_number, model)).fetchone() is not None
                total = _total(db, distinct) + (0 if known else steps)
                if limit is not None and total > limit:
                    raise OverBudget
                cursor = db.execute(
                    "insert into spend (round, model, steps, state) values (?, ?, ?, 'reserved')",
                    (round_number, model, steps),
                )
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
            return int(cursor.lastrowid or 0)

    def commit(self, entry: int, reply: bytes) -> None:
        """Keep the released bytes for a repeated request, then mark the entry as answered."""
        path = self._reply_path(entry)
        # Hashing and writing megabytes side by side: the hospital's answer waits for both.
        with ThreadPoolExecutor(1) as pool, files.disk_errors(path):
            hashed = pool.submit(lambda: hashlib.sha256(reply).hexdigest())
            path.write_bytes(reply)
        digest = hashed.result()
        with self._open() as db:
            db.execute(
                "update spend set state = 'committed', reply = ? where id = ?", (digest, entry)
            )
            old = [row[0] for row in db.execute("select id from spend where id < ?", (entry,))]
        for earlier in old:
            # The server that sent a newer model has the older reply.
            self._reply_path(earlier).unlink(missing_ok=True)

    def answered(self, round_number: int, model: str) -> bytes | None:
        """The bytes released for this round and model before, whole, or None."""
        with self._open() as db:
            row = db.execute(
                "select id, reply from spend where round = ? and model = ? and state = 'committed'"
                " order by id desc limit 1",
                (round_number, model),
            ).fetchone()
        if row is None or not self._reply_path(row[0]).is_file():
            return None
        reply = self._reply_path(row[0]).read_bytes()
        return reply if hashlib.sha256(reply).hexdigest() == row[1] else None

    def steps(self, distinct: bool = False) -> int:
        """Steps reserved so far; ``distinct`` counts a repeated round and model once.

        Only noise that is the same in every repetition may be counted once.
        """
        if not self.path.exists():
            return 0
        with self._open() as db:
            return _total(db, distinct)

    def _reply_path(self, entry: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.reply-{entry}")


def _total(db: sqlite3.Connection, distinct: bool) -> int:
    if distinct:
        once = "select max(steps) as most from spend group by round, model"
        query = f"select sum(most) from ({once})"  # noqa: S608 -- a constant
    else:
        query = "select sum(steps) from spend"
    return int(db.execute(query).fetchone()[0] or 0)
