"""What a ledger shows: totals as accounting has them, every row, and no ledger passed over."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support import goes_red, refuses
from support.ledger import ACCOUNT, LIMIT, RUN, edited, filled, opened, request

from fedmed.base.errors import RunError, UserError
from fedmed.privacy import accounting
from fedmed.privacy.ledger import connections, filtering
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.log import START
from fedmed.privacy.ledger.report import Account, accounts, check, find, lines
from fedmed.privacy.mechanisms.step import gaussian

Show = Callable[[Ledger, float], list[Account]]


def check_one_plan(show: Show, path: Path) -> None:
    ledger = opened(path)
    for number in (1, 2):
        ledger.reserve(RUN, number, "m", 5)
    ledger.reserve(RUN, 2, "m", 5)  # asked again, with fresh noise
    (row,) = show(ledger, 1e-5)
    step = gaussian(1.0, 0.1)
    assert row.epsilon == accounting.composed_epsilon(((step, 20),), 1e-5)
    assert (row.plans, row.rounds, row.steps, row.delta) == (1, 3, 15, 1e-5)
    assert (row.account, row.unit) == (ACCOUNT, "patient")
    assert row.neighbouring == "add or remove one patient"
    assert "PLD" in row.how


def test_one_plan_shows_its_whole_epsilon(tmp_path: Path) -> None:
    """What was released may have decided when it stopped: the steps taken are no bound."""
    check_one_plan(accounts, tmp_path / "a.sqlite")

    def so_far(ledger: Ledger, delta: float) -> list[Account]:
        (row,) = accounts(ledger, delta)
        part = accounting.composed_epsilon(((gaussian(1.0, 0.1), 15),), delta)
        return [dataclasses.replace(row, epsilon=part)]

    goes_red(check_one_plan, so_far, tmp_path / "b.sqlite")


def check_several(show: Show, path: Path) -> None:
    ledger = opened(path)
    ledger.open_plan("run-2", request(step=gaussian(2.0)))
    ledger.open_plan("untouched", request())
    ledger.open_plan("images", request(account="h/image", unit="image", step=gaussian(3.0)))
    ledger.open_plan("none", request(account="h/hospital", unit="hospital", step=None))
    for run, steps in ((RUN, 5), ("run-2", 3), ("images", 7), ("none", 1), (RUN, 2)):
        ledger.reserve(run, 1, "m", steps)
    first, images, none = show(ledger, 1e-6)
    total = filtering.after(request(step=gaussian(2.0)), 3, filtering.after(request(), 7, []))
    assert first.epsilon == pytest.approx(accounting.odometer(total, 1e-6), rel=1e-12)
    assert first.epsilon > accounting.rdp_epsilon(total, 1e-6)
    assert (first.plans, first.rounds, first.steps) == (3, 3, 10)
    assert first.theorem == "odometer"
    assert images.epsilon == accounting.composed_epsilon(((gaussian(3.0), 20),), 1e-6)
    assert (images.account, images.unit, images.plans) == ("h/image", "image", 1)
    assert none.epsilon is None  # not bounded: no number, and none that JSON cannot hold
    json.dumps([row.to_json() for row in (first, images, none)], allow_nan=False)


def test_several_plans_show_an_odometers_reading_account_by_account(tmp_path: Path) -> None:
    check_several(accounts, tmp_path / "a.sqlite")

    def separate(ledger: Ledger, delta: float) -> list[Account]:
        first, *rest = accounts(ledger, delta)
        step = gaussian(1.0, 0.1)
        alone = accounting.composed_epsilon(((step, 7),), delta)
        return [dataclasses.replace(first, epsilon=alone), *rest]

    goes_red(check_several, separate, tmp_path / "b.sqlite")


def test_what_was_opened_and_never_reserved_has_spent_nothing(tmp_path: Path) -> None:
    (row,) = accounts(opened(tmp_path / "l.sqlite"), 1e-5)
    assert (row.epsilon, row.steps, row.rounds, row.plans) == (0.0, 0, 0, 1)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_a_delta_that_is_none_is_refused(tmp_path: Path, delta: float) -> None:
    refuses(lambda: accounts(opened(tmp_path / "l.sqlite"), delta), "--delta")


def test_a_ledger_that_was_edited_shows_nothing(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    with edited(ledger.path) as db:
        db.execute("update ledger set steps = 1 where id = 4")
    for show in (
        lambda: accounts(ledger, 1e-5),
        lambda: list(lines(ledger)),
        lambda: check(ledger),
    ):
        refuses(show, "row 4", "edited", error=RunError)


def check_all_found(look: Callable[[Path], list[Ledger]], folder: Path) -> None:
    inner = folder / "ledgers"
    inner.mkdir(parents=True)
    for name in ("server.central", "hospital-1", "hospital-2"):
        filled(inner / f"{name}.sqlite")
    (inner / "hospital-2.sqlite").unlink()
    for place in (folder, inner):
        names = [ledger.path.name for ledger in look(place)]
        assert names == ["hospital-1.sqlite", "hospital-2.sqlite", "server.central.sqlite"]
    deleted = look(folder)[1]
    refuses(deleted.verify, "hospital-2.sqlite", "deleted", error=RunError)


def test_a_folder_lists_every_ledger_and_those_of_which_only_the_log_is_left(
    tmp_path: Path,
) -> None:
    check_all_found(find, tmp_path / "a")

    def files_only(path: Path) -> list[Ledger]:
        inner = path / "ledgers"
        return [Ledger(f) for f in sorted((inner if inner.is_dir() else path).glob("*.sqlite"))]

    goes_red(check_all_found, files_only, tmp_path / "b")


def test_a_place_without_a_ledger_is_named(tmp_path: Path) -> None:
    refuses(lambda: find(tmp_path), "holds no ledger")
    refuses(lambda: find(tmp_path / "absent.sqlite"), "no such ledger")
    assert list(tmp_path.iterdir()) == []


def test_verify_prints_an_anchor_that_it_takes_again(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    text, _, anchor = check(ledger).rpartition(" ")
    assert text == "8 rows, whole; anchor"
    assert anchor == f"8:{ledger.rows()[-1].hash}"
    ledger.reserve(RUN, 9, "m", 1)
    assert check(ledger, anchor).startswith("9 rows, whole")
    assert check(ledger, f"0:{START}")


@pytest.mark.parametrize("anchor", ["8", "8:", ":abc", "x:abc", "-1:abc", "1.5:abc", "8 abc"])
def test_an_anchor_that_is_none_is_refused(tmp_path: Path, anchor: str) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    refuses(lambda: check(ledger, anchor), "--anchor", "ROWS:HEAD")


@pytest.mark.parametrize("anchor", ["8:abc", "9:abc", f"8:{START}", "0:abc", f"100000:{START}"])
def test_an_anchor_that_is_not_in_the_ledger_is_a_rollback(tmp_path: Path, anchor: str) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    refuses(lambda: check(ledger, anchor), "rolled back or rewritten", error=RunError)


def test_the_export_holds_every_row(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    found = [json.loads(line) for line in lines(ledger)]
    rows = ledger.rows()
    assert [row["id"] for row in found] == list(range(1, 9))
    assert [row["hash"] for row in found] == [row.hash for row in rows]
    assert {row["ledger"] for row in found} == {"l.sqlite"}
    assert [row["steps"] for row in found if row["kind"] == "reserve"] == [5, 5, 3]
    assert found[0]["body"]["step"] == gaussian(1.0, 0.1).to_json()
    assert found[0]["moment"].endswith("Z")
    assert isinstance(found[0]["time"], float)
    connections.close_all()
    assert LIMIT.delta == found[0]["body"]["delta"]


def test_account_rows_are_what_json_holds() -> None:
    names = {field.name for field in dataclasses.fields(Account)}
    row = Account(
        ledger="l", account="a", unit="patient", relation="replace", neighbouring="n", plans=1,
        rounds=1, steps=1, epsilon=None, delta=1e-5, theorem="none", how="h",
    )  # fmt: skip
    assert set(row.to_json()) == names


def test_a_wrong_place_is_the_users_mistake_and_a_damaged_ledger_is_not(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        find(tmp_path)
    ledger = filled(tmp_path / "l.sqlite")
    ledger.log.path.unlink()
    with pytest.raises(RunError):
        check(ledger)
