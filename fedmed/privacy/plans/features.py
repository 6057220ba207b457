"""Each patient's films as one short noised vector, released once with a noised label."""

from dataclasses import dataclass

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.features import FeatureLaplace
from fedmed.privacy.mechanisms.step import Mechanism
from fedmed.privacy.plans.base import Once, Words
from fedmed.privacy.statement.facts import Facts


@dataclass(frozen=True, kw_only=True)
class FeaturePlan(Once):
    """Every patient is noised once, by ``mechanism``; training has nothing but the result.

    So many releases are made as the hospital has ``units`` in public, declared or counted: places
    that no patient takes hold noise. With that number fixed, a patient who is added or removed
    changes what lies in one place, as one whose data are replaced does. ``images_per_patient`` is
    the declared cap (0: none); no epsilon depends on it.
    """

    mechanism: FeatureLaplace
    units: int
    declared: bool = False
    images_per_patient: int = 0

    @property
    def unit(self) -> str:
        """A patient, with all films and the label."""
        return "patient"

    @property
    def step(self) -> Mechanism:
        """One release of one patient: films and label together."""
        return self.mechanism.step

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float:
        """Pure epsilon of one patient after ``taken`` releases (basic composition)."""
        count = 1 if taken is None else taken
        return count * self.step.pure_epsilon()

    def at_delta(self, delta: float, taken: int | None = None) -> float:
        """Epsilon of one patient at ``delta`` > 0, as of any mechanism of this pure epsilon."""
        return accounting.composed_epsilon(self.spent(taken), delta)

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float:
        """The relation is replacement already."""
        return self.epsilon(taken)

    def noise_to_signal(self, parameters: int) -> float:
        """Expected length of a patient's noise over the longest that the vector can be."""
        mechanism = self.mechanism
        return float(mechanism.deviation * mechanism.components**0.5 / mechanism.norm)

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        return Facts(
            unit="patient",
            relation="replace",
            changes="data",
            noise=("features",),
            trusted=(),
            sampling="once",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        where = "to one place" if scheme == "pooled" else "as far as a model trained on them shows"
        return Words(
            facts=self.facts(scheme),
            mechanism=f"{self.mechanism.words}, drawn once and stored",
            sampling="none: every patient is noised once",
            released=(f"one noised vector and one noised label per patient, {where}",),
            accountant="closed form: epsilon of vector and label, added up over releases",
            not_covered=(
                "releases of the same patients by other features, another projection, norm or "
                "epsilon, or of other films: their epsilons add up",
            ),
        )
