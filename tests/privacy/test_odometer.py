"""What an account has spent when nobody fixed a limit: a reading that holds at every moment.

Plans, and the moment of reading, may depend on what was released: composition is no theorem there.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support import goes_red, refuses
from support.ledger import LIMIT, RUN, opened, request

from fedmed.base.errors import RunError
from fedmed.privacy import accounting
from fedmed.privacy.ledger import connections, filtering, ledger
from fedmed.privacy.ledger.filtering import Limit
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.report import accounts
from fedmed.privacy.mechanisms.step import ORDERS, gaussian

PATHS, STEPS = 4000, 100
Reading = Callable[[NDArray[np.float64], float], NDArray[np.float64]]


def largest_share_above(reading: Reading, delta: float) -> float:
    """How often an attacker who chooses each step by the last ever sees more loss than the reading.

    Gaussian steps: with noise z the loss of one is N(1/(2z^2), 1/z^2). He asks for a louder one
    whenever his luck so far is above half of the divergence at order 2.
    """
    draw = np.random.default_rng(7)
    quiet, loud = (np.array(gaussian(noise).rdp()) for noise in (8.0, 2.0))
    loss, above = np.zeros(PATHS), np.zeros(PATHS, dtype=bool)
    total = np.zeros((PATHS, len(ORDERS)))
    for _ in range(STEPS):
        lucky = loss > total[:, 0] / 2
        noise = np.where(lucky, 2.0, 8.0)
        loss += draw.normal(1 / (2 * noise**2), 1 / noise)
        total += np.where(lucky[:, None], loud, quiet)
        above |= loss > reading(total, delta)
    return float(above.mean())


def odometers(total: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    return np.array([accounting.odometer(row, delta) for row in total])


def at_the_best_order(total: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    """(epsilon, delta) of a sum of divergences, as if steps and moment had been fixed before."""
    found = [
        column + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order, column in zip(ORDERS, total.T, strict=True)
    ]
    return np.maximum(0.0, np.min(found, axis=0))


def check_holds_at_every_moment(reading: Reading) -> None:
    """Above delta five standard errors once in 3e6, were the reading exactly as good as it says."""
    delta = 0.05
    error = math.sqrt(delta * (1 - delta) / PATHS)
    assert largest_share_above(reading, delta) <= delta + 5 * error


def fast(total: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    """:func:`accounting.odometer` of many rows at once."""
    chosen = [ORDERS.index(order) for order in accounting.ODOMETER_ORDERS]
    extra = [math.log(len(chosen) / delta) / (ORDERS[i] - 1) for i in chosen]
    return np.asarray(np.min(total[:, chosen] + np.array(extra), axis=1))


def test_no_adaptive_attacker_is_above_an_odometer() -> None:
    some = np.random.default_rng(0).uniform(0, 3, (20, len(ORDERS))).cumsum(axis=1)
    np.testing.assert_allclose(fast(some, 0.05), odometers(some, 0.05), rtol=1e-12)
    check_holds_at_every_moment(fast)
    # What was printed before: right for steps that were fixed before, exceeded by every second one.
    goes_red(check_holds_at_every_moment, at_the_best_order)


def test_an_odometer_is_never_below_composition() -> None:
    for spent in (((gaussian(1.0, 0.1), 40),), ((gaussian(4.0), 3), (gaussian(1.0, 0.2), 9))):
        found = accounting.odometer(accounting.rdp(spent), 1e-5)
        assert found > accounting.composed_epsilon(spent, 1e-5)
        assert found > accounting.rdp_epsilon(accounting.rdp(spent), 1e-5)


def check_one_plan(path: Path, taken: int) -> None:
    """Its whole length: whoever stops it by what he saw only sees less of it."""
    book = opened(path)
    book.reserve(RUN, 1, "m", taken)
    (row,) = accounts(book, 1e-5)
    assert row.epsilon == accounting.composed_epsilon(((gaussian(1.0, 0.1), 20),), 1e-5)
    assert (row.theorem, row.steps) == ("composition", taken)
    assert (row.limit_epsilon, row.limit_delta) == (None, None)


def test_one_plan_is_bounded_by_its_whole_length(tmp_path: Path) -> None:
    check_one_plan(tmp_path / "a.sqlite", 20)
    check_one_plan(tmp_path / "b.sqlite", 3)


def several(path: Path, first: Limit | None, later: Limit | None) -> Ledger:
    book = opened(path, limit=first)
    book.open_plan("run-2", request(step=gaussian(2.5), steps=3), later)
    for run, steps in ((RUN, 20), ("run-2", 3)):
        book.reserve(run, 1, "m", steps, limit=later)
    return book


def test_several_plans_without_a_limit_are_an_odometers_reading(tmp_path: Path) -> None:
    (row,) = accounts(several(tmp_path / "a.sqlite", None, None), 1e-5)
    total = filtering.after(request(step=gaussian(2.5)), 3, filtering.after(request(), 20, []))
    assert row.epsilon == pytest.approx(accounting.odometer(total, 1e-5))
    assert row.theorem == "odometer"
    assert row.limit_epsilon is None


def test_a_limit_that_was_set_before_is_a_filters_and_holds(tmp_path: Path) -> None:
    (row,) = accounts(several(tmp_path / "a.sqlite", LIMIT, LIMIT), 1e-6)
    assert (row.limit_epsilon, row.limit_delta) == (LIMIT.epsilon, LIMIT.delta)
    assert (row.theorem, row.delta) == ("odometer", 1e-6)
    # One that came with the second plan may have been chosen by what the first released.
    (late,) = accounts(several(tmp_path / "b.sqlite", None, LIMIT), 1e-6)
    assert late.limit_epsilon is None


def test_a_limit_that_was_raised_after_results_is_no_theorem(tmp_path: Path) -> None:
    small = Limit(4.5, 1e-5)
    (row,) = accounts(several(tmp_path / "a.sqlite", small, LIMIT), 1e-5)
    order = filtering.first_order(request(), small)
    total = filtering.after(request(step=gaussian(2.5)), 3, filtering.after(request(), 20, []))
    room = accounting.allowance(order, small.epsilon, small.delta)
    assert total[ORDERS.index(order)] > room, "the second plan went past the first limit"
    assert row.limit_epsilon is None


def test_a_ledger_of_words_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "VERSION", 1)
        book = opened(tmp_path / "l.sqlite")
        connections.close_all()
    for use in (book.rows, lambda: book.open_plan("run-2", request()), book.verify):
        refuses(use, "version 1", "keep it", "maximum-epsilon", error=RunError)
