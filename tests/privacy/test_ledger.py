"""Spend on disk: it survives processes, is never lost or undone, and replies are served whole."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support.ledger import ACCOUNT, LIMIT, RUN, granted, opened, request, spend

from fedmed.base.errors import RunError
from fedmed.privacy.ledger import filtering, rows
from fedmed.privacy.ledger.filtering import Charge, Limit, OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.step import gaussian, laplace

Make = Callable[[Path], Ledger]


class InMemory(Ledger):
    """Pitfall 22: what was spent is an attribute of an object."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        object.__setattr__(self, "taken", 0)

    def reserve(self, run: str, round_number: int, model: str, steps: int, **_: Any) -> int:
        object.__setattr__(self, "taken", self.taken + steps)  # type: ignore[attr-defined]  # set without the frozen class's knowledge
        return 1

    def steps(self, run: str) -> int:
        return int(self.taken)  # type: ignore[attr-defined]  # set without the frozen class's knowledge


class Unchecked(Ledger):
    """Looks first and writes afterwards: two transactions, between which others write."""

    def reserve(self, run: str, round_number: int, model: str, steps: int, **_: Any) -> int:
        with self._reading() as db:
            plan = rows.plan_of(db, run)
            taken = rows.taken_by(db, run)
        assert plan is not None
        if taken + steps > plan.body["steps"]:
            raise OverBudget("used up", by_policy=False)
        time.sleep(0.002)
        with self._writing() as db:
            return self._add(db, "reserve", ACCOUNT, run, 1, model, steps, 0, {}, [])


def check_spend_survives(make: Make, path: Path) -> None:
    opened(path)
    make(path).reserve(RUN, 1, "model", 5)
    assert make(path).steps(RUN) == 5


def test_spend_survives_a_new_instance(tmp_path: Path) -> None:
    check_spend_survives(Ledger, tmp_path / "a.sqlite")
    goes_red(check_spend_survives, InMemory, tmp_path / "b.sqlite")


def test_spend_survives_the_death_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "ledger.sqlite"
    code = (
        "import os, signal, sys; from pathlib import Path; from support.ledger import opened;"
        "l = opened(Path(sys.argv[1])); l.reserve('run-1', 1, 'model', 5);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=False,
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"},
    )
    assert done.returncode == -9
    assert Ledger(path).steps(RUN) == 5
    assert Ledger(path).verify() == 2
    assert Ledger(path).reserve(RUN, 2, "model", 5) == 3


def test_a_reservation_costs_although_no_answer_was_given(tmp_path: Path) -> None:
    def check(steps: Callable[[], int], answer: Callable[[], bytes | None]) -> None:
        assert answer() is None
        assert steps() == 5

    ledger = opened(tmp_path / "l.sqlite")
    assert ledger.steps(RUN) == 0
    ledger.reserve(RUN, 1, "model", 5)
    check(partial(ledger.steps, RUN), partial(ledger.answered, RUN, 1, "model"))

    def answered_steps() -> int:  # a ledger that charges for answers
        return sum(row.steps for row in ledger.rows() if row.kind == "commit")

    goes_red(check, answered_steps, partial(ledger.answered, RUN, 1, "model"))


def check_repeated(answered: Callable[[str, int, str], bytes | None]) -> None:
    assert answered(RUN, 1, "model") == b"released"
    assert answered("another run", 1, "model") is None
    assert answered(RUN, 1, "another model") is None
    assert answered(RUN, 2, "model") is None


def test_a_repeated_request_gets_the_stored_bytes(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    ledger.open_plan("another run", request())
    ledger.commit(ledger.reserve(RUN, 1, "model", 5), b"released")
    ledger.reserve(RUN, 2, "model", 5)  # never answered
    check_repeated(Ledger(ledger.path).answered)
    assert ledger.steps(RUN) == 10
    for keys in ((1, 2), (0, 2), (0, 1)):  # a look-up that forgets run, round or model

        def careless(*wanted: Any, keys: tuple[int, ...] = keys) -> bytes | None:
            same = [wanted[i] == (RUN, 1, "model")[i] for i in keys]
            return b"released" if all(same) else None

        goes_red(check_repeated, careless)


def check_not_served(answered: Callable[[str, int, str], bytes | None]) -> None:
    assert answered(RUN, 1, "model") is None


@pytest.mark.parametrize("damage", [b"", b"releasee", b"release", b"released more"])
def test_a_damaged_reply_is_not_served(tmp_path: Path, damage: bytes) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    entry = ledger.reserve(RUN, 1, "model", 5)
    ledger.commit(entry, b"released")
    stored = tmp_path / f"l.reply-{entry}"
    stored.write_bytes(damage)
    check_not_served(ledger.answered)
    goes_red(check_not_served, lambda run, round_number, model: stored.read_bytes())
    stored.unlink()
    check_not_served(ledger.answered)
    stored.mkdir()
    check_not_served(ledger.answered)


def replies(folder: Path) -> list[str]:
    """The replies that lie there, by content."""
    return sorted(path.read_text() for path in folder.glob("*.reply-*"))


def test_the_newest_reply_of_the_two_newest_runs_is_kept(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l[1].sqlite")
    for number in (1, 2, 3):
        ledger.commit(ledger.reserve(RUN, number, "m", 5), b"1.%d" % number)
    assert replies(tmp_path) == ["1.3"]
    for run in ("2", "3"):
        ledger.open_plan(run, request())
        for number in (1, 2):
            ledger.commit(ledger.reserve(run, number, "m", 5), f"{run}.{number}".encode())
    assert replies(tmp_path) == ["2.2", "3.2"]
    assert ledger.answered("2", 2, "m") == b"2.2"
    assert ledger.answered(RUN, 3, "m") is None
    assert ledger.steps(RUN) == 15


def test_a_reply_that_is_being_written_is_not_thrown_away_by_another_run(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    for run in ("2", "3"):
        ledger.open_plan(run, request())
    first = ledger.reserve(RUN, 1, "m", 5)
    (tmp_path / f"l.reply-{first}").write_bytes(b"one")  # its commit is under way
    for run in ("2", "3"):
        ledger.commit(ledger.reserve(run, 1, "m", 5), run.encode())
    assert replies(tmp_path) == ["2", "3", "one"]
    ledger.commit(first, b"one")
    assert ledger.answered(RUN, 1, "m") == b"one"
    assert replies(tmp_path) == ["3", "one"]


def check_one_reply(commit: Callable[[int, bytes], None], ledger: Ledger) -> None:
    entry = ledger.reserve(RUN, 1, "model", 5)
    commit(entry, b"released")
    commit(entry, b"released")
    refuses(lambda: commit(entry, b"again"), "paid for another reply", error=RunError)
    assert ledger.answered(RUN, 1, "model") == b"released"


def test_one_reservation_pays_for_one_reply(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    check_one_reply(ledger.commit, ledger)
    assert [row.kind for row in ledger.rows()] == ["plan", "reserve", "commit"]

    def careless(entry: int, reply: bytes) -> None:
        (tmp_path / f"b.reply-{entry}").write_bytes(reply)

    goes_red(check_one_reply, careless, opened(tmp_path / "b.sqlite"))


def test_a_reply_without_a_reservation_is_refused(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    for entry in (0, 1, 2, -1):  # row 1 is the plan
        refuses(partial(ledger.commit, entry, b"x"), "holds no reservation", error=RunError)
    refuses(
        partial(Ledger(tmp_path / "m.sqlite").reserve, RUN, 1, "m", 1),
        "has no plan of this run",
        error=RunError,
    )
    assert replies(tmp_path) == []


def check_repeatable(reserve: Callable[..., int], steps: Callable[[], int]) -> None:
    for round_number, model in ((1, "a"), (1, "a"), (1, "b"), (2, "a"), (1, "b")):
        reserve(RUN, round_number, model, 5, repeatable=True)
    assert steps() == 15


def test_repeatable_noise_costs_once_for_the_same_round_and_model(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "a.sqlite")
    check_repeatable(ledger.reserve, partial(ledger.steps, RUN))
    ledger = opened(tmp_path / "b.sqlite", steps=100)

    def always(*request: Any, repeatable: bool) -> int:
        return ledger.reserve(*request)

    goes_red(check_repeatable, always, partial(ledger.steps, RUN))


def test_noise_drawn_afresh_is_never_repeated_for_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    first = ledger.reserve(RUN, 1, "a", 5)
    second = ledger.reserve(RUN, 1, "a", 5, repeatable=True)
    assert first != second
    assert ledger.reserve(RUN, 1, "a", 5, repeatable=True) == second
    assert ledger.reserve(RUN, 1, "a", 6, repeatable=True) != second  # more steps than were paid
    assert ledger.steps(RUN) == 16


def check_refused(reserve: Callable[[int], object], ledger: Ledger, by_policy: bool) -> None:
    before, log = len(ledger.rows()), ledger.log.path.read_bytes()
    with pytest.raises(OverBudget) as caught:
        reserve(6)
    assert caught.value.by_policy is by_policy
    assert len(ledger.rows()) == before
    assert ledger.log.path.read_bytes() == log
    reserve(5)
    assert ledger.steps(RUN) == 20


def test_a_reservation_over_the_plan_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    ledger.reserve(RUN, 1, "a", 15)
    check_refused(lambda steps: ledger.reserve(RUN, 2, "b", steps), ledger, by_policy=False)
    assert ledger.verify() == 3


def test_a_reservation_over_the_limit_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite", steps=100)
    ledger.reserve(RUN, 1, "a", 15)
    limit = limit_for(request(steps=100), 20)
    check_refused(
        lambda steps: ledger.reserve(RUN, 2, "b", steps, limit=limit), ledger, by_policy=True
    )
    with pytest.raises(OverBudget):
        ledger.reserve(RUN, 3, "c", 1, limit=limit)
    ledger.reserve(RUN, 3, "c", 1)  # a plan that has room: only the limit refused


def limit_for(wanted: Charge, steps: int) -> Limit:
    """A limit under which an account has room for just so many steps."""
    plans = [wanted.to_json() | {"sole": False}]
    for tenth in range(1, 200):
        limit = Limit(tenth / 10, LIMIT.delta)
        if filtering.largest_steps(wanted, limit, plans, []) == steps:
            return limit
    raise ValueError(steps)


def check_cannot_open(open_plan: Callable[[str, Charge], None], ledger: Ledger) -> None:
    with pytest.raises(OverBudget) as caught:
        open_plan("large", request(steps=3000))
    assert caught.value.by_policy
    assert not ledger.opened("large")
    assert ledger.state(ACCOUNT) == ([], [])


def test_a_plan_over_the_limit_is_not_opened(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    check_cannot_open(partial(ledger.open_plan, limit=LIMIT), ledger)
    goes_red_by_raising(check_cannot_open, ledger.open_plan, ledger)


def goes_red_by_raising(check: Callable[..., None], *broken: Any) -> None:
    """As ``goes_red``, where the check wants an error that the broken variant does not give."""
    with pytest.raises(pytest.fail.Exception):
        check(*broken)


def check_never_together(make: Make, path: Path) -> None:
    opened(path)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(granted, [path] * 4, [None] * 4, [make] * 4))
    assert sum(counts) == 20
    assert Ledger(path).steps(RUN) == 20
    assert Ledger(path).verify() == 21


def test_requests_at_once_never_pass_the_plan_together(tmp_path: Path) -> None:
    check_never_together(Ledger, tmp_path / "a.sqlite")
    goes_red(check_never_together, Unchecked, tmp_path / "b.sqlite")


def test_requests_at_once_never_pass_the_limit_together(tmp_path: Path) -> None:
    loud = request(step=gaussian(2.0), steps=80)
    limit = limit_for(loud, 9)
    path = tmp_path / "a.sqlite"
    opened(path, step=loud.step, steps=80)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(granted, [path] * 4, [limit] * 4))
    assert sum(counts) == 9
    assert spend(Ledger(path).state(ACCOUNT)[1]) <= limit.epsilon
    Ledger(path).reserve(RUN, 1, "a", 1)  # the limit was what stopped them
    assert spend(Ledger(path).state(ACCOUNT)[1]) > 0.9 * limit.epsilon


def test_two_processes_at_once_lose_no_entry_and_never_overspend(tmp_path: Path) -> None:
    loud = request(step=gaussian(2.0), steps=80)
    limits = {"plan": None, "limit": limit_for(loud, 9)}
    for name, limit in limits.items():
        opened(tmp_path / name, **({"steps": 30} if limit is None else vars(loud)))
    work = [(tmp_path / name, limit) for name, limit in limits.items() for _ in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.starmap(granted, work, chunksize=1)
    for name, first, most in (("plan", 0, 30), ("limit", 2, 9)):
        ledger = Ledger(tmp_path / name)
        assert sum(counts[first : first + 2]) == ledger.steps(RUN) == most
        assert [row.id for row in ledger.rows()] == list(range(1, most + 2))
        assert ledger.verify() == most + 1


def check_composes(second: Charge, ledger: Ledger) -> None:
    before = ledger.state(ACCOUNT)[1]
    ledger.open_plan("second", second, LIMIT)
    ledger.reserve("second", 1, "m", 5, limit=LIMIT)
    plans, total = ledger.state(ACCOUNT)
    assert len(plans) == 2
    assert total == pytest.approx([2 * value for value in before])
    with pytest.raises(OverBudget):
        ledger.open_plan("third", request(steps=10**5), LIMIT)


@pytest.mark.parametrize(
    "second",
    [
        request(),  # a second run
        request(arm="stacked", relation="replace"),  # another project
        request(cohort="films of today and one more"),  # pitfall 28
    ],
)
def test_nothing_opens_a_fresh_budget(tmp_path: Path, second: Charge) -> None:
    for name, changed in (("a", second), ("b", second_account(second))):
        ledger = opened(tmp_path / f"{name}.sqlite", limit=LIMIT)
        ledger.reserve(RUN, 1, "m", 5, limit=LIMIT)
        if name == "a":
            check_composes(changed, ledger)
        else:
            goes_red(check_composes, changed, ledger)


def second_account(value: Charge) -> Charge:
    """Pitfall 28: the account is named after the data."""
    return request(account=f"hospital-1/{value.cohort}", arm=value.arm)


def test_an_account_counts_in_one_unit(tmp_path: Path) -> None:
    """Else a patient's spend would be what single images cost."""
    ledger = opened(tmp_path / "l.sqlite")
    refuses(
        lambda: ledger.open_plan("images", request(unit="image")),
        "counts in the unit patient, not image",
        "name another account",
        error=RunError,
    )
    assert not ledger.opened("images")
    ledger.open_plan("images", request(unit="image", account="hospital-1/image"))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 21},
        {"step": gaussian(1.0, 0.11)},
        {"step": laplace(1.0, 3)},
        {"step": None},
        {"account": "another"},
        {"arm": "local-update"},
        {"unit": "image"},
        {"delta": 1e-6},
    ],
)
def test_a_run_is_not_opened_again_with_another_plan(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    ledger.open_plan(RUN, request())
    refuses(lambda: ledger.open_plan(RUN, request(**changes)), "with another plan", error=RunError)
    assert len(ledger.rows()) == 1
    assert ledger.steps(RUN) == 0


def check_cohort(ledger: Ledger) -> None:
    entry = ledger.reserve(RUN, 1, "m", 5)
    refuses(
        lambda: ledger.commit(entry, b"x", cohort="films of tomorrow"),
        "the cohort changed",
        "stays spent",
        error=RunError,
    )
    assert ledger.answered(RUN, 1, "m") is None
    assert ledger.steps(RUN) == 5
    ledger.commit(entry, b"x", cohort="films of today")


def test_a_cohort_that_changed_before_the_commit_releases_nothing(tmp_path: Path) -> None:
    check_cohort(opened(tmp_path / "a.sqlite"))
    goes_red(check_cohort, opened(tmp_path / "b.sqlite", cohort=None))  # nothing to compare with


def test_a_cohort_that_changed_stops_a_resumed_run(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    ledger.reserve(RUN, 1, "m", 5)
    refuses(
        lambda: ledger.open_plan(RUN, request(cohort="films of tomorrow")),
        "the cohort changed since this run began",
        error=RunError,
    )
    assert ledger.steps(RUN) == 5
    ledger.open_plan(RUN, request())


def test_a_limit_that_was_lowered_stops_an_open_plan(tmp_path: Path) -> None:
    """Of both kinds: under the filter, and of an account's only plan."""
    for name, arguments in (("filter", {}), ("sole", {"step": gaussian(5.0), "steps": 69})):
        ledger = opened(tmp_path / f"{name}.sqlite", limit=LIMIT, **arguments)
        assert ledger.state(ACCOUNT)[0][0]["sole"] is (name == "sole")
        ledger.reserve(RUN, 1, "a", 1, limit=LIMIT)
        tight = Limit(1.3 if name == "sole" else 1.0, LIMIT.delta)
        before = len(ledger.rows())
        with pytest.raises(OverBudget) as caught:
            ledger.reserve(RUN, 2, "b", 19, limit=tight)
        assert caught.value.by_policy
        assert len(ledger.rows()) == before
        ledger.reserve(RUN, 2, "b", 1, limit=None if name == "filter" else tight)
        ledger.reserve(RUN, 3, "c", 18, limit=LIMIT)  # raised again: the plan goes on


def test_a_limit_that_comes_later_counts_what_was_spent_before(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "l.sqlite", steps=2000)
    ledger.reserve(RUN, 1, "a", 2000)
    with pytest.raises(OverBudget):
        ledger.open_plan("second", request(steps=1), LIMIT)
    unbounded = opened(tmp_path / "u.sqlite", step=None)
    unbounded.reserve(RUN, 1, "a", 1)
    with pytest.raises(OverBudget):
        unbounded.open_plan("second", request(steps=1), Limit(1e9, 1e-5))


@pytest.mark.parametrize("steps", [0, -1, float("nan")])
def test_a_reservation_of_no_steps_is_no_reservation(tmp_path: Path, steps: Any) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    refuses(lambda: ledger.reserve(RUN, 1, "model", steps), "at least one", error=RunError)
    assert len(ledger.rows()) == 1
