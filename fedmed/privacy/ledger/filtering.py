"""What an account may still spend: Rényi divergences of one order, added up (a privacy filter).

Nothing here reads a file: a ledger gives the totals, and writes down what is admitted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import ORDERS, Mechanism
from fedmed.privacy.statement.facts import Relation

Theorem = Literal["nothing spent", "composition", "odometer", "none"]


class OverBudget(Exception):
    """A plan or a round that has no room; nothing was written.

    ``by_policy``: in the account's limit; else in the run's own plan.
    """

    def __init__(self, reason: str, *, by_policy: bool = True) -> None:
        super().__init__(reason)
        self.by_policy = by_policy


@dataclass(frozen=True)
class Limit:
    """What an account may spend in all: (epsilon, delta)."""

    epsilon: float
    delta: float

    def to_json(self) -> dict[str, float]:
        """A dict that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an account has spent: ``epsilon`` at a delta, infinite where nothing bounds it.

    ``theorem``: ``composition`` of its one plan, taken whole, which holds whenever it was stopped;
    ``odometer`` over plans that may depend on each other (:func:`accounting.odometer`).
    """

    epsilon: float
    theorem: Theorem
    how: str


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A run's plan as an account sees it: ``steps`` times ``step``, in the account's unit.

    ``step`` is None where the plan gives that unit no guarantee; such a charge fits no limit.
    ``cohort`` is the fingerprint of the data, kept as evidence: it opens no account.
    """

    account: str
    unit: str
    arm: str
    relation: Relation
    step: Mechanism | None
    steps: int
    delta: float
    cohort: str | None = None

    def __post_init__(self) -> None:
        if self.relation not in get_args(Relation):
            raise ValueError(f"relation {self.relation!r} is not known")

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Charge":
        """The request of :meth:`to_json`; other keys are ignored."""
        known = {name: value[name] for name in cls.__dataclass_fields__}
        if known["step"] is not None:
            known["step"] = Mechanism.from_json(known["step"])
        return cls(**known)

    def divergence(self) -> tuple[float, ...]:
        """Of one step, at each of ``ORDERS``; infinite where nothing is guaranteed."""
        return (math.inf,) * len(ORDERS) if self.step is None else self.step.rdp()


def relation_of(unit: str, placed: str = "hospital") -> Relation:
    """How neighbours differ on an account of ``unit``, for noise at the hospital or the server.

    Patients are added or removed; images (of which one more may take another's place under a cap),
    pixels and a hospital's data are replaced; at the server a hospital's update is zeroed out.
    """
    if unit == "hospital":
        return "zero-out" if placed == "server" else "replace"
    return "add-or-remove" if unit == "patient" else "replace"


def after(request: Charge, steps: int, total: Sequence[float]) -> list[float]:
    """The account's total after ``steps`` more of ``request``."""
    before = total or [0.0] * len(ORDERS)
    # As JSON keeps them: infinity has no place in it.
    return [min(t + steps * d, 1e300) for t, d in zip(before, request.divergence(), strict=True)]


def order_index(first: Charge, limit: Limit) -> int:
    """Index of the order that the account's filter uses, fixed by its first plan.

    The order at which that plan takes the smallest share of what the limit allows: chosen before
    anything was released, as the filter asks.
    """
    shares = []
    for order, cost in zip(ORDERS, first.divergence(), strict=True):
        room = accounting.allowance(order, limit.epsilon, limit.delta)
        shares.append(cost / room if room > 0 else math.inf)
    return min(range(len(ORDERS)), key=lambda i: shares[i])


def first_order(request: Charge, limit: Limit | None) -> int:
    """The order of an account, chosen when its first plan is opened and written down with it."""
    if limit is not None:
        return int(ORDERS[order_index(request, limit)])
    delta = request.delta or 1e-5
    planned = [d * request.steps for d in request.divergence()]
    best = min(
        range(len(ORDERS)), key=lambda i: accounting.epsilon_at(ORDERS[i], planned[i], delta)
    )
    return int(ORDERS[best])


def _index(first: Mapping[str, Any], limit: Limit) -> int:
    """Index of the account's order: as written down, else as its first plan alone fixes it."""
    if "order" in first:
        return ORDERS.index(first["order"])
    return order_index(Charge.from_json(first), limit)


def admit(
    request: Charge,
    limit: Limit | None,
    opened: Sequence[Mapping[str, Any]],
    total: Sequence[float],
) -> bool:
    """Whether a plan that may be opened is its account's only one ever (``sole``).

    Raises :class:`OverBudget` where the limit has no room for it.
    """
    if any(plan["sole"] for plan in opened):
        raise OverBudget("the account's one plan took all of its limit")
    if limit is None:
        return False
    first = opened[0] if opened else request.to_json()
    if _fits(first, limit, after(request, request.steps, total)):
        return False
    if not opened and _own_fits(request, request.steps, limit):
        return True
    raise OverBudget("the plan would pass the account's limit")


def check(
    plan: Mapping[str, Any],
    limit: Limit | None,
    first: Mapping[str, Any],
    total: Sequence[float],
    taken: int,
) -> None:
    """Let a round of an open plan pass, or raise :class:`OverBudget`.

    ``total`` of the account and ``taken`` steps of the plan are those after it.
    """
    if limit is None:
        return
    if plan["sole"]:
        # The whole plan was admitted; a limit that was lowered since stops it on the way.
        request = Charge.from_json(plan)
        fits = _own_fits(request, request.steps, limit) or _own_fits(request, taken, limit)
    else:
        fits = _fits(first, limit, total)
    if not fits:
        raise OverBudget("the round would pass the account's limit")


def _fits(first: Mapping[str, Any], limit: Limit, total: Sequence[float]) -> bool:
    index = _index(first, limit)
    return total[index] <= accounting.allowance(ORDERS[index], limit.epsilon, limit.delta)


def _own_fits(request: Charge, steps: int, limit: Limit) -> bool:
    """Whether the steps of one plan, alone on its account, stay within the limit by their PLD."""
    if request.step is None:
        return False
    spent = ((request.step, steps),)
    return accounting.composed_epsilon(spent, limit.delta) <= limit.epsilon


def largest_steps(
    request: Charge,
    limit: Limit,
    opened: Sequence[Mapping[str, Any]],
    total: Sequence[float],
) -> int:
    """Most steps of ``request`` that the account still has room for; 0 where it has none."""
    if request.step is None or any(plan["sole"] for plan in opened):
        return 0
    from fedmed.privacy.accounting.solve import largest

    first = opened[0] if opened else request.to_json()
    most = request.steps
    steps = largest(lambda n: _fits(first, limit, after(request, n, total)), most)
    if opened:
        return steps
    return max(steps, largest(lambda n: _own_fits(request, n, limit), most))


def reading(plans: Sequence[tuple[Charge, int]], total: Sequence[float], delta: float) -> Reading:
    """What an account has spent at ``delta``, from its plans, the steps taken and its total.

    One plan was fixed before it began: whoever stops it early, its whole length bounds it. With
    several no number is a guarantee of (epsilon, delta) at a moment that results may choose; an
    odometer's reading bounds the loss at every moment instead.
    """
    taken = [(request, steps) for request, steps in plans if steps]
    if not taken:
        return Reading(epsilon=0.0, theorem="nothing spent", how="nothing spent")
    if any(request.step is None for request, _ in taken):
        how = "a plan without a guarantee for this unit"
        return Reading(epsilon=math.inf, theorem="none", how=how)
    if len(taken) == 1:
        request, _ = taken[0]
        assert request.step is not None  # noqa: S101 -- excluded above
        epsilon = accounting.composed_epsilon(((request.step, request.steps),), delta)
        return Reading(epsilon=epsilon, theorem="composition", how="PLD of its one plan, whole")
    spent = [(request.step, steps) for request, steps in taken if request.step is not None]
    pure = sum(step.pure_epsilon() * steps for step, steps in spent)
    epsilon = min(pure, accounting.odometer(total, delta))
    return Reading(epsilon=epsilon, theorem="odometer", how="odometer over its plans")


def kept(first: Mapping[str, Any], total: Sequence[float]) -> Limit | None:
    """The limit that an account's first plan was opened under, where its filter still holds it.

    None without one, and where a limit that was raised later let more through.
    """
    if first["limit"] is None:
        return None
    limit = Limit(**first["limit"])
    if first["sole"]:
        return limit if _own_fits(Charge.from_json(first), int(first["steps"]), limit) else None
    return limit if not total or _fits(first, limit, total) else None
