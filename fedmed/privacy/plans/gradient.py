"""DP-SGD at one hospital."""

import math
from dataclasses import dataclass
from typing import Literal

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import (
    Mechanism,
    Relation,
    gaussian,
    group_gaussian,
    replace_gaussian,
)
from fedmed.privacy.plans.base import Common, Payer, Words, check_noise, holder, leaving
from fedmed.privacy.statement.facts import Facts


def relation_of(unit: Literal["patient", "image"]) -> Relation:
    """How one unit more or less changes what is trained on: under a cap an image replaces one."""
    return "add-or-remove" if unit == "patient" else "replace-one"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Poisson samples of a hospital's units, and how many of them a round takes.

    ``units`` may differ from the shard's where they were ``declared``. The rate is that of the
    expected batch, or the one that is the same at every hospital (``given_rate``).
    """

    unit: Literal["patient", "image"]
    units: int
    expected_batch: int
    steps_per_round: int
    declared: bool = False
    given_rate: float | None = None

    @property
    def rate(self) -> float:
        """Probability of each unit to be in a step's batch."""
        return self.expected_batch / self.units if self.given_rate is None else self.given_rate


@dataclass(frozen=True, kw_only=True)
class GradientPlan(Common):
    """DP-SGD (Abadi et al. 2016) at one hospital: Poisson samples of units, clipped, noised.

    Neighbouring relation: add or remove one patient with all images, or add, remove or replace one
    image. Under the patient unit a sampled patient contributes one image drawn uniformly, so that
    clipping the sample's gradient clips the patient's. Under the image unit at most
    ``images_per_patient`` images of a patient are in the shard, which bounds what the patient can
    lose. Of a patient at that cap, one image more takes another's place: what is trained on changes
    by a replacement, and that is what is accounted.
    """

    unit: Literal["patient", "image"]
    units: int  # public: the size that was declared, or in a simulation the exact number
    expected_batch: int
    steps_per_round: int
    rounds: int
    clipping_norm: float
    noise_multiplier: float
    delta: float
    declared: bool = False  # whether ``units`` was declared and may differ from the shard's
    images_per_patient: int = 0  # the cap; 0: none. Under the image unit it bounds the patient

    def __post_init__(self) -> None:
        self.check_noise()

    def check_noise(self, grid: float = 2.0**-52) -> None:
        """Raise :class:`UserError` where rounding could swallow the noise; see ``check_noise``."""
        batch = self.expected_batch
        check_noise(self.noise_standard_deviation, self.clipping_norm * batch, batch, grid)

    @property
    def payer(self) -> Payer:
        """The hospital."""
        return "hospital"

    @property
    def sampling(self) -> Sampling:
        """Of the units, in every step."""
        return Sampling(
            unit=self.unit,
            units=self.units,
            expected_batch=self.expected_batch,
            steps_per_round=self.steps_per_round,
            declared=self.declared,
        )

    @property
    def sampling_rate(self) -> float:
        """Probability of each unit to be in a step's batch."""
        return self.sampling.rate

    @property
    def steps(self) -> int:
        """Steps of all rounds."""
        return self.rounds * self.steps_per_round

    @property
    def noise_standard_deviation(self) -> float:
        """Of the noise on the clipped sum, before division by the expected batch."""
        return self.noise_multiplier * self.clipping_norm

    @property
    def step(self) -> Mechanism:
        """A Poisson-sampled Gaussian."""
        seen = gaussian if relation_of(self.unit) == "add-or-remove" else replace_gaussian
        return seen(self.noise_multiplier, self.sampling_rate)

    def cost(self, unit: str) -> Mechanism | None:
        """The patient of an image-unit run has up to the cap of images, each sampled on its own."""
        if unit == "patient" and self.unit == "image" and self.images_per_patient:
            return group_gaussian(
                self.noise_multiplier, self.sampling_rate, self.images_per_patient
            )
        return self.step if unit == self.unit else None

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float:
        """Epsilon after ``taken`` steps (by default the planned number)."""
        return accounting.composed_epsilon(self.spent(taken), delta or self.delta)

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float:
        """Epsilon for a unit replaced by another: it covers any changed image of a patient."""
        return accounting.composed_epsilon(self.spent(taken), delta or self.delta, "replace-one")

    def per_patient(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Under the image unit: epsilon for adding or removing a patient with the cap of images."""
        mechanism = self.cost("patient")
        if self.unit != "image" or mechanism is None:
            return None
        count = self.steps if taken is None else taken
        return accounting.composed_epsilon(((mechanism, count),), delta or self.delta)

    def noise_to_signal(self, parameters: int) -> float:
        """Noise of z C sqrt(parameters) over an expected batch of gradients of norm C in line."""
        return self.noise_multiplier * math.sqrt(parameters) / self.expected_batch

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        return Facts(
            unit=self.unit,
            relation="add-or-remove" if self.unit == "patient" else "replace",
            changes="data",
            noise=("gradients",),
            trusted=(holder(scheme),),
            sampling="poisson",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        patient = self.unit == "patient"
        return Words(
            facts=self.facts(scheme),
            mechanism=(
                f"DP-SGD: gradients of one {self.unit} clipped to L2 norm "
                f"{self.clipping_norm:g}, Gaussian noise on their sum in every step, division by "
                "the expected batch"
            ),
            sampling=f"Poisson over {self.unit}s"
            + (", one image of a sampled patient drawn uniformly" * patient)
            + (f", at most {self.images_per_patient} image(s) of one patient" * (not patient)),
            released=(
                leaving(scheme) if scheme == "local-only" else "the noised model after every round",
            ),
        )
