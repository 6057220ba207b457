"""The plans of all members, from the rows of the cohort and the settings; no image is read."""

import functools
import math
from collections.abc import Iterable
from typing import Final, Literal

from fedmed import models
from fedmed.base.errors import UserError
from fedmed.base.files import safe_name
from fedmed.base.opening import expanded
from fedmed.config import Model, Settings, nearest
from fedmed.data.network import POOLED, load_network, member_names, training_shard
from fedmed.data.shard import Shard
from fedmed.privacy.accounting import solve
from fedmed.privacy.ledger.policy import Policy, load_policy
from fedmed.privacy.plans import GradientPlan, part
from fedmed.privacy.plans.evaluation import check_delta, evaluation_plan
from fedmed.privacy.plans.gradient import relation_of
from fedmed.privacy.plans.making import Plan, declared_size, make_plan
from fedmed.privacy.statement.figures import at, differ, stated_delta

_POINTS: Final = 50  # rounds of a run whose epsilon is composed


def member_shard(settings: Settings, member: str) -> Shard:
    """The shard that a member trains on, cut to ``privacy.images-per-patient``."""
    return training_shard(settings.data, member, settings.privacy.images_per_patient)


def units_of(settings: Settings, member: str) -> int:
    """Number of protected units at a member: patients or images, as ``privacy.unit`` says."""
    table = load_network(settings.data).training(member, settings.privacy.images_per_patient).table
    return int(table["patient_id"].nunique()) if settings.privacy.unit == "patient" else len(table)


def images_of(settings: Settings, member: str) -> int:
    """Number of training images at a member, cut to ``privacy.images-per-patient``."""
    return len(load_network(settings.data).training(member, settings.privacy.images_per_patient))


def patients_of(settings: Settings, member: str) -> int:
    """Number of patients at a member."""
    return int(load_network(settings.data).training(member).table["patient_id"].nunique())


def make_member_plan(settings: Settings, member: str, policy: Policy | None = None) -> Plan:
    """One member's plan; raises :class:`UserError` where none can be made.

    Where the policy declares a public size, the plan rests on it and on the settings, and no row of
    the data is read: whether there is a plan tells nothing of them.
    """
    if policy is None:
        policy = load_policy(settings.run.policies, member)
    units = policy.public_size
    if not units:
        if settings.data.site_names:
            raise UserError(
                f"{member} declares no public size, and what a deployed hospital sends may not "
                "rest on its exact number; set public-size in its policy"
            )
        check_patients_known(settings)
        units = units_of(settings, member)
    plan = make_plan(settings, units, member, policy.public_size or None)
    check_signal(settings, plan, member)
    return plan


def check_patients_known(settings: Settings) -> None:
    """Raise :class:`UserError` where one patient is protected and some image has none."""
    network, privacy = load_network(settings.data), settings.privacy
    counted = settings.arm.samples or settings.arm.plan == "features"
    if network.unknown_patients and counted and privacy.unit == "patient":
        raise UserError(
            f"privacy.unit = 'patient': {network.unknown_patients} images of {network.cohort.name} "
            "have no patient, so none can be protected; supply patient_id (data.index), set "
            "data.unknown-patients = 'leave-out', or privacy.unit = 'image'"
        )


def make_plans(settings: Settings) -> dict[str, Plan]:
    """Every member's plan; raises :class:`UserError` where one cannot be made."""
    members = member_names(settings)
    _check_policies(settings, members)
    _check_sizes(settings, members)
    _check_evaluation(settings, members)
    check_patients_known(settings)
    plans = {member: make_member_plan(settings, member) for member in members}
    for member, plan in plans.items():
        if part(plan, GradientPlan):
            _check_exact(settings, plan.delta, member)
    return plans


def _check_exact(settings: Settings, delta: float, member: str) -> None:
    """The true number of units must keep delta small too, whatever a policy declares."""
    units = units_of(settings, member)
    if units and delta >= 1 / units:
        raise UserError(
            f"privacy.delta = {delta:g} is not below 1/{units} ({member} has {units} "
            f"{settings.privacy.unit}s, whatever it declares), so the guarantee would mean "
            f"nothing; use {10 ** (math.floor(math.log10(1 / units)) - 1):g} or less"
        )


def _check_evaluation(settings: Settings, members: list[str]) -> None:
    """Histograms of hospitals need a delta below one over each one's evaluation patients."""
    plan = None if settings.evaluation.where == "server" else evaluation_plan(settings)
    if plan is not None:
        for member in members:
            table = load_network(settings.data).evaluation(member).table
            check_delta(plan, int(table["patient_id"].nunique()), member)


def public_sizes(settings: Settings) -> dict[str, int]:
    """Each member's weight in ``train.weighting = "size"``: declared, or its exact images."""
    return {
        member: declared_size(settings, member) or len(member_shard(settings, member))
        for member in member_names(settings)
    }


def epsilon_after(settings: Settings, plans: Iterable[Plan], round_number: int) -> float | None:
    """Epsilon that the plans' steps have spent after a round: the worst of ``plans`` at one delta.

    The delta is the statement's. Noised images are released before round 1, so that round 0 has all
    of theirs. None where nothing is claimed or hospitals protect different things, and in long runs
    for all but about 50 rounds and the last, as each value is composed anew. A round
    that was interrupted and run again cost more: the ledgers, and so the statement, count that.
    """
    rounds = settings.train.rounds
    if settings.privacy.reproducible_noise:
        return None  # nothing is claimed against who knows the seed
    if round_number % -(-rounds // _POINTS) and round_number != rounds:
        return None
    every = list(plans)
    if differ(every, settings.train.scheme):
        return None
    delta = stated_delta(settings.privacy.delta, every)
    epsilons = [plan.epsilon(_steps(plan, round_number), at(plan, delta)) for plan in every]
    return max((epsilon for epsilon in epsilons if epsilon is not None), default=None)


def _steps(plan: Plan, rounds: int) -> int:
    return min(plan.steps, rounds * plan.steps_per_round) if plan.steps_per_round else plan.steps


@functools.lru_cache(maxsize=8)
def trained_parameters(
    model: Model, image_size: int, dimensions: Literal[2, 3] = 2, outputs: int = 1
) -> int:
    """How many numbers training changes."""
    fresh = models.without_weights(model, image_size)
    built = models.build(fresh, image_size, seed=0, dimensions=dimensions, outputs=outputs)
    return sum(p.numel() for p in models.trainable(built).values())


def check_signal(settings: Settings, plan: Plan, member: str) -> None:
    """Raise :class:`UserError` where a step's noise is above ``maximum-noise-to-signal``."""
    limit = settings.privacy.maximum_noise_to_signal
    if not limit or plan.steps_per_round == 0:
        return
    data = settings.data
    parameters = trained_parameters(settings.model, data.image_size, data.dimensions, data.outputs)
    ratio = plan.noise_to_signal(parameters) or 0.0
    if ratio <= limit:
        return
    choices: list[str] = []
    gradient = part(plan, GradientPlan)
    if settings.privacy.noise_multiplier:
        lower = plan.step.noise * limit / ratio if plan.step else 0.0
        choices = [f"lower privacy.noise-multiplier to {math.floor(lower * 1000) / 1000:g}"]
    elif gradient is not None:
        question = solve.Question(
            units=gradient.units,
            batch=gradient.expected_batch,
            epochs=settings.train.local_epochs,
            rounds=gradient.rounds,
            delta=gradient.delta,
            relation=relation_of(gradient.unit),
        )
        choices = solve.nearest_for_signal(question, settings.privacy.epsilon, parameters, limit)
    raise UserError(
        f"{member}: the noise of a step is {ratio:.3g} times its signal, above "
        f"privacy.maximum-noise-to-signal = {limit:g}; "
        + ("; or ".join(choices) if choices else "raise privacy.epsilon or that limit")
    )


def _check_sizes(settings: Settings, members: list[str]) -> None:
    """A size that is declared for nobody is a misspelt one."""
    known = {*members, *load_network(settings.data).names, POOLED, ""}
    for item in settings.privacy.public_size.split(","):
        name = item.rpartition("=")[0].strip()
        if name not in known:
            raise UserError(
                f"privacy.public-size names '{name}', which is no hospital"
                f"{nearest(name, known)}; use {', '.join(members)}"
            )


def _check_policies(settings: Settings, members: list[str]) -> None:
    """A policy that belongs to nobody is a misspelt one."""
    if not settings.run.policies:
        return
    names = load_network(settings.data).names
    known = {safe_name(name) for name in (*names, POOLED)}
    folder = expanded(settings.run.policies)
    if members == [POOLED] and not (folder / f"{POOLED}.toml").exists():
        asked = [n for n in names if (folder / f"{safe_name(n)}.toml").exists()]
        if asked:
            raise UserError(
                f"train.scheme = 'pooled' takes the data of {asked[0]} past its policy; leave the "
                f"pooled arms out, or write {folder / POOLED}.toml for who holds the pooled data"
            )
    for path in sorted(expanded(settings.run.policies).glob("*.toml")):
        if path.stem not in known:
            raise UserError(
                f"{path} belongs to no hospital; call it NAME.toml after one of "
                f"{', '.join(members)}"
            )
