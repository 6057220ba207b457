"""What a run guarantees, to whom, and what it does not: the content of ``privacy.json``.

Its parts follow NIST SP 800-226 and Ponomareva et al. 2023 ("How to DP-fy ML"): who is trusted,
mechanism and releases, unit and neighbours, (epsilon, delta) and what they mean to an attacker,
accountant, sampling and steps, what is not covered, public data, and the source of randomness.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmed.config import Settings
from fedmed.models.origin import Weights, describe, weights_of
from fedmed.privacy import accounting, evaluation_statement
from fedmed.privacy.evaluation_statement import EvaluationRecord
from fedmed.privacy.noise import GENERATORS, NoiseSource
from fedmed.privacy.plans import (
    GradientPlan,
    ImagePlan,
    NoPrivacy,
    Plan,
    StackedPlan,
    Words,
    part,
)
from fedmed.rounding import up

SERVERS_IMAGES = (
    "the patients of the server's validation and test images, declared public or consented"
)
TRAINING_METRICS = (
    "metrics on training images (evaluation.train-metrics): the server of this simulation read "
    "those images, which no server of a real federation does"
)
NOT_COVERED = [
    "runs outside this comparison on the same patients: their epsilons add up to these",
    "the choice of settings, made by whoever ran earlier experiments on the same data",
    "when a hospital answers, whether it fails in a round, and the code it then sends",
    "whether a hospital's policy takes the plan, which may rest on its number of patients",
    "floating-point resolution of the noise (Mironov 2012)",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OwnGuarantee(_Strict):
    """What one hospital of several with different protections guarantees."""

    arm: str
    unit: Literal["none", "image", "patient", "hospital"]
    neighbouring: str
    trust: str
    mechanism: str
    released: list[str]


class MemberRecord(_Strict):
    """One member's own figures; ``epsilon`` is None where nothing is claimed."""

    hospital: str
    epsilon: float | None = Field(ge=0)
    delta: float = Field(ge=0, lt=1)
    epsilon_rdp: float | None = Field(ge=0, description="the same by Rényi accounting, looser")
    epsilon_replace_one: float | None = Field(ge=0)
    epsilon_patient: float | None = Field(ge=0, description="per patient, under a smaller unit")
    noise_multiplier: float | None = Field(ge=0)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0)
    size: int | None = Field(ge=0, description="number of units that rate and delta rest on")
    size_declared: bool | None
    spent: list[dict[str, Any]] = Field(description="mechanisms and counts, to compose further")
    guarantee: OwnGuarantee | None = Field(
        default=None, description="where hospitals differ: this one's own; null where all are alike"
    )


class Total(_Strict):
    """Everything that the runs of a comparison spent on the same data, for one unit."""

    unit: Literal["patient", "image", "hospital"]
    neighbouring: str
    of: Literal["training", "evaluation"] = Field(
        "training", description="whose data: two sets of patients"
    )
    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0, lt=1)
    runs: list[str] = Field(description="ARM/seed-N of the runs that are added up")
    not_bounded_by: list[str] = Field(description="runs on the same data that bound nothing here")
    not_counted: list[str] = Field(description="runs that may have spent and have no statement")


class Statement(_Strict):
    """A finished run's guarantee; every epsilon with delta, unit, neighbours and trust."""

    version: Literal[2] = 2
    arm: str
    name: str
    scheme: str
    unit: Literal["none", "image", "patient", "hospital"]
    neighbouring: str
    trust: str
    mechanism: str
    sampling: str
    released: list[str]
    epsilon: float | None = Field(ge=0)
    delta: float | None = Field(ge=0, lt=1)
    mu: float | None = Field(ge=0, description="mu-Gaussian-DP at false-positive rates over delta")
    advantage: float | None = Field(ge=0, le=1)
    tpr_at_fpr_001: float | None = Field(ge=0, le=1)
    epsilon_rdp: float | None = Field(ge=0)
    epsilon_replace_one: float | None = Field(ge=0)
    epsilon_patient: float | None = Field(ge=0)
    epsilon_by_pixels: dict[str, float] = Field(description="pure epsilon: pixel, neighbourhood")
    epsilon_per_pixel: float | None = Field(ge=0)
    epsilon_at_delta: float | None = Field(ge=0, description="of an image arm, at privacy.delta")
    epsilon_with_noised_images: float | None = Field(
        ge=0, description="where noised images and model are both seen (stacked mechanisms)"
    )
    epsilon_without_knowledge_of_the_seed: float | None = Field(ge=0)
    target_epsilon: float | None = Field(ge=0)
    images_per_patient: int | None = Field(ge=1)
    noise_to_signal: float | None = Field(ge=0, description="expected, of one step, from the plan")
    accountant: str
    noise_source: str
    random_generators: str
    steps_planned: int = Field(ge=0)
    steps_taken: int = Field(ge=0)
    sizes: str
    public_data: str
    weights: Weights | None = Field(default=None, description="that the model starts from")
    hospitals: list[MemberRecord]
    refused: list[str] = Field(description="hospitals whose policy refused the plan")
    evaluation: EvaluationRecord | None = Field(
        None,
        description="what hospitals told of their evaluation patients; null where nothing",
    )
    total: list[Total] = Field(description="over the arms and seeds of the comparison so far")
    not_covered: list[str]
    summary: str


@dataclass(frozen=True)
class Spend:
    """What one member really did: private steps (or rounds, or releases of its images) taken.

    ``arm`` is the member's own where it chose another than it was asked for.
    """

    plan: Plan
    taken: int
    arm: str = ""


def statement(
    settings: Settings,
    spends: Mapping[str, Spend],
    name: str,
    source: NoiseSource,
    *,
    refused: Sequence[str] = (),
    parameters: int = 0,
    evaluation: EvaluationRecord | None = None,
) -> dict[str, Any]:
    """The statement of a finished run, JSON-ready, computed from the steps really taken.

    ``refused`` names the hospitals that took no part; ``parameters`` is how many numbers are
    trained; ``evaluation`` is what hospitals told of their evaluation patients.
    """
    mixed = _mixed(spends)
    plan: Plan = NoPrivacy() if mixed else next(iter(spends.values())).plan
    weights = weights_of(settings)
    words = _mixed_words(settings, spends) if mixed else plan.words(settings.train.scheme)
    private = plan.unit != "none"
    claim = private and not source.reproducible
    members = [_member(member, spend) for member, spend in spends.items()] if private else []
    if mixed:
        members = [
            _member(member, spend).model_copy(update={"guarantee": _guarantee(settings, spend)})
            for member, spend in spends.items()
        ]
        if source.reproducible:  # the figures stay for checking; nobody may read a claim from them
            members = [m.model_copy(update={"epsilon": None}) for m in members]
    worst = _worst(spends)
    epsilons = [m.epsilon for m in members if m.epsilon is not None]
    image = part(plan, ImagePlan)
    taken = max(s.taken for s in spends.values())
    claims = image.mechanism.claims if image is not None and claim else {}
    releases = 1 if isinstance(plan, StackedPlan) else taken
    risk = accounting.risk(worst.plan.spent(worst.taken), plan.delta) if _counts(plan) else None
    record = Statement(
        arm=settings.privacy.arm,
        name=name,
        scheme=settings.train.scheme,
        unit=words.unit,
        neighbouring=words.neighbouring,
        trust=words.trust,
        mechanism=words.mechanism,
        sampling=words.sampling,
        released=[*words.released, *([evaluation.released] if evaluation else [])],
        epsilon=max(epsilons) if claim else None,
        delta=plan.delta if claim else None,
        # Infinite where nothing but delta holds an attacker off.
        mu=risk.mu if risk and claim and math.isfinite(risk.mu) else None,
        advantage=risk.advantage if risk and claim else None,
        tpr_at_fpr_001=risk.tpr_at_fpr_001 if risk and claim else None,
        epsilon_rdp=_largest(m.epsilon_rdp for m in members) if claim else None,
        epsilon_replace_one=_largest(m.epsilon_replace_one for m in members) if claim else None,
        epsilon_patient=_largest(m.epsilon_patient for m in members) if claim else None,
        epsilon_by_pixels={k: v * releases for k, v in claims.items() if k != "image"},
        epsilon_per_pixel=claims["pixel"] * releases if "pixel" in claims else None,
        epsilon_at_delta=plan.at_delta(settings.privacy.delta, taken)
        if claim and isinstance(plan, ImagePlan)
        else None,
        epsilon_with_noised_images=plan.composed(taken)
        if claim and isinstance(plan, StackedPlan)
        else None,
        epsilon_without_knowledge_of_the_seed=max(epsilons)
        if private and source.reproducible
        else None,
        target_epsilon=_target(settings, plan),
        images_per_patient=settings.privacy.images_per_patient or None,
        noise_to_signal=plan.noise_to_signal(parameters) if private and parameters else None,
        accountant=words.accountant,
        noise_source=source.description if settings.privacy.arm != "none" else "no noise",
        random_generators=GENERATORS,
        steps_planned=max(s.plan.steps for s in spends.values()),
        steps_taken=taken,
        sizes=_sizes(plan, spends),
        public_data=_public(settings, weights),
        weights=weights,
        hospitals=members,
        refused=list(refused),
        evaluation=evaluation,
        total=[],
        not_covered=_not_covered(settings, plan, words.not_covered, evaluation),
        summary="",
    )
    return record.model_copy(update={"summary": _summary(record)}).model_dump()


def _mixed(spends: Mapping[str, Spend]) -> bool:
    """Whether hospitals protect different things, so that no one figure holds for all."""
    kinds = {(s.plan.unit, *(type(p).__name__ for p in s.plan.parts)) for s in spends.values()}
    return len(kinds) > 1


def _guarantee(settings: Settings, spend: Spend) -> OwnGuarantee:
    words = spend.plan.words(settings.train.scheme)
    return OwnGuarantee(
        arm=spend.arm or settings.privacy.arm,
        unit=words.unit,
        neighbouring=words.neighbouring,
        trust=words.trust,
        mechanism=words.mechanism,
        released=list(words.released),
    )


def _mixed_words(settings: Settings, spends: Mapping[str, Spend]) -> Words:
    """The run's words where hospitals differ: each one's own are beside its figures."""
    every = {name: s.plan.words(settings.train.scheme) for name, s in spends.items()}
    return Words(
        unit="none",
        neighbouring="each hospital's own: see hospitals",
        trust="each hospital's own: see hospitals",
        mechanism="; ".join(f"{name}: {words.mechanism}" for name, words in every.items()),
        sampling="; ".join(f"{name}: {words.sampling}" for name, words in every.items()),
        released=tuple(dict.fromkeys(text for words in every.values() for text in words.released)),
        accountant=next((w.accountant for w in every.values() if w.unit != "none"), "none"),
        not_covered=(
            "the run as a whole: hospitals chose different protections, each for its own patients",
            *dict.fromkeys(text for words in every.values() for text in words.not_covered),
        ),
    )


def schema() -> dict[str, Any]:
    """The JSON schema of ``privacy.json``."""
    return Statement.model_json_schema()


def check(value: Any) -> Statement:
    """A statement that keeps the schema; raises ``pydantic.ValidationError`` for another."""
    return Statement.model_validate(value, strict=False)


def _counts(plan: Plan) -> bool:
    """Whether the plan has an (epsilon, delta) curve worth an attacker's numbers."""
    return plan.step is not None and plan.delta > 0


def _worst(spends: Mapping[str, Spend]) -> Spend:
    return max(spends.values(), key=lambda s: s.plan.epsilon(s.taken) or 0.0)


def _largest(values: Any) -> float | None:
    found = [value for value in values if value is not None]
    return max(found) if found else None


def _member(member: str, spend: Spend) -> MemberRecord:
    plan, taken = spend.plan, spend.taken
    gradient = part(plan, GradientPlan)
    spent = plan.spent(taken)
    return MemberRecord(
        hospital=member,
        epsilon=plan.epsilon(taken),
        delta=plan.delta,
        epsilon_rdp=accounting.rdp_epsilon(accounting.rdp(spent), plan.delta)
        if _counts(plan) and taken
        else None,
        epsilon_replace_one=plan.replace_one(taken),
        epsilon_patient=plan.per_patient(taken),
        noise_multiplier=plan.step.noise if plan.step and plan.step.kind != "laplace" else None,
        sampling_rate=plan.step.rate if plan.step else 1.0,
        steps=taken,
        size=gradient.units if gradient else None,
        size_declared=gradient.declared if gradient else None,
        spent=[{"step": step.to_json(), "count": count} for step, count in spent],
    )


def _target(settings: Settings, plan: Plan) -> float | None:
    if plan.unit == "none":
        return None
    return plan.epsilon() if isinstance(plan, ImagePlan) else settings.privacy.epsilon


def _sizes(plan: Plan, spends: Mapping[str, Spend]) -> str:
    gradients = [part(s.plan, GradientPlan) for s in spends.values()]
    known = [g for g in gradients if g is not None]
    if not known:
        return "no size of a hospital enters the guarantee"
    if all(g.declared for g in known):
        return "sampling rates, steps and divisors rest on sizes that the hospitals declared public"
    return (
        "sampling rates, steps and divisors rest on the exact sizes of the hospitals, treated as "
        "public in this simulation"
    )


def _public(settings: Settings, weights: Weights | None) -> str:
    text = describe(weights)
    if settings.model.standardise == "validation":
        text += "; features are standardised by those of the server's validation images"
    return text


def _not_covered(
    settings: Settings, plan: Plan, own: Sequence[str], evaluation: EvaluationRecord | None
) -> list[str]:
    server = [SERVERS_IMAGES] if settings.evaluation.where != "hospitals" else []
    found = [*own, *server, *NOT_COVERED]
    if evaluation is not None:
        unknown = settings.data.unknown_patients == "separate"
        found += evaluation_statement.not_covered(evaluation, unknown)
    if settings.evaluation.train_metrics:
        found.append(TRAINING_METRICS)
    gradient = part(plan, GradientPlan)
    if gradient is not None and not gradient.declared:
        found.append("the number of patients and images of each hospital, treated as public")
    if settings.data.unknown_patients == "separate" and gradient is not None:
        found.append(
            "persons behind images without a patient identifier: each such image counts as one"
        )
    return found


def _summary(record: Statement) -> str:
    """One plain paragraph for a reader who is no expert."""
    told = evaluation_statement.summary(record.evaluation) if record.evaluation else ""
    return (_training_summary(record) + " " + told).strip()


def _training_summary(record: Statement) -> str:
    if any(member.guarantee for member in record.hospitals):
        return _mixed_summary(record)
    if record.unit == "none":
        noised = record.arm != "none"
        return (
            "What this run does to the images gives no guarantee. "
            * noised
            + "This run protects nobody: the models that hospitals send, and the final model, may "
            "reveal whether a patient took part and what the images show."
        )
    if record.epsilon is None or record.delta is None:
        return (
            "The noise of this run can be repeated from the experiment's seed. That is useful for "
            "checking the software and protects nobody against a person who knows the seed, so no "
            "epsilon is claimed."
        )
    epsilon = f"epsilon = {up(record.epsilon):.3g} at delta = {up(record.delta):.3g}"
    trust = record.trust
    trusted = "without trusting anybody" if trust == "nobody" else f"as long as {trust} is trusted"
    counted = {"image": "release(s)", "hospital": "round(s)"}.get(record.unit, "step(s)")
    if record.unit == "image" and record.sampling.startswith("Poisson"):
        counted = "step(s)"
    text = (
        f"One {record.unit} is protected with {epsilon} ({record.neighbouring}), {trusted}. "
        f"{record.steps_taken} of {record.steps_planned} planned {counted} were taken and paid "
        "for. "
    )
    if record.epsilon_patient is not None:
        text += (
            f"One patient, with up to {record.images_per_patient} images, is protected with "
            f"epsilon = {up(record.epsilon_patient):.3g}. "
        )
    if record.epsilon > 20:
        return text + (
            "An epsilon of this size is no meaningful protection: an attacker can all but always "
            "tell two such data sets apart."
        )
    if record.tpr_at_fpr_001 is not None:
        text += (
            "An attacker who knows everything else and accuses 1 in 100 wrongly finds "
            f"{up(100 * record.tpr_at_fpr_001, 2):.2g} in 100 of those who are there. "
        )
    if record.epsilon > 1:
        return text + "Something can still be learnt: lower epsilon protects more."
    return text + f"Very little can be learnt about one {record.unit}."


def _mixed_summary(record: Statement) -> str:
    found = ["Hospitals chose different protections for their own patients:"]
    for member in record.hospitals:
        own = member.guarantee
        if own is None or own.unit == "none":
            found.append(f"{member.hospital} protects nobody;")
        elif member.epsilon is None:
            found.append(
                f"{member.hospital} ({own.arm}) has noise that can be repeated from the seed, so "
                "no epsilon is claimed;"
            )
        else:
            delta = f" at delta = {up(member.delta):.3g}" if member.delta else ""
            trusted = "nobody" if own.trust == "nobody" else own.trust
            found.append(
                f"{member.hospital} ({own.arm}) protects one {own.unit} with epsilon = "
                f"{up(member.epsilon):.3g}{delta} ({own.neighbouring}), trusting {trusted};"
            )
    return " ".join(found)[:-1] + ". No one figure holds for the run as a whole."


def riskcal_version() -> str:
    """Which riskcal gave the attacker's numbers."""
    return version("riskcal")
