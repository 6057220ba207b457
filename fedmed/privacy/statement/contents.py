"""What a run guarantees, to whom, and what it does not: the content of ``privacy.json``.

Its parts follow NIST SP 800-226 and Ponomareva et al. 2023 ("How to DP-fy ML"): who is trusted,
mechanism and releases, unit and neighbours, (epsilon, delta) and what they mean to an attacker,
accountant, sampling and steps, what is not covered, public data, and the source of randomness.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.models.origin import Weights, describe, weights_of
from fedmed.privacy.mechanisms.noise import GENERATORS, NoiseSource
from fedmed.privacy.plans import GradientPlan, ImagePlan, Plan, part
from fedmed.privacy.statement import evaluation as evaluation_statement
from fedmed.privacy.statement import figures
from fedmed.privacy.statement import words as statement_words
from fedmed.privacy.statement.evaluation import EvaluationRecord
from fedmed.privacy.statement.facts import VERSION, Facts, Relation
from fedmed.privacy.statement.figures import Figures, MemberRecord, OwnGuarantee, Spend, Strict

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


class Total(Strict):
    """Everything that the runs of a comparison spent on the same data, for one unit."""

    unit: Literal["patient", "image", "hospital"]
    relation: Relation
    neighbouring: str = Field(description="the same in words, for people")
    of: Literal["training", "evaluation"] = Field(
        "training", description="whose data: two sets of patients"
    )
    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0, lt=1)
    theorem: Literal["composition", "odometer"] = Field(
        description="composition: of runs that were fixed before the first began; odometer: with "
        "probability 1 - delta the loss stays below epsilon, whenever runs were added or stopped"
    )
    runs: list[str] = Field(description="ARM/seed-N of the runs that are added up")
    not_bounded_by: list[str] = Field(description="runs on the same data that bound nothing here")
    not_counted: list[str] = Field(description="runs that may have spent and have no statement")


class Statement(Figures):
    """A finished run's guarantee: every figure the worst over its hospitals at one ``delta``.

    ``facts`` is what accounting reads; every sentence is made from it, for people.
    """

    version: Literal[3] = VERSION
    arm: str
    name: str
    scheme: str
    facts: Facts | None = Field(description="null where hospitals differ: see each one's own")
    unit: Literal["none", "image", "patient", "hospital"]
    neighbouring: str
    trust: str
    mechanism: str
    sampling: str
    released: list[str]
    delta: float | None = Field(ge=0, lt=1)
    epsilon_per_pixel: float | None = Field(ge=0)
    epsilon_without_knowledge_of_the_seed: float | None = Field(ge=0)
    target_epsilon: float | None = Field(ge=0)
    images_per_patient: int | None = Field(ge=1, description="the largest cap of a hospital")
    noise_to_signal: float | None = Field(ge=0, description="expected, of one step, from the plan")
    accountant: str
    noise_source: str
    random_generators: str
    steps_planned: int = Field(ge=0, description="the most at a hospital")
    steps_taken: int = Field(ge=0, description="the most at a hospital")
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
    plans = {name: spend.plan for name, spend in spends.items()}
    scheme, weights = settings.train.scheme, weights_of(settings)
    plan = next(iter(plans.values()))  # one of several alike; of those that differ no more is said
    told = statement_words.told(plans, scheme)
    claim = _claim(settings, spends, reproducible=source.reproducible)
    worst, members, mixed = claim.worst, claim.members, claim.mixed
    record = Statement(
        **_figures(worst, claim=claim.holds),
        arm=settings.privacy.arm,
        name=name,
        scheme=scheme,
        facts=None if mixed else plan.facts(scheme),
        unit="none" if mixed else plan.facts(scheme).unit,
        neighbouring=told.neighbouring,
        trust=told.trust,
        mechanism=told.mechanism,
        sampling=told.sampling,
        released=[*told.released, *([evaluation.released] if evaluation else [])],
        delta=members[0].delta if claim.holds else None,
        epsilon_per_pixel=worst.epsilon_by_pixels.get("pixel") if worst and claim.holds else None,
        epsilon_without_knowledge_of_the_seed=worst.epsilon
        if worst and source.reproducible
        else None,
        target_epsilon=_target(settings, plans) if worst else None,
        images_per_patient=_cap(settings, members),
        noise_to_signal=_noise_to_signal(plans, parameters) if worst else None,
        accountant=told.accountant,
        noise_source=source.description if settings.arm.noise != "nowhere" else "no noise",
        random_generators=GENERATORS,
        steps_planned=max(p.steps for p in plans.values()),
        steps_taken=max(spend.taken for spend in spends.values()),
        sizes=_sizes(plans),
        public_data=_public(settings, weights),
        weights=weights,
        hospitals=members,
        refused=list(refused),
        evaluation=evaluation,
        total=[],
        not_covered=_not_covered(settings, plans, told.not_covered, evaluation),
        summary="",
    )
    summary = statement_words.summary(record)
    return record.model_copy(update={"summary": summary}).model_dump(mode="json")


@dataclass(frozen=True)
class _Claim:
    """What a run claims: each hospital's figures, and the worst of them where all are alike."""

    mixed: bool  # hospitals' guarantees differ
    holds: bool  # an epsilon may be stated for the run
    members: list[MemberRecord]
    worst: Figures | None


def _claim(settings: Settings, spends: Mapping[str, Spend], *, reproducible: bool) -> _Claim:
    plans = [spend.plan for spend in spends.values()]
    mixed = figures.differ(plans, settings.train.scheme)
    private = mixed or plans[0].unit != "none"
    members = _members(settings, spends) if private else []
    worst = figures.worst(members) if private and not mixed else None
    if reproducible:
        members = [figures.without_claims(member) for member in members]
    return _Claim(mixed, private and not mixed and not reproducible, members, worst)


def _members(settings: Settings, spends: Mapping[str, Spend]) -> list[MemberRecord]:
    """Each hospital's figures at the run's one delta, and where they differ its own guarantee."""
    scheme, plans = settings.train.scheme, [spend.plan for spend in spends.values()]
    stated = figures.stated_delta(settings.privacy.delta, plans)
    mixed = figures.differ(plans, scheme)
    members = []
    for name, spend in spends.items():
        own = figures.member(
            name,
            spend,
            scheme=scheme,
            stated=stated,
            asked=settings.privacy.delta,
        )
        if mixed:
            words, arm = spend.plan.words(scheme), spend.arm or settings.privacy.arm
            guarantee = OwnGuarantee(
                arm=arm,
                unit=words.facts.unit,
                neighbouring=words.neighbouring,
                trust=words.trust,
                mechanism=words.mechanism,
                released=list(words.released),
            )
            own = own.model_copy(update={"guarantee": guarantee})
        members.append(own)
    return members


def _figures(worst: Figures | None, *, claim: bool) -> dict[str, Any]:
    """The run's figures; None where nothing is claimed."""
    if worst is None or not claim:
        return {**dict.fromkeys(Figures.model_fields), "epsilon_by_pixels": {}}
    return worst.model_dump()


def schema() -> dict[str, Any]:
    """The JSON schema of ``privacy.json``."""
    return Statement.model_json_schema()


def check(value: Any) -> Statement:
    """A statement that keeps the schema; raises ``pydantic.ValidationError`` for another."""
    return Statement.model_validate(value, strict=False)


def check_version(value: Mapping[str, Any], where: str) -> None:
    """Raise :class:`UserError` for a statement of another version, whose facts are only words."""
    if value.get("version") != VERSION:
        raise UserError(
            f"{where} is of version {value.get('version')!r}, and this fedmed reads {VERSION}: "
            "make the run again in a new folder, or use the fedmed that wrote it"
        )


def _largest(values: Iterable[float | None]) -> float | None:
    """The largest; None as soon as one is."""
    all_values = list(values)
    known = [value for value in all_values if value is not None]
    return max(known) if known and len(known) == len(all_values) else None


def _noise_to_signal(plans: Mapping[str, Plan], parameters: int) -> float | None:
    """The largest of a hospital, for so many trained numbers; None where they are not known."""
    if not parameters:
        return None
    return _largest(plan.noise_to_signal(parameters) for plan in plans.values())


def _target(settings: Settings, plans: Mapping[str, Plan]) -> float | None:
    """What was asked for; of images the largest epsilon that a hospital planned."""
    if all(isinstance(plan, ImagePlan) for plan in plans.values()):
        return _largest(plan.epsilon() for plan in plans.values())
    return settings.privacy.epsilon


def _cap(settings: Settings, members: Sequence[MemberRecord]) -> int | None:
    """The largest cap of images of one patient; None where a hospital has none."""
    within = [member for member in members if member.facts.unit in ("image", "patient")]
    caps = [member.images_per_patient for member in within]
    if not caps:
        return settings.privacy.images_per_patient or None
    known = [cap for cap in caps if cap is not None]
    return max(known) if len(known) == len(caps) else None


def _sizes(plans: Mapping[str, Plan]) -> str:
    gradients = [part(plan, GradientPlan) for plan in plans.values()]
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
    if settings.model.name == "probe" and settings.model.features == "scattering":
        text += "; its features are wavelet scattering, which no data are behind"
    if settings.model.standardise == "validation":
        text += "; features are standardised by those of the server's validation images"
    return text


def _not_covered(
    settings: Settings,
    plans: Mapping[str, Plan],
    own: Sequence[str],
    evaluation: EvaluationRecord | None,
) -> list[str]:
    server = [SERVERS_IMAGES] if settings.evaluation.where != "hospitals" else []
    uncovered = [*own, *server, *NOT_COVERED]
    if evaluation is not None:
        unknown = settings.data.unknown_patients == "separate"
        uncovered += evaluation_statement.not_covered(evaluation, unknown)
    if settings.evaluation.train_metrics:
        uncovered.append(TRAINING_METRICS)
    gradients = [part(plan, GradientPlan) for plan in plans.values()]
    known = [gradient for gradient in gradients if gradient is not None]
    if not all(gradient.declared for gradient in known):
        uncovered.append("the number of patients and images of each hospital, treated as public")
    if settings.data.unknown_patients == "separate" and known:
        uncovered.append(
            "persons behind images without a patient identifier: each such image counts as one"
        )
    return uncovered
