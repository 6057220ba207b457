"""Gaussian noise on clipped updates, at the hospital or at the server."""

import math
from dataclasses import dataclass
from typing import Literal

from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import Mechanism, gaussian
from fedmed.privacy.plans.base import Common, Payer, Words, check_noise
from fedmed.privacy.statement.facts import Facts


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """A clipping norm that follows a quantile of the updates' norms (Andrew et al. 2021, Alg. 1).

    Each round the share of updates not above the norm is estimated with Gaussian noise, and the
    norm moves by exp(-rate (share - quantile)). ``share_of_budget`` of the round's 1/z^2 pays for
    the estimate, so that the round as a whole still has the plan's noise multiplier z.
    """

    quantile: float
    rate: float
    share_of_budget: float


@dataclass(frozen=True, kw_only=True)
class UpdatePlan(Common):
    """Gaussian noise on clipped updates, once a round, at the hospital or at the server.

    At the hospital the unit is the hospital itself and everybody knows that it takes part, so
    neighbours differ by replacing its data: sensitivity 2C. At the server noise is added to the sum
    over hospitals and neighbours differ by zeroing out one hospital's update: sensitivity C.
    """

    placement: Literal["hospital", "server"]
    hospitals: int
    rounds: int
    clipping_norm: float  # under adaptive clipping: of the first round
    noise_multiplier: float  # of a round as a whole
    delta: float
    adaptive: AdaptiveClipping | None = None

    def __post_init__(self) -> None:
        self.check_noise()

    def check_noise(self, grid: float = 2.0**-52) -> None:
        """Raise :class:`UserError` where rounding could swallow the noise; see ``check_noise``."""
        summed = self.hospitals if self.placement == "server" else 1
        check_noise(self.noise_standard_deviation, self.clipping_norm * summed, summed, grid)

    @property
    def unit(self) -> str:
        """The hospital."""
        return "hospital"

    @property
    def payer(self) -> Payer:
        """Who adds the noise."""
        return self.placement

    @property
    def steps(self) -> int:
        """One release in each round."""
        return self.rounds

    @property
    def steps_per_round(self) -> int:
        """One release."""
        return 1

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of what is noised (in the first round)."""
        return self.sensitivity_at(self.clipping_norm)

    def sensitivity_at(self, clipping_norm: float) -> float:
        """L2 sensitivity of what is noised at a clipping norm."""
        return clipping_norm * (2 if self.placement == "hospital" else 1)

    @property
    def update_multiplier(self) -> float:
        """Noise multiplier of the updates alone: larger where the clip estimate is paid too."""
        if self.adaptive is None:
            return self.noise_multiplier
        return self.noise_multiplier / math.sqrt(1 - self.adaptive.share_of_budget)

    @property
    def count_multiplier(self) -> float | None:
        """Noise multiplier of the clip estimate."""
        if self.adaptive is None:
            return None
        return self.noise_multiplier / math.sqrt(self.adaptive.share_of_budget)

    @property
    def noise_standard_deviation(self) -> float:
        """Of the noise on one hospital's update (hospital) or on the sum of all (server)."""
        return self.noise_at(self.clipping_norm)

    def noise_at(self, clipping_norm: float) -> float:
        """The same at another clipping norm."""
        return self.update_multiplier * self.sensitivity_at(clipping_norm)

    @property
    def step(self) -> Mechanism:
        """A Gaussian; two Gaussians z_u and z_c compose to 1/z^2 = 1/z_u^2 + 1/z_c^2."""
        return gaussian(self.noise_multiplier)

    def cost(self, unit: str) -> Mechanism | None:
        """A patient's or an image's change replaces at most the whole update of a hospital."""
        if unit == self.unit:
            return self.step
        if unit not in ("patient", "image"):
            return None
        return self.step if self.placement == "hospital" else gaussian(self.noise_multiplier / 2)

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float:
        """Epsilon after ``taken`` rounds (by default the planned number)."""
        return accounting.composed_epsilon(self.spent(taken), delta or self.delta)

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float:
        """Epsilon where a hospital's data are replaced: at the server twice the sensitivity."""
        if self.placement == "hospital":
            return self.epsilon(taken, delta)
        count = self.steps if taken is None else taken
        doubled = gaussian(self.noise_multiplier / 2)
        return accounting.composed_epsilon(((doubled, count),), delta or self.delta)

    def noise_to_signal(self, parameters: int) -> float:
        """Noise of the mean update over updates of norm C that all point the same way."""
        if self.placement == "hospital":
            return 2 * self.update_multiplier * math.sqrt(parameters / self.hospitals)
        return self.update_multiplier * math.sqrt(parameters) / self.hospitals

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        server = self.placement == "server"
        return Facts(
            unit="hospital",
            relation="zero-out" if server else "replace",
            changes="update" if server else "data",
            noise=("sum",) if server else ("updates",),
            trusted=("server",) if server else (),
            sampling="everyone",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        server = self.placement == "server"
        clipping = f"updates clipped to L2 norm {self.clipping_norm:g}"
        amount = f"standard deviation {self.noise_standard_deviation:g}"
        if self.adaptive is not None:
            clipping += (
                f" at first, then to a norm that follows their {self.adaptive.quantile:g} "
                f"quantile, estimated with Gaussian noise of multiplier {self.count_multiplier:.3g}"
            )
            amount = f"{self.update_multiplier:.4g} times that norm"
        return Words(
            facts=self.facts(scheme),
            mechanism=f"{clipping}; Gaussian noise of {amount} on "
            + ("the sum, at the server" if server else "each update, at the hospital"),
            sampling="none: every hospital takes part in every round",
            released=(
                "the noised model after every round"
                if server
                else "the noised update of every hospital in every round",
                *(("the clipping norm of every round",) if self.adaptive else ()),
            ),
        )
