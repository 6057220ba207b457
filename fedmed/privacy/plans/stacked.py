"""Images noised first, then a private training on them."""

from dataclasses import dataclass, replace

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import Mechanism
from fedmed.privacy.plans.base import Common, Payer, Plan, Words
from fedmed.privacy.plans.gradient import GradientPlan
from fedmed.privacy.plans.image import ImagePlan
from fedmed.privacy.plans.update import UpdatePlan
from fedmed.privacy.statement.facts import Facts


@dataclass(frozen=True, kw_only=True)
class StackedPlan(Common):
    """Two mechanisms on the same data: ``image`` before training, ``training`` in it.

    What the training guarantees holds whatever each record was turned into before. What the images
    guarantee holds for everything computed from them. Whoever sees both is met by their
    composition, :meth:`composed`.
    """

    image: ImagePlan
    training: GradientPlan | UpdatePlan

    @property
    def unit(self) -> str:
        """That of the training."""
        return self.training.unit

    @property
    def payer(self) -> Payer:
        """Who pays for the training; the images' release is always the hospital's."""
        return self.training.payer

    @property
    def delta(self) -> float:
        """Of the training."""
        return self.training.delta

    @property
    def steps(self) -> int:
        """Of the training."""
        return self.training.steps

    @property
    def steps_per_round(self) -> int:
        """Of the training."""
        return self.training.steps_per_round

    @property
    def step(self) -> Mechanism:
        """Of the training."""
        return self.training.step

    def cost(self, unit: str) -> Mechanism | None:
        """Of the training."""
        return self.training.cost(unit)

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float:
        """Of the training."""
        return self.training.epsilon(taken, delta)

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float:
        """Of the training."""
        return self.training.replace_one(taken, delta)

    def per_patient(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Of the training."""
        return self.training.per_patient(taken, delta)

    def composed(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Epsilon for one image's pixels where noised images and model are both seen.

        None where the images' mechanism claims nothing.
        """
        if self.image.step is None:
            return None
        both = (*self.image.spent(1), *self.training.spent(taken))
        at = delta or self.delta
        alone = self.image.at_delta(at)
        epsilon = accounting.composed_epsilon(both, at)
        # The model is computed from the noised images, so that it adds nothing about their pixels.
        return epsilon if alone is None else min(epsilon, alone)

    def noise_to_signal(self, parameters: int) -> float:
        """Of the training."""
        return self.training.noise_to_signal(parameters)

    def facts(self, scheme: str) -> Facts:
        """Those of the training, with the images' noise before."""
        training, image = self.training.facts(scheme), self.image.facts(scheme)
        return training.model_copy(update={"noise": (*image.noise, *training.noise)})

    def words(self, scheme: str) -> Words:
        """Those of the training, with the images' mechanism before."""
        words, image = self.training.words(scheme), self.image.words(scheme)
        return replace(
            words,
            facts=self.facts(scheme),
            mechanism=f"{image.mechanism}; then {words.mechanism}",
            not_covered=(*words.not_covered, *image.not_covered[1:]),
        )

    @property
    def parts(self) -> tuple[Plan, ...]:
        """Both."""
        return (self.image, self.training)
