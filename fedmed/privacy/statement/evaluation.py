"""What a federated evaluation released, and what it cost its patients: in a statement."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmed.base.rounding import up, up_text
from fedmed.config import Settings
from fedmed.evaluation.pooled.histograms import Spec
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.evaluation import EvaluationPlan, evaluation_plan
from fedmed.privacy.statement import facts
from fedmed.privacy.statement.facts import Facts

_ACCOUNT = (
    "each hospital's own, in its ledger: of its evaluation patients alone, or where its policy has "
    "a limit and does not set them apart, that of its training"
)


class EvaluationRecord(BaseModel):
    """What hospitals told of their evaluation patients; ``unit`` is none where it was exact."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    where: Literal["hospitals", "both"]
    released: str
    facts: Facts
    unit: Literal["none", "patient"]
    neighbouring: str
    trust: str
    account: str
    epsilon: float | None = Field(ge=0, description="per evaluation patient, of all histograms")
    delta: float | None = Field(ge=0, lt=1)
    epsilon_replace_one: float | None = Field(ge=0)
    epsilon_without_knowledge_of_the_seed: float | None = Field(ge=0)
    noise_multiplier: float | None = Field(ge=0)
    noise_standard_deviation: float | None = Field(ge=0, description="in each cell, per hospital")
    sensitivity: float | None = Field(ge=0, description="L2, of all histograms together")
    images_per_patient: int | None = Field(ge=1)
    bins: int = Field(ge=1)
    families: list[str] = Field(description="histograms that overlap: each image is in one of each")
    hospitals: list[str] = Field(description="whose release was paid for, or exact ones sent")
    missing: dict[str, str] = Field(description="hospitals that sent none, and the code they sent")
    spent: list[dict[str, Any]] = Field(description="mechanism and count, to compose further")


def evaluation_record(
    settings: Settings,
    spec: Spec,
    source: NoiseSource,
    *,
    hospitals: Sequence[str],
    missing: Mapping[str, str],
) -> EvaluationRecord:
    """The record of one run; ``hospitals`` paid for a release or sent exact counts."""
    where = settings.evaluation.where
    if where == "server":
        raise ValueError("the server's own evaluation releases nothing of a hospital")
    plan = evaluation_plan(settings)
    paid = plan if hospitals else None
    claimed = paid if paid and not source.reproducible else None
    families = ", ".join(spec.families)
    sent = f"score histograms of {spec.bins} bins per label, over {families}, of every hospital"
    about = Facts(
        unit="patient" if plan else "none",
        relation="add-or-remove" if plan else "none",
        changes="data" if plan else "nothing",
        noise=("histograms",) if plan else (),
        trusted=("hospital",),
        sampling="once",
    )
    return EvaluationRecord(
        where=where,
        released=sent + (", noised in every cell" if plan else ": exact counts, unprotected"),
        facts=about,
        unit="patient" if plan else "none",
        neighbouring=facts.neighbours("evaluation patient", about.relation, about.changes)
        if plan
        else "none: exact counts protect nobody",
        trust=facts.trust(about.trusted),
        account=_ACCOUNT if plan else "none: nothing is protected, so nothing is charged",
        epsilon=claimed.spent_epsilon() if claimed else None,
        delta=claimed.delta if claimed else None,
        epsilon_replace_one=claimed.spent_epsilon("replace-one") if claimed else None,
        epsilon_without_knowledge_of_the_seed=paid.spent_epsilon()
        if paid and source.reproducible
        else None,
        noise_multiplier=plan.noise_multiplier if plan else None,
        noise_standard_deviation=plan.deviation(spec) if plan else None,
        sensitivity=spec.sensitivity if plan else None,
        images_per_patient=spec.cap or None,
        bins=spec.bins,
        families=list(spec.families),
        hospitals=list(hospitals),
        missing=dict(missing),
        spent=_spent(paid),
    )


def _spent(plan: EvaluationPlan | None) -> list[dict[str, Any]]:
    return [] if plan is None else [{"step": plan.step.to_json(), "count": 1}]


def not_covered(record: EvaluationRecord, unknown_patients: bool) -> list[str]:
    """What the evaluation leaves open."""
    if record.unit == "none":
        return ["the evaluation patients of the hospitals: their score histograms are exact"]
    uncovered = [
        "a hospital as a whole, in evaluation: the noise of its histograms is for one patient",
        "evaluation patients who are trained on under another split: both epsilons are theirs",
    ]
    if unknown_patients:
        uncovered.append(
            "persons behind evaluation images without a patient identifier: each counts as one"
        )
    return uncovered


def summary(record: EvaluationRecord) -> str:
    """One or two sentences for a reader who is no expert."""
    if record.unit == "none":
        return (
            "Hospitals sent exact score histograms of their evaluation patients, which protects "
            "none of these. "
        )
    if record.epsilon is None or record.delta is None:
        return "" if record.hospitals else "No hospital sent histograms for the evaluation. "
    return (
        f"One evaluation patient, none of whom was trained on, is protected with epsilon = "
        f"{up_text(record.epsilon)} at delta = {up(record.delta):.3g} ({record.neighbouring}), as "
        f"long as {record.trust} is trusted. "
    )
