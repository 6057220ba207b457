"""What a hospital's policy says of a plan, from the policy and the ledger alone."""

from dataclasses import dataclass, replace
from typing import Any

from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.privacy import accounting
from fedmed.privacy.ledger.filtering import (
    Charge,
    Limit,
    OverBudget,
    admit,
    after,
    largest_steps,
    relation_of,
)
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.plans import ImagePlan, Plan, Released, SummedPlan, part
from fedmed.privacy.plans.evaluation import EvaluationPlan, evaluation_request, ledger_run


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A policy's answer; where it is no, the reason and the largest plan that still fits.

    ``rounds`` at the plan's noise and ``epsilon`` at its length, 0 where there is no room.
    ``allowed`` leaves the budget aside, which each round's reservation checks again.
    """

    accepts: bool
    allowed: bool = True
    reason: str = ""
    rounds: int = 0
    epsilon: float = 0.0


def request_for(
    settings: Settings, owner: str, plan: Plan, policy: Policy, cohort: str | None = None
) -> Charge:
    """The plan as its owner's account sees it; ``cohort`` is the fingerprint of the data.

    ``owner`` is the name of the ledger's file, which is the site's: a name that comes with a
    request would open a fresh account.
    """
    own = "pixels" if isinstance(plan, ImagePlan) else plan.unit
    account, unit = policy.account_for(owner, own)
    return Charge(
        account=account,
        unit=unit,
        arm=settings.privacy.arm,
        relation=relation_of(unit, plan.payer),
        step=plan.cost(unit),
        steps=plan.steps,
        delta=plan.delta,
        cohort=cohort,
    )


def decide(
    settings: Settings,
    hospital: str,
    plan: Plan,
    policy: Policy,
    ledger: Ledger,
    patients: int,
    run: str = "",
) -> Decision:
    """Whether ``policy`` lets ``hospital`` run ``plan``; ``patients`` is the size of its cohort.

    A ``run`` that the ledger opened before goes on, each of its rounds within the limit.
    """
    arm = settings.privacy.arm
    if not policy.allows(arm):
        return _no(f"the policy does not allow the arm {arm}")
    if settings.privacy.reproducible_noise and not policy.allow_reproducible_noise:
        return _no("the policy does not allow reproducible noise")
    summed = part(plan, SummedPlan)
    if summed is not None and 0 < policy.honest_hospitals < summed.honest:
        return _no(
            f"the plan counts on {summed.honest} honest hospitals, and the policy on "
            f"{policy.honest_hospitals}"
        )
    if patients < policy.minimum_cohort:
        return _no("the cohort is smaller than the policy's minimum")
    if policy.limit is None or (run and ledger.opened(run)):
        return Decision(accepts=True)
    for item in plan.parts:
        if item.payer != "hospital" and not isinstance(item, Released):
            continue
        request = request_for(settings, ledger.path.stem, item, policy)
        if request.step is None:
            # Noise on images under a training that the account does count only adds to it; an arm
            # named in so many words is wanted without a guarantee for the account's unit.
            if isinstance(item, ImagePlan) and (len(plan.parts) > 1 or arm in policy.arms):
                continue
            return _no(f"{arm} gives one {request.unit} no guarantee that the limit could count")
        opened, total = ledger.state(request.account)
        if isinstance(item, Released) and _released_before(item, opened):
            continue  # only what is new will cost, or features that come with the model
        try:
            admit(request, policy.limit, opened, total)
        except OverBudget as error:
            return _no_room(str(error), request, item, policy.limit, opened, total)
    return Decision(accepts=True)


def against_evaluation(
    settings: Settings,
    training: Plan,
    plan: EvaluationPlan | None,
    policy: Policy,
    ledger: Ledger,
    run: str,
    *,
    fixed_split: bool,
) -> str:
    """Why ``policy`` does not let the hospital send histograms at the end of ``run``; else empty.

    Where training is charged to the same account, all its steps are counted as spent already.
    """
    if policy.evaluation == "refuse":
        return "the policy does not allow histograms of evaluation patients"
    if plan is None or policy.limit is None or ledger.opened(ledger_run(run)):
        return ""
    owner = ledger.path.stem
    request = evaluation_request(settings, owner, plan, policy, fixed_split=fixed_split)
    if request.step is None:
        return f"histograms give one {request.unit} no guarantee that the limit could count"
    opened, total = ledger.state(request.account)
    try:
        for item in training.parts:
            before = request_for(settings, owner, item, policy)
            released = isinstance(item, Released)
            if before.account != request.account or not (released or item.payer == "hospital"):
                continue
            if released and _released_before(item, opened):
                continue
            if not ledger.opened(run):
                sole = admit(before, policy.limit, opened, total)
                opened = [*opened, {**before.to_json(), "sole": sole}]
            total = after(before, before.steps - ledger.steps(run), total)
        admit(request, policy.limit, opened, total)
    except OverBudget as error:
        return f"histograms of evaluation patients after this training: {error}"
    return ""


def _released_before(plan: Plan, opened: list[dict[str, Any]]) -> bool:
    """Whether the account paid for a release by the plan's mechanism."""
    return isinstance(plan, Released) and any(p["arm"] == plan.mechanism.key for p in opened)


def _no(reason: str) -> Decision:
    return Decision(accepts=False, allowed=False, reason=reason)


def _no_room(
    reason: str,
    request: Charge,
    plan: Plan,
    limit: Limit,
    opened: list[dict[str, Any]],
    total: list[float],
) -> Decision:
    steps = largest_steps(request, limit, opened, total)
    rounds = steps // plan.steps_per_round if plan.steps_per_round else 0
    epsilon = _largest_epsilon(request, limit, opened, total)
    text = f"{reason}; what still fits: "
    text += f"{rounds} round(s) at this noise, or epsilon {epsilon:.3g}" if epsilon else "nothing"
    return Decision(accepts=False, reason=text, rounds=rounds, epsilon=epsilon)


def _largest_epsilon(
    request: Charge, limit: Limit, opened: list[dict[str, Any]], total: list[float]
) -> float:
    """The largest epsilon at the plan's own length and sampling that the account has room for."""
    step = request.step
    if (
        step is None
        or step.kind not in ("gaussian", "replace-gaussian")
        or any(plan["sole"] for plan in opened)
    ):
        return 0.0
    if not opened:
        return limit.epsilon
    low, high = 0.0, limit.epsilon
    for _ in range(8):
        middle = (low + high) / 2
        try:
            noise = accounting.noise_multiplier(
                middle, limit.delta, step.rate, request.steps, step.relation
            )
            admit(replace(request, step=replace(step, noise=noise)), limit, opened, total)
        except (OverBudget, UserError):
            high = middle
        else:
            low = middle
    return low
