"""Any order of plans, reservations, replies and crashes: the ledger is never below the truth.

Runs of two accounts, one of them under a limit, take steps through instances that come and go, and
die at any point of a write. Examples are the same in each run, so no test fails by chance.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import goes_red
from support.ledger import request

from fedmed.privacy.ledger import connections, filtering, rows
from fedmed.privacy.ledger.filtering import Charge, Limit, OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.step import gaussian

LIMITED = "hospital-1/patient"
LIMIT = Limit(3.0, 1e-5)  # room for fewer steps than the plans of its runs ask for
REQUESTS = {
    "a": request(account=LIMITED, step=gaussian(4.0), steps=9),
    "b": request(account=LIMITED, step=gaussian(3.0), steps=9),
    "c": request(account="hospital-1/image", unit="image", step=gaussian(1.0, 0.1), steps=12),
}


class Crash(BaseException):
    """The process dies here."""


def dies(*_: object, **__: object) -> None:
    """What stands where the process dies."""
    raise Crash


def half(handle: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
    """Write half a line and die."""
    write(handle, data[: len(data) // 2])
    raise Crash


# Where a write dies, and whether its row counts: it does once the database has it.
CRASHES: dict[str, tuple[Any, str, Any, bool]] = {
    "before the row": (rows, "insert", dies, False),
    "before the commit": (Ledger, "_end", dies, False),
    "before the line": (Ledger, "_anchor", dies, True),
    "within the line": (os, "write", half, True),
}
SPENDING = st.sampled_from(["none"] * 8 + sorted(CRASHES))
ANSWERING = st.sampled_from(["none"] * 3 + ["before the row", "before the commit"])
RUNS = st.sampled_from(sorted(REQUESTS))


@contextlib.contextmanager
def crashing(where: str) -> Any:
    """Die there, if anywhere; afterwards nothing of the process is left but its files."""
    with pytest.MonkeyPatch.context() as patch:
        if where != "none":
            patch.setattr(*CRASHES[where][:3])
        yield


class Hospital(RuleBasedStateMachine):
    """A ledger beside the plain truth."""

    make: ClassVar[Callable[[Path], Ledger]] = Ledger

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = self.make(self.folder / "l.sqlite")
        self.opened: list[str] = []
        self.taken = dict.fromkeys(REQUESTS, 0)  # steps of which the caller knows: the truth
        self.written = dict.fromkeys(REQUESTS, 0)  # steps whose row the database has
        self.rows = 0
        self.waiting: list[tuple[int, str, int]] = []
        self.replies: dict[tuple[str, int], bytes] = {}
        self.dead: list[object] = []
        self.behind = False  # the log misses a line, which each write adds first of all

    def teardown(self) -> None:
        connections.close_all()
        shutil.rmtree(self.folder)

    def total(self, account: str) -> list[float]:
        """The account's divergence, added up from what was written."""
        total: list[float] = []
        for run, value in REQUESTS.items():
            if value.account == account and self.written[run]:
                total = filtering.after(value, self.written[run], total)
        return total

    def has_room(self, run: str, steps: int) -> bool:
        """Whether a reservation must pass, by plan and limit."""
        wanted = REQUESTS[run]
        if self.written[run] + steps > wanted.steps:
            return False
        if wanted.account != LIMITED:
            return True
        first = next(r for r in self.opened if REQUESTS[r].account == LIMITED)
        index = filtering.order_index(REQUESTS[first], LIMIT)
        order = filtering.ORDERS[index]
        room = filtering.accounting.allowance(order, LIMIT.epsilon, LIMIT.delta)
        return filtering.after(wanted, steps, self.total(LIMITED))[index] <= room

    def counts(self, crash: str) -> bool:
        """Whether the row of a write that died counts."""
        line = CRASHES[crash][3]
        counts = line and not self.behind
        self.behind = line
        return bool(counts)

    @rule(run=RUNS, crash=SPENDING)
    def open_plan(self, run: str, crash: str) -> None:
        # Opened without a limit, so that only rounds are stopped by it.
        with crashing(crash):
            try:
                self.ledger.open_plan(run, REQUESTS[run])
            except Crash:
                counts = self.counts(crash)
            else:
                counts, self.behind = True, False
        if counts and run not in self.opened:
            self.opened.append(run)
            self.rows += 1

    @precondition(lambda self: self.opened)
    @rule(
        data=st.data(),
        number=st.integers(1, 3),
        steps=st.integers(1, 5),
        crash=SPENDING,
    )
    def reserve(self, data: st.DataObject, number: int, steps: int, crash: str) -> None:
        run = data.draw(st.sampled_from(self.opened))
        limit = LIMIT if REQUESTS[run].account == LIMITED else None
        room = self.has_room(run, steps)
        with crashing(crash):
            try:
                entry = self.ledger.reserve(run, number, "model", steps, limit=limit)
            except OverBudget as error:
                refused: OverBudget | None = error
                self.behind = False
            except Crash:
                if not self.counts(crash):
                    return
                refused = None
            else:
                refused, self.behind = None, False
                self.taken[run] += steps
                self.waiting.append((entry, run, number))
        assert room == (refused is None)
        if refused is not None:
            assert refused.by_policy == (self.written[run] + steps <= REQUESTS[run].steps)
            return
        self.written[run] += steps
        self.rows += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), crash=ANSWERING)
    def commit(self, data: st.DataObject, crash: str) -> None:
        entry, run, number = data.draw(st.sampled_from(self.waiting))
        reply = b"reply %d" % entry
        with crashing(crash):
            try:
                self.ledger.commit(entry, reply, cohort="films of today")
            except Crash:
                self.behind = False
                return
        self.behind = False
        self.waiting.remove((entry, run, number))
        self.replies[run, number] = reply
        self.rows += 1
        assert self.ledger.answered(run, number, "model") == reply

    @rule(how=st.sampled_from(["new instance", "new process", "killed"]))
    def start_again(self, how: str) -> None:
        if how == "new process":
            connections.close_all()
        if how == "killed":  # what it held open is never closed, what it worked at is forgotten
            self.dead.append(dict(connections._idle))
            connections._idle.clear()
            self.waiting.clear()
        self.ledger = self.make(self.ledger.path)

    @invariant()
    def never_below_the_truth(self) -> None:
        for run, value in REQUESTS.items():
            steps = self.ledger.steps(run)
            assert self.taken[run] <= steps == self.written[run] <= value.steps

    @invariant()
    def totals_are_sums(self) -> None:
        for account in {value.account for value in REQUESTS.values()}:
            plans, total = self.ledger.state(account)
            assert total == pytest.approx(self.total(account), rel=1e-9)
            own = [run for run in self.opened if REQUESTS[run].account == account]
            assert [Charge.from_json(plan) for plan in plans] == [REQUESTS[run] for run in own]
        spent = filtering.accounting.rdp_epsilon(
            self.total(LIMITED) or [0.0] * len(filtering.ORDERS), LIMIT.delta
        )
        assert spent <= LIMIT.epsilon

    @invariant()
    def all_is_whole(self) -> None:
        if self.rows:
            assert self.ledger.verify() == self.rows

    @invariant()
    def replies_are_those_that_were_given(self) -> None:
        for (run, number), reply in self.replies.items():
            assert self.ledger.answered(run, number, "model") in (None, reply)


QUICK = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def check_any_order(make: type[Ledger]) -> None:
    machine = type("Machine", (Hospital,), {"make": make})
    run_state_machine_as_test(machine, settings=QUICK)


def test_any_order_of_plans_rounds_replies_and_crashes() -> None:
    check_any_order(Ledger)


class ChargesLess(Ledger):
    """Under-counts: local steps of a round as one."""

    def reserve(self, run: str, round_number: int, model: str, steps: int, **rest: Any) -> int:
        return super().reserve(run, round_number, model, 1, **rest)


class ChargesAfterwards(Ledger):
    """A reservation that is written only with the reply: a crash in between is free."""

    def reserve(self, run: str, round_number: int, model: str, steps: int, **rest: Any) -> int:
        return 1


class LosesWrites(Ledger):
    """Says that a row is written before it is."""

    def _end(self, db: Any, *, flush: bool) -> None:
        db.execute("rollback")


class IgnoresLimits(Ledger):
    """Asks the plan alone."""

    def reserve(self, run: str, round_number: int, model: str, steps: int, **_: Any) -> int:
        return super().reserve(run, round_number, model, steps)


@pytest.mark.parametrize("broken", [ChargesLess, ChargesAfterwards, LosesWrites, IgnoresLimits])
def test_a_broken_ledger_is_found(broken: type[Ledger]) -> None:
    goes_red(check_any_order, broken)
