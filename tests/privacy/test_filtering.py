"""The filter of an account: one order, fixed at first, and never more than (epsilon, delta)."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from support import goes_red
from support.ledger import LIMIT, request

from fedmed.privacy import accounting
from fedmed.privacy.ledger import filtering
from fedmed.privacy.ledger.filtering import (
    Charge,
    Limit,
    OverBudget,
    after,
    largest_steps,
    order_index,
)
from fedmed.privacy.mechanisms.step import ORDERS, gaussian, group_gaussian, laplace

Admit = Callable[[Charge, Limit | None, Sequence[Mapping[str, Any]], Sequence[float]], bool]


def plan(value: Charge, *, sole: bool = False) -> dict[str, Any]:
    """A request as the ledger keeps it."""
    return value.to_json() | {"sole": sole}


def refused(call: Callable[[], object]) -> bool:
    """Whether the limit has no room."""
    try:
        call()
    except OverBudget as error:
        return error.by_policy
    return False


SOME = [
    gaussian(1.0, 0.01),
    gaussian(0.6, 0.3),
    gaussian(8.0),
    group_gaussian(1.5, 0.05, 3),
    laplace(3.0, 2),
    gaussian(50.0, 0.9),
]


def check_never_exceeds(seed: int, steps_of: Callable[[int], int]) -> None:
    """Plans chosen at random, also by what is left, until nothing fits; epsilon by Rényi orders.

    ``steps_of`` says how many of the steps that were taken the account is charged for.
    """
    draw = random.Random(seed)
    limit = Limit(draw.choice([0.5, 1.0, 3.0, 8.0]), draw.choice([1e-5, 1e-6]))
    plans: list[dict[str, Any]] = []
    total: list[float] = []
    truth: list[float] = []
    for _ in range(12):
        wanted = request(step=draw.choice(SOME), steps=draw.randint(1, 60))
        try:
            sole = filtering.admit(wanted, limit, plans, total)
        except OverBudget:
            continue
        plans.append(plan(wanted, sole=sole))
        for taken in range(1, wanted.steps + 1):
            charged = after(wanted, steps_of(1), total)
            if refused(partial(filtering.check, plans[-1], limit, plans[0], charged, taken)):
                break
            total, truth = charged, after(wanted, 1, truth)
        if sole:
            spent = ((wanted.step, wanted.steps),)
            assert wanted.step is not None
            assert accounting.composed_epsilon(spent, limit.delta) <= limit.epsilon
            assert refused(partial(filtering.admit, request(steps=1), limit, plans, total))
            return
    if truth:
        assert accounting.rdp_epsilon(truth, limit.delta) <= limit.epsilon


@pytest.mark.parametrize("seed", range(12))
def test_no_sequence_of_plans_passes_the_limit(seed: int) -> None:
    check_never_exceeds(seed, lambda steps: steps)


def test_a_filter_that_charges_too_little_is_noticed() -> None:
    goes_red(check_all_seeds, lambda steps: 0)


def check_all_seeds(steps_of: Callable[[int], int]) -> None:
    for seed in range(12):
        check_never_exceeds(seed, steps_of)


def check_order_is_kept(order: Callable[[Sequence[Charge]], int]) -> None:
    first, second = request(step=gaussian(8.0)), request(step=gaussian(0.6, 0.3))
    assert order([first, second]) == order([first])
    assert order([second, first]) == order([second])
    assert order([first]) != order([second])


def test_the_order_is_that_of_the_first_plan() -> None:
    check_order_is_kept(lambda plans: order_index(plans[0], LIMIT))
    goes_red(check_order_is_kept, lambda plans: order_index(plans[-1], LIMIT))

    def best_afterwards(plans: Sequence[Charge]) -> int:
        total: list[float] = []
        for value in plans:
            total = after(value, value.steps, total)
        rooms = [accounting.allowance(order, LIMIT.epsilon, LIMIT.delta) for order in ORDERS]
        shares = [t / room if room > 0 else math.inf for t, room in zip(total, rooms, strict=True)]
        return shares.index(min(shares))

    goes_red(check_order_is_kept, best_afterwards)


def test_the_order_does_not_depend_on_how_long_the_first_plan_is() -> None:
    assert order_index(request(steps=1), LIMIT) == order_index(request(steps=500), LIMIT)


def test_room_is_measured_at_the_order_of_the_first_plan_alone() -> None:
    """A second plan that only another order would bear is refused (Feldman and Zrnic 2021)."""
    first = request(step=gaussian(8.0), steps=1)
    index = order_index(first, LIMIT)
    room = accounting.allowance(ORDERS[index], LIMIT.epsilon, LIMIT.delta)
    total = after(first, 1, [])
    most = largest_steps(request(steps=200), LIMIT, [plan(first)], total)
    assert after(request(), most, total)[index] <= room
    more = after(request(), most + 1, total)
    assert more[index] > room
    assert accounting.rdp_epsilon(more, LIMIT.delta) < LIMIT.epsilon


def check_sole(admit: Admit) -> None:
    alone = request(step=gaussian(5.0), steps=69)
    assert admit(alone, LIMIT, [], [])
    total = after(alone, 69, [])
    for later in (request(steps=1), alone):
        assert refused(partial(admit, later, LIMIT, [plan(alone, sole=True)], total))
    # Once without a limit, never again.
    assert refused(lambda: admit(alone, None, [plan(alone, sole=True)], total))
    assert refused(lambda: admit(alone, LIMIT, [plan(request())], []))  # not the first
    assert not admit(request(), LIMIT, [], [])


def test_a_plan_that_only_its_own_pld_bears_is_the_accounts_only_one() -> None:
    """z = 5, 69 steps, delta 1e-5: within 8 by PLD, above it by Rényi orders."""
    alone = request(step=gaussian(5.0), steps=69)
    assert accounting.composed_epsilon(((gaussian(5.0), 69),), 1e-5) <= 8
    assert accounting.rdp_epsilon(after(alone, 69, []), 1e-5) > 8
    check_sole(filtering.admit)

    def forgets(value: Charge, limit: Limit | None, plans: Any, total: Any) -> bool:
        return filtering.admit(value, limit, [], total)

    goes_red(check_sole, forgets)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("step", [step for step in SOME if step.kind != "group-gaussian"])
def test_the_largest_plan_fits_and_one_step_more_does_not(step: Any, opened: bool) -> None:
    wanted = request(step=step, steps=400)
    first = request(steps=3)
    plans, total = ([plan(first)], after(first, 3, [])) if opened else ([], [])
    most = largest_steps(wanted, LIMIT, plans, total)
    assert 0 <= most <= 400
    if most:
        fits = request(step=step, steps=most)
        filtering.admit(fits, LIMIT, plans, total)
    if most < 400:
        more = request(step=step, steps=most + 1)
        assert refused(lambda: filtering.admit(more, LIMIT, plans, total))


def test_nothing_is_left_where_nothing_is_guaranteed_or_all_was_taken() -> None:
    assert largest_steps(request(step=None), LIMIT, [], []) == 0
    assert (
        largest_steps(request(), LIMIT, [plan(request(), sole=True)], after(request(), 1, [])) == 0
    )
    assert largest_steps(request(), Limit(1e-9, 1e-5), [plan(request())], []) == 0


def test_a_step_without_a_guarantee_fits_no_limit() -> None:
    nothing = request(step=None)
    assert refused(lambda: filtering.admit(nothing, Limit(1e9, 0.5), [], []))
    total = after(nothing, 1, [])
    assert set(total) == {1e300}  # JSON has no infinity
    assert after(nothing, 3, total) == total
    assert refused(
        lambda: filtering.admit(request(steps=1), Limit(1e9, 0.5), [plan(nothing)], total)
    )
    assert not filtering.admit(nothing, None, [], [])


def check_tiny_limits(fits: Callable[[Limit], bool]) -> None:
    for epsilon in (1e-12, 1e-6):
        assert not fits(Limit(epsilon, 1e-9))


def test_a_limit_too_small_for_any_order_admits_nothing() -> None:
    def fits(limit: Limit) -> bool:
        return not refused(lambda: filtering.admit(request(), limit, [], []))

    check_tiny_limits(fits)
    goes_red(check_tiny_limits, lambda limit: True)


def test_a_request_survives_json_and_other_keys() -> None:
    for step in (*SOME, None):
        value = request(step=step)
        assert Charge.from_json(plan(value) | {"later": 1}) == value
    with pytest.raises((ValueError, TypeError, KeyError)):
        Charge.from_json({"account": "a"})
    with pytest.raises(ValueError, match="noise"):
        Charge.from_json(plan(request()) | {"step": gaussian(1.0).to_json() | {"noise": -1}})


def check_account(read: Callable[..., filtering.Reading]) -> None:
    one, two = request(), request(step=gaussian(8.0), steps=5)
    total = after(two, 5, after(one, 20, []))
    nothing = read([(one, 0)], [], 1e-5)
    assert (nothing.epsilon, nothing.theorem) == (0.0, "nothing spent")
    alone = read([(one, 7), (two, 0)], after(one, 7, []), 1e-5)
    assert alone.epsilon == accounting.composed_epsilon(((gaussian(1.0, 0.1), 20),), 1e-5)
    assert alone.theorem == "composition"
    both = read([(one, 20), (two, 5)], total, 1e-5)
    assert both.epsilon == accounting.odometer(total, 1e-5)
    assert both.theorem == "odometer"
    assert alone.epsilon < both.epsilon
    unbounded = read([(one, 20), (request(step=None), 1)], total, 1e-5)
    assert (unbounded.epsilon, unbounded.theorem) == (math.inf, "none")


def test_an_account_is_composed_by_pld_alone_and_read_by_an_odometer_together() -> None:
    check_account(filtering.reading)

    def last_plan_only(plans: Any, total: Any, delta: float) -> filtering.Reading:
        return filtering.reading(plans[-1:], total, delta)

    goes_red(check_account, last_plan_only)
