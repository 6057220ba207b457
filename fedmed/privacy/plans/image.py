"""No protection, and images that are noised once before training."""

from dataclasses import dataclass

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.images import ImageMechanism
from fedmed.privacy.mechanisms.step import Mechanism
from fedmed.privacy.plans.base import Common, Once, Payer, Words, everyone, leaving
from fedmed.privacy.statement.facts import Facts


@dataclass(frozen=True, kw_only=True)
class NoPrivacy(Common):
    """Nothing is noised and nothing is claimed."""

    @property
    def unit(self) -> str:
        """Nobody."""
        return "none"

    @property
    def payer(self) -> Payer:
        """Nobody."""
        return "nobody"

    @property
    def delta(self) -> float:
        """None."""
        return 0.0

    @property
    def steps(self) -> int:
        """None."""
        return 0

    @property
    def steps_per_round(self) -> int:
        """None."""
        return 0

    @property
    def step(self) -> None:
        """None."""
        return

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> None:
        """Nothing is claimed."""
        return

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> None:
        """Nothing is claimed."""
        return

    def noise_to_signal(self, parameters: int) -> None:
        """There is no noise."""
        return

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        return Facts(
            unit="none",
            relation="none",
            changes="nothing",
            noise=(),
            trusted=(everyone(scheme),),
            sampling="shuffled",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        return Words(
            facts=self.facts(scheme),
            mechanism="none: no privacy is claimed",
            sampling="shuffled mini-batches",
            released=(leaving(scheme), "training losses and numbers of images"),
            accountant="none",
        )


@dataclass(frozen=True, kw_only=True)
class ImagePlan(Once):
    """Images are noised once, before training, by ``mechanism``; the labels are not.

    ``images_per_patient`` is the declared cap (0: none), with which the pixels of all of a
    patient's images cost that many times one image.
    """

    mechanism: ImageMechanism
    images_per_patient: int = 0

    @property
    def unit(self) -> str:
        """An image, or nobody where the mechanism claims nothing."""
        return "none" if self.mechanism.step is None else "image"

    @property
    def step(self) -> Mechanism | None:
        """One release of one image."""
        return self.mechanism.step

    def cost(self, unit: str) -> Mechanism | None:
        """Pixels alone are protected: not that an image is there, nor its label."""
        return self.step if unit == "pixels" else None

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Pure epsilon of one replaced image after ``taken`` releases (basic composition)."""
        count = 1 if taken is None else taken
        return None if self.step is None else count * self.step.pure_epsilon()

    def at_delta(self, delta: float, taken: int | None = None) -> float | None:
        """Epsilon of one replaced image at ``delta`` > 0, by PLD over all coordinates."""
        return accounting.composed_epsilon(self.spent(taken), delta) if self.step else None

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """The relation is replacement already."""
        return self.epsilon(taken)

    def per_patient(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Epsilon of the pixels of all a patient's images; None without a declared cap."""
        one = self.epsilon(taken)
        return None if one is None or not self.images_per_patient else one * self.images_per_patient

    def noise_to_signal(self, parameters: int) -> float | None:
        """Standard deviation of the noise over the range of a pixel."""
        scale = getattr(self.mechanism, "scale", None)
        return None if scale is None else float(2**0.5 * scale)

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        element = self.mechanism.element
        if self.step is None:
            return Facts(
                unit="none",
                relation="none",
                changes="nothing",
                noise=(),
                trusted=(everyone(scheme),),
                sampling="once",
            )
        return Facts(
            unit="image",
            relation="replace",
            changes="voxels" if element == "voxel" else "pixels",
            noise=("images",),
            trusted=(),
            sampling="once",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        where = "to one place" if scheme == "pooled" else "as far as a model trained on them shows"
        released = [f"the noised images and the labels, {where}"]
        if scheme != "pooled":
            released.append(leaving(scheme))
        claimed, element = self.step is not None, self.mechanism.element
        return Words(
            facts=self.facts(scheme),
            mechanism=f"{self.mechanism.words}, drawn once and stored",
            sampling="none: every image is noised once",
            released=tuple(released),
            accountant="closed form: coordinates / scale, added up over releases"
            if claimed
            else "none",
            not_covered=(
                f"labels: the mechanism noises {element}s only",
                "noised copies of the same images at another scale or size, or under another "
                "name: their epsilons add up",
            ),
        )
