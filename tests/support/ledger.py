"""What tests of the ledger share: requests, and the hands of somebody who edits its files."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedmed.privacy.ledger import connections, filtering
from fedmed.privacy.ledger.filtering import Charge, Limit, OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.rows import COLUMNS, Row, insert, last
from fedmed.privacy.mechanisms.step import gaussian

RUN = "run-1"
ACCOUNT = "hospital-1/patient"
LIMIT = Limit(8.0, 1e-5)


def request(**changes: Any) -> Charge:
    """Twenty steps of DP-SGD on one account."""
    values: dict[str, Any] = {
        "account": ACCOUNT,
        "unit": "patient",
        "arm": "dp-sgd",
        "relation": "add-or-remove",
        "step": gaussian(1.0, 0.1),
        "steps": 20,
        "delta": 1e-5,
        "cohort": "films of today",
    }
    return Charge(**(values | changes))


def opened(path: Path, *, run: str = RUN, limit: Limit | None = None, **changes: Any) -> Ledger:
    """A ledger in which one run is opened."""
    ledger = Ledger(path, patience=5.0)
    ledger.open_plan(run, request(**changes), limit)
    return ledger


def filled(path: Path) -> Ledger:
    """A ledger of 8 rows: a plan, two rounds, a second plan, a round and one without an answer."""
    ledger = opened(path)
    for number in (1, 2):
        ledger.commit(ledger.reserve(RUN, number, f"model-{number}", 5), b"released")
    ledger.open_plan("run-2", request(steps=10))
    ledger.commit(ledger.reserve("run-2", 1, "another", 3), b"released")
    connections.close_all()
    return ledger


@contextlib.contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    """The file in the hands of somebody who wants another past; triggers are no hindrance."""
    connections.close_all()
    with contextlib.closing(sqlite3.connect(path)) as db:
        for name in ("no_update", "no_delete"):
            db.execute(f"drop trigger if exists {name}")
        db.execute("pragma ignore_check_constraints = on")
        yield db
        db.commit()


def forged(ledger: Ledger, **values: Any) -> None:
    """Append by hand a row that has its right place in the chain."""
    with edited(ledger.path) as db:
        newest = last(db)
        assert newest is not None
        row = {name: getattr(newest, name) for name in COLUMNS}
        row |= {"id": newest.id + 1, "previous": newest.hash, "hash": ""}
        insert(db, Row(**(row | values)))


def spend(total: list[float]) -> float:
    """Epsilon of a total at the delta of ``LIMIT``."""
    return filtering.accounting.rdp_epsilon(total, LIMIT.delta)


def granted(path: Path, limit: Limit | None, make: Callable[[Path], Ledger] = Ledger) -> int:
    """How many of 20 single steps one worker got."""
    found = 0
    for _ in range(20):
        try:
            make(path).reserve(RUN, 1, "a", 1, limit=limit)
        except OverBudget:
            continue
        found += 1
    return found


ROWS = 8  # of a ledger that is ``filled``
