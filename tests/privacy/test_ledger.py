"""Spend on disk: it survives processes, is never lost or undone, and replies are served whole."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support import goes_red

from fedmed.errors import RunError
from fedmed.privacy.filtering import OverBudget
from fedmed.privacy.ledger import Ledger


class LedgerInMemory:
    """Pitfall 22: what was spent is an attribute of an object."""

    def __init__(self, path: Path) -> None:
        self.entries: list[int] = []

    def reserve(self, round_number: int, model: str, steps: int) -> int:
        self.entries.append(steps)
        return len(self.entries)

    def steps(self) -> int:
        return sum(self.entries)


def check_spend_survives(ledger: Callable[[Path], Ledger], path: Path) -> None:
    ledger(path).reserve(1, "model", 5)
    assert ledger(path).steps() == 5


def test_spend_survives_a_new_instance(tmp_path: Path) -> None:
    check_spend_survives(Ledger, tmp_path / "a.sqlite")
    goes_red(check_spend_survives, LedgerInMemory, tmp_path / "b.sqlite")


def test_spend_survives_the_death_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "ledger.sqlite"
    code = (
        "import os, sys; from pathlib import Path; from fedmed.privacy.ledger import Ledger;"
        "Ledger(Path(sys.argv[1])).reserve(1, 'model', 5); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9
    assert Ledger(path).steps() == 5


def test_a_reservation_costs_although_no_answer_was_given(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    assert ledger.steps() == 0
    ledger.reserve(1, "model", 5)
    assert ledger.answered(1, "model") is None
    assert ledger.steps() == 5


def test_a_repeated_request_gets_the_stored_bytes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.commit(ledger.reserve(1, "model", 5), b"released")
    assert Ledger(ledger.path).answered(1, "model") == b"released"
    assert ledger.answered(1, "another model") is None
    assert ledger.answered(2, "model") is None


def check_not_served(answered: Callable[[int, str], bytes | None]) -> None:
    assert answered(1, "model") is None


@pytest.mark.parametrize("damage", [b"", b"releasee", b"release", b"released more"])
def test_a_damaged_reply_is_not_served(tmp_path: Path, damage: bytes) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    entry = ledger.reserve(1, "model", 5)
    ledger.commit(entry, b"released")
    stored = tmp_path / f"l.reply-{entry}"
    stored.write_bytes(damage)
    check_not_served(ledger.answered)
    goes_red(check_not_served, lambda round_number, model: stored.read_bytes())
    stored.unlink()
    check_not_served(ledger.answered)


def test_only_the_newest_reply_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    for number in (1, 2, 3):
        ledger.commit(ledger.reserve(number, f"model-{number}", 5), b"%d" % number)
    assert [p.name for p in tmp_path.glob("*reply*")] == ["l.reply-3"]
    assert ledger.answered(3, "model-3") == b"3"
    assert ledger.answered(1, "model-1") is None
    assert ledger.steps() == 15


def test_repetitions_count_once_only_where_asked_and_only_for_the_same_model(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    for round_number, model in ((1, "a"), (1, "a"), (1, "b"), (2, "a")):
        ledger.reserve(round_number, model, 5)
    assert ledger.steps() == 20
    assert ledger.steps(distinct=True) == 15
    # At a limit of 15, what is known passes and what is new does not.
    ledger.reserve(1, "b", 5, limit=15, distinct=True)
    for round_number, model in ((2, "b"), (3, "a")):
        with pytest.raises(OverBudget):
            ledger.reserve(round_number, model, 5, limit=15, distinct=True)
    assert ledger.steps() == 25


def test_a_refused_reservation_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.reserve(1, "a", 5, limit=9)
    with pytest.raises(OverBudget):
        ledger.reserve(2, "b", 5, limit=9)
    assert ledger.steps() == 5
    ledger.reserve(2, "b", 4, limit=9)
    assert ledger.steps() == 9


def reserve_to_the_limit(path: Path) -> int:
    """How many of 20 single steps this process got under a limit of 20 for all."""
    granted = 0
    for _ in range(20):
        try:
            Ledger(path).reserve(1, "a", 1, limit=20)
        except OverBudget:
            continue
        granted += 1
    return granted


def test_requests_at_once_never_pass_the_limit_together(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with ThreadPoolExecutor(4) as pool:
        granted = list(pool.map(reserve_to_the_limit, [path] * 4))
    assert sum(granted) == 20
    assert Ledger(path).steps() == 20


def test_two_processes_at_once_lose_no_entry(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    reserve = partial(ledger.reserve, 1, "model")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        entries = pool.map(reserve, [1] * 40, chunksize=1)
    assert sorted(entries) == list(range(1, 41))
    assert ledger.steps() == 40


def test_a_ledger_that_cannot_be_read_stops_everything(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to be read as one" * 40)
    for call in (lambda: Ledger(path).reserve(1, "m", 1), lambda: Ledger(path).steps()):
        with pytest.raises(RunError, match=r"the ledger .* cannot be used"):
            call()


def test_a_reservation_of_no_steps_is_no_reservation(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        Ledger(tmp_path / "l.sqlite").reserve(1, "model", 0)
