"""The figures of a run: every hospital's own at the run's one delta, and the worst of them.

Hospitals may have an epsilon, a delta, a cap or a mechanism of their own. A figure of one never
stands beside a delta of another: each is computed again at the one delta that is stated.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmed.privacy import accounting
from fedmed.privacy.plans import (
    FeaturePlan,
    GradientPlan,
    ImagePlan,
    Plan,
    Released,
    StackedPlan,
    part,
)
from fedmed.privacy.statement.facts import Facts


class Strict(BaseModel):
    """A record without unknown keys or numbers that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Spend:
    """What one member really did: private steps (or rounds, or releases of its images) taken.

    ``arm`` is the member's own where it chose another than it was asked for.
    """

    plan: Plan
    taken: int
    arm: str = ""


class OwnGuarantee(Strict):
    """What one hospital of several with different protections guarantees, in words."""

    arm: str
    unit: Literal["none", "image", "patient", "hospital"]
    neighbouring: str
    trust: str
    mechanism: str
    released: list[str]


class Figures(Strict):
    """What a guarantee is worth at one delta; None where nothing is claimed, or nothing bounded."""

    epsilon: float | None = Field(ge=0, description="of the steps taken")
    epsilon_planned: float | None = Field(
        ge=0,
        description="of the whole plan: holds too where what was released decided when to stop",
    )
    epsilon_rdp: float | None = Field(ge=0, description="the same by Rényi accounting, looser")
    epsilon_replace_one: float | None = Field(ge=0)
    epsilon_patient: float | None = Field(ge=0, description="per patient, under a smaller unit")
    epsilon_at_delta: float | None = Field(ge=0, description="of a release once, at privacy.delta")
    epsilon_with_noised_images: float | None = Field(
        ge=0, description="where noised images and model are both seen (stacked mechanisms)"
    )
    epsilon_by_pixels: dict[str, float] = Field(description="pure epsilon: pixel, neighbourhood")
    mu: float | None = Field(ge=0, description="mu-Gaussian-DP at false-positive rates over delta")
    advantage: float | None = Field(ge=0, le=1)
    tpr_at_fpr_001: float | None = Field(ge=0, le=1)


class MemberRecord(Figures):
    """One member's own figures at the run's ``delta``, and its epsilon at its own.

    None where the noise comes from a seed: ``spent`` stays for checking.
    """

    hospital: str
    facts: Facts
    delta: float = Field(ge=0, lt=1, description="the run's, at which every figure is")
    own_delta: float = Field(ge=0, lt=1, description="that this hospital's plan was made for")
    epsilon_at_own_delta: float | None = Field(ge=0)
    images_per_patient: int | None = Field(ge=1, description="the cap; null where there is none")
    noise_multiplier: float | None = Field(ge=0)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0)
    steps_planned: int = Field(ge=0)
    size: int | None = Field(ge=0, description="number of units that rate and delta rest on")
    size_declared: bool | None
    spent: list[dict[str, Any]] = Field(description="mechanisms and counts, to compose further")
    guarantee: OwnGuarantee | None = Field(
        default=None, description="where hospitals differ: this one's own; null where all are alike"
    )


_FIGURES = tuple(name for name in Figures.model_fields if name != "epsilon_by_pixels")


def stated_delta(asked: float, plans: Iterable[Plan]) -> float:
    """The one delta of a run's figures: 0 where all are pure, else ``asked``.

    Where that is not below one over some hospital's units, so that it would mean nothing there, it
    is the smallest of the hospitals' own.
    """
    approximate = [plan for plan in plans if plan.delta > 0]
    if not approximate:
        return 0.0
    gradients = [part(plan, GradientPlan) for plan in approximate]
    if all(asked < 1 / gradient.units for gradient in gradients if gradient is not None):
        return asked
    return min(plan.delta for plan in approximate)


def at(plan: Plan, delta: float) -> float | None:
    """The delta to ask a plan about: None for a pure one, which has its own."""
    return delta if plan.delta > 0 else None


def differ(plans: Iterable[Plan], scheme: str) -> bool:
    """Whether plans protect different things, so that no one figure holds for all."""
    return len({plan.facts(scheme) for plan in plans}) > 1


def member(name: str, spend: Spend, *, scheme: str, stated: float, asked: float) -> MemberRecord:
    """One member's figures at the ``stated`` delta; of images also at the one ``asked`` for."""
    plan, taken = spend.plan, spend.taken
    gradient, cap = part(plan, GradientPlan) or part(plan, FeaturePlan), _cap(plan)
    spent, delta = plan.spent(taken), at(plan, stated)
    known: dict[str, Any] = {"mu": None, "advantage": None, "tpr_at_fpr_001": None}
    rdp = None
    if plan.step is not None and delta is not None:
        rdp = accounting.rdp_epsilon(accounting.rdp(spent), delta) if taken else 0.0
        risk = accounting.risk(spent, delta)
        # Infinite where nothing but delta holds an attacker off.
        known["mu"] = risk.mu if math.isfinite(risk.mu) else None
        known["advantage"], known["tpr_at_fpr_001"] = risk.advantage, risk.tpr_at_fpr_001
    return MemberRecord(
        hospital=name,
        facts=plan.facts(scheme),
        epsilon=plan.epsilon(taken, delta),
        epsilon_planned=plan.epsilon(plan.steps, delta),
        delta=delta or 0.0,
        own_delta=plan.delta,
        epsilon_at_own_delta=plan.epsilon(taken),
        epsilon_rdp=rdp,
        epsilon_replace_one=plan.replace_one(taken, delta),
        epsilon_patient=plan.per_patient(taken, delta),
        epsilon_at_delta=plan.at_delta(asked, taken) if isinstance(plan, Released) else None,
        epsilon_with_noised_images=plan.composed(taken, delta)
        if isinstance(plan, StackedPlan)
        else None,
        epsilon_by_pixels=_by_pixels(plan, taken),
        **known,
        images_per_patient=cap or None,
        noise_multiplier=plan.step.noise
        if plan.step and plan.step.kind not in ("laplace", "pure")
        else None,
        sampling_rate=plan.step.rate if plan.step else 1.0,
        steps=taken,
        steps_planned=plan.steps,
        size=gradient.units if gradient else None,
        size_declared=gradient.declared if gradient else None,
        spent=[{"step": step.to_json(), "count": count} for step, count in spent],
    )


def without_claims(record: MemberRecord) -> MemberRecord:
    """The record where the noise comes from a seed: nobody may read a claim from it."""
    hidden: dict[str, Any] = {
        **dict.fromkeys(_FIGURES),
        "epsilon_at_own_delta": None,
        "epsilon_by_pixels": {},
    }
    return record.model_copy(update=hidden)


def worst(members: Sequence[Figures]) -> Figures:
    """Every figure at the member where it is largest; None as soon as one member has none.

    Raises ``ValueError`` without members.
    """
    largest: dict[str, Any] = {}
    for name in _FIGURES:
        values = [getattr(record, name) for record in members]
        largest[name] = None if None in values else max(values)
    pixels = [record.epsilon_by_pixels for record in members]
    shared = set.intersection(*map(set, pixels))
    largest["epsilon_by_pixels"] = {
        key: max(own[key] for own in pixels) for key in pixels[0] if key in shared
    }
    return Figures(**largest)


def _by_pixels(plan: Plan, taken: int) -> dict[str, float]:
    """Pure epsilons of parts of an image over all its releases."""
    image = part(plan, ImagePlan)
    if image is None:
        return {}
    releases = 1 if isinstance(plan, StackedPlan) else taken
    claims = image.mechanism.claims
    return {key: value * releases for key, value in claims.items() if key != "image"}


def _cap(plan: Plan) -> int:
    """Images of one patient that a hospital uses at most; 0 where there is no cap."""
    capped = part(plan, GradientPlan) or part(plan, ImagePlan) or part(plan, FeaturePlan)
    return capped.images_per_patient if capped else 0
