"""A ledger's accounts, its check and its rows, for the people who must believe it."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmed.base.errors import RunError, UserError
from fedmed.base.opening import GIB, MIB, check_regular, is_folder, present
from fedmed.privacy.ledger.filtering import Charge, Theorem, kept, reading
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.log import START
from fedmed.privacy.statement.facts import Changes, Relation, neighbours

MOST_ROWS = 4 * GIB
"""Bytes of a ledger: a row has a thousand."""

MOST_LOG = 256 * MIB
"""Bytes of its log, which is read as a whole: a line has five hundred."""

_YEAR_10000 = 253_402_300_800.0  # seconds since 1970
_LOG = ".audit.jsonl"


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one account of one ledger has spent; ``epsilon`` is None where nothing bounds it.

    ``theorem`` names what holds of epsilon at ``delta`` (see :class:`filtering.Reading`).
    ``limit_epsilon`` at ``limit_delta`` is what the account never passes: a filter's limit, set
    before the first plan (Feldman and Zrnic 2021); None where none was.
    """

    ledger: str
    account: str
    unit: str
    relation: Relation
    neighbouring: str
    plans: int
    rounds: int
    steps: int
    epsilon: float | None
    delta: float
    theorem: Theorem
    how: str
    limit_epsilon: float | None = None
    limit_delta: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return asdict(self)


def find(path: Path) -> list[Ledger]:
    """The ledger at ``path``, or all in a folder (or in its folder ``ledgers``)."""
    if is_folder(path):
        inner = path / "ledgers"
        folder = inner if inner.is_dir() else path
        # A log whose ledger was deleted is what a check must not pass over.
        logged = [log.name.removesuffix(_LOG) for log in folder.glob(f"*{_LOG}")]
        files = sorted({*folder.glob("*.sqlite"), *(folder / f"{name}.sqlite" for name in logged)})
        if not files:
            raise UserError(f"{path} holds no ledger; give a folder of *.sqlite ledgers, or one")
        return [regular(Ledger(file)) for file in files]
    if not present(path) and not (path.name and present(Ledger(path).log.path)):
        raise UserError(f"{path}: no such ledger; give a ledger or a folder that holds some")
    return [regular(Ledger(path))]


def regular(ledger: Ledger) -> Ledger:
    """The ledger, if what is there of it are files: SQLite would wait for a pipe.

    Raises :class:`UserError` naming the one that is not.
    """
    for file, most in ((ledger.path, MOST_ROWS), (ledger.log.path, MOST_LOG)):
        if present(file):
            check_regular(file, most, "give a hospital's ledger, or restore it from a backup")
    return ledger


def accounts(ledger: Ledger, delta: float) -> list[Account]:
    """Every account of a ledger that keeps what it says; raises :class:`RunError` otherwise."""
    if not 0 < delta < 1:
        raise UserError(f"--delta {delta:g}: give a number above 0 and below 1")
    ledger.verify()
    plans: dict[str, Charge] = {}
    taken: dict[str, int] = {}
    rounds: dict[str, int] = {}
    totals: dict[str, list[float]] = {}
    opening: dict[str, dict[str, Any]] = {}  # the first plan of an account, as written down
    for row in ledger.rows():
        totals[row.account] = row.spent["rdp"]
        if row.kind == "plan":
            plans[row.run] = Charge.from_json(row.body)
            opening.setdefault(row.account, row.body)
        if row.kind == "reserve":
            taken[row.run] = taken.get(row.run, 0) + row.steps
            rounds[row.run] = rounds.get(row.run, 0) + 1
    summaries = []
    for account in dict.fromkeys(request.account for request in plans.values()):
        own = {run: request for run, request in plans.items() if request.account == account}
        first = next(iter(own.values()))
        spent = [(request, taken.get(run, 0)) for run, request in own.items()]
        read = reading(spent, totals[account], delta)
        limit = kept(opening[account], totals[account])
        summaries.append(
            Account(
                ledger=str(ledger.path),
                account=account,
                unit=first.unit,
                relation=first.relation,
                neighbouring=_words(first),
                plans=len(own),
                rounds=sum(rounds.get(run, 0) for run in own),
                steps=sum(taken.get(run, 0) for run in own),
                epsilon=read.epsilon if read.epsilon < 1e300 else None,
                delta=delta,
                theorem=read.theorem,
                how=read.how,
                limit_epsilon=limit.epsilon if limit else None,
                limit_delta=limit.delta if limit else None,
            )
        )
    return summaries


def _words(request: Charge) -> str:
    """The account's neighbouring relation, for people."""
    if request.unit == "pixels":
        return neighbours("image", request.relation, "pixels")
    changes: Changes = "update" if request.relation == "zero-out" else "data"
    return neighbours(request.unit, request.relation, changes)


def check(ledger: Ledger, anchor: str = "") -> str:
    """Verify a ledger, and that an earlier ``ROWS:HEAD`` is still in it; one line of result."""
    count = ledger.verify()
    rows = ledger.rows()
    if anchor:
        number, _, head = anchor.partition(":")
        if not (number.isascii() and number.isdecimal() and len(number) < 19) or not head:
            raise UserError(f"--anchor {anchor}: write it as ROWS:HEAD, as verify prints it")
        heads = [START, *(row.hash for row in rows)]
        if int(number) > count or heads[int(number)] != head:
            raise RunError(
                f"{ledger.path}: row {number} is not the one of that anchor; ledger and log were "
                "rolled back or rewritten together"
            )
    return f"{count} rows, whole; anchor {count}:{rows[-1].hash if rows else START}"


def _moment(seconds: float) -> str | None:
    """A time in words; None for one in no year that the calendar has."""
    if not 0 <= seconds < _YEAR_10000:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def lines(ledger: Ledger) -> Iterator[str]:
    """Every row as a line of JSON, oldest first; ``time`` as it was hashed, and readable."""
    ledger.verify()
    for row in ledger.rows():
        moment = _moment(row.time)
        yield json.dumps({"ledger": ledger.path.name, **asdict(row), "moment": moment}) + "\n"
