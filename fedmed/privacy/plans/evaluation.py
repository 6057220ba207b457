"""What a hospital's score histograms cost its evaluation patients, and the noise that pays for it.

One release: all histograms of one model at once, as one vector with Gaussian noise in every cell.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.evaluation.pooled.histograms import Spec
from fedmed.privacy import accounting
from fedmed.privacy.ledger.filtering import Charge, relation_of
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.normals import Normals
from fedmed.privacy.mechanisms.step import Mechanism, Relation, gaussian

NOISED_BINS: Final = 32
EXACT_BINS: Final = 256

Counts = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """The noise of one hospital's histograms, fixed before an image is scored.

    Neighbours add or remove one evaluation patient, of whom at most ``cap`` images count; all
    histograms together then move by at most :attr:`Spec.sensitivity`, and ``noise_multiplier``
    is the noise over it.
    """

    epsilon: float
    delta: float
    cap: int
    noise_multiplier: float

    @property
    def step(self) -> Mechanism:
        """One release, seen from a patient."""
        return gaussian(self.noise_multiplier)

    def cost(self, unit: str) -> Mechanism | None:
        """The release seen from another unit; None where it gives that unit no guarantee.

        One image, added, removed or with other pixels, moves at most two cells of each family by 1
        (its own, and that of the image that takes or leaves its place under the cap): sqrt(2)
        times sqrt(families), against the noise for cap times sqrt(families).
        """
        if unit == "patient":
            return self.step
        if unit in ("image", "pixels"):
            return gaussian(self.noise_multiplier * min(1.0, self.cap / math.sqrt(2)))
        return None

    def deviation(self, spec: Spec) -> float:
        """Standard deviation of the noise in each cell; raises ValueError for another cap."""
        if spec.cap != self.cap:
            raise ValueError(f"histograms with a cap of {spec.cap} images, noise for {self.cap}")
        return self.noise_multiplier * spec.sensitivity

    def spent_epsilon(self, relation: Relation = "add-or-remove") -> float:
        """Epsilon at ``delta`` of one release."""
        return accounting.composed_epsilon(((self.step, 1),), self.delta, relation)


def evaluation_plan(settings: Settings) -> EvaluationPlan | None:
    """The noise of the histograms; None under arms that protect nothing, whose counts are exact."""
    if not settings.arm.protects:
        return None
    epsilon = settings.evaluation.epsilon or settings.privacy.epsilon
    delta = settings.evaluation.delta or settings.privacy.delta
    return EvaluationPlan(
        epsilon=epsilon,
        delta=delta,
        cap=evaluation_cap(settings),
        noise_multiplier=accounting.noise_multiplier(epsilon, delta, 1.0, 1),
    )


def evaluation_cap(settings: Settings) -> int:
    """Images of one patient that count: as set, as in training, else 1 where noised, or 0: all."""
    noised = settings.arm.protects
    own, shared = settings.evaluation.images_per_patient, settings.privacy.images_per_patient
    return own or shared or int(noised)


def evaluation_bins(settings: Settings) -> int:
    """How many bins are asked for: more of them bound the AUROC better, and hold more noise."""
    noised = settings.arm.protects
    return settings.evaluation.bins or (NOISED_BINS if noised else EXACT_BINS)


def check_delta(plan: EvaluationPlan, patients: int, hospital: str) -> None:
    """Raise :class:`UserError` where delta is not below one over a hospital's patients."""
    if patients and plan.delta >= 1 / patients:
        raise UserError(
            f"evaluation.delta = {plan.delta:g} is not below 1/{patients} ({hospital} has "
            f"{patients} evaluation patients), so the guarantee would mean nothing; use "
            f"{10 ** (math.floor(math.log10(1 / patients)) - 1):g} or less"
        )


def noised(counts: Counts, deviation: float, normals: Normals) -> Counts:
    """A copy with N(0, deviation^2) added to every cell, families in the mapping's order."""
    return {
        family: cells + deviation * normals.draw(cells.size).reshape(cells.shape)
        for family, cells in counts.items()
    }


def noise_for(source: NoiseSource, hospital: str, request: str) -> Normals:
    """The hospital's own stream for one request: another model or spec never meets it again."""
    return source.normals("evaluation", hospital, request)


def evaluation_request(
    settings: Settings,
    owner: str,
    plan: EvaluationPlan,
    policy: Policy,
    *,
    fixed_split: bool,
    cohort: str | None = None,
) -> Charge:
    """The release as the evaluation patients' account sees it: one step."""
    account, unit = evaluation_account(owner, policy, fixed_split=fixed_split)
    return Charge(
        account=account,
        unit=unit,
        arm=f"{settings.privacy.arm} (evaluation)",
        relation=relation_of(unit),
        step=plan.cost(unit),
        steps=1,
        delta=plan.delta,
        cohort=cohort,
    )


def evaluation_account(owner: str, policy: Policy, *, fixed_split: bool) -> tuple[str, str]:
    """Name and unit of the account that evaluation is charged to.

    Evaluation patients are not trained on in the same run. In another run, with another split, they
    may be: then two accounts hold spend on the same patient, each up to the limit. So where there
    is a limit it is training's account, unless the site itself says that its evaluation patients
    stay apart and the table, not a setting, has the split (``fixed_split``).
    """
    account, unit = policy.account_for(owner, "patient")
    apart = policy.limit is None or (policy.evaluation == "separate" and fixed_split)
    if policy.evaluation == "shared":
        apart = False
    return (f"{account}/evaluation" if apart else account), unit


def ledger_run(run: str) -> str:
    """Name of a run's evaluation in ledgers: a plan of its own."""
    return f"{run}/evaluation"
