"""Central differential privacy: the server clips, sums, and adds noise once."""

import math
from collections.abc import Iterable

from fedmed.coordinator.strategies import Averaging, BudgetSpent, Start
from fedmed.coordinator.summing import Arrays, WeightedSum
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.privacy.ledger.filtering import OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.updates import GaussianNoise, clip_factor
from fedmed.privacy.plans import UpdatePlan


class CentralGaussian(Averaging):
    """Clipped updates are summed, noised once, and divided by the number of hospitals *planned*.

    The noise and the divisor never depend on who replied (or how many), and every update is clipped
    here again, because nobody else's promise bounds the sensitivity (McMahan et al. 2018).
    """

    def __init__(
        self,
        start: Start,
        initial: Arrays,
        plan: UpdatePlan,
        ledger: Ledger,
        source: NoiseSource,
        *,
        clipping_norm: float | None = None,
    ) -> None:
        super().__init__(start, initial, {})
        self.plan = plan
        self.ledger = ledger
        self.source = source
        self.clipping_norm: float = clipping_norm or plan.clipping_norm

    def combine(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Clip and sum, reserve the round in the server's ledger, noise, divide, add."""
        bound, within = self.clipping_norm, 0
        total = WeightedSum(precise=True)  # the sensitivity is exact in float64 alone
        for reply in replies:
            factor = clip_factor(reply.update or {}, bound)
            total.add(reply.hospital, reply.update or {}, factor)
            within += factor == 1.0
            del reply  # or its update would stay until the next one is there
        model = messages.fingerprint(self.parameters)
        try:
            self.ledger.reserve(
                self.run, round_number, model, 1, repeatable=self.source.reproducible
            )
        except OverBudget as error:
            raise BudgetSpent from error
        noise = GaussianNoise(self.plan.noise_at(bound))
        normals = self.source.normals("central", round_number, model)
        noised = noise.add(total.over(1.0), normals)
        # The noise and the divisor are those planned, however many answered.
        self._step({name: value / self.plan.hospitals for name, value in noised.items()})
        if self.plan.adaptive is not None:
            self.clipping_norm = self._next_norm(within, total.count, round_number, model)
            self.report.extra["clipping_norm"] = bound

    def _next_norm(self, within: int, replies: int, round_number: int, model: str) -> float:
        """The next round's clipping norm (Andrew et al. 2021, Algorithm 1).

        Each update adds +1/2 or -1/2 to a count, and zeroing one out takes that away: sensitivity
        1/2. The noised count is divided by the hospitals planned, whoever replied.
        """
        adaptive, multiplier = self.plan.adaptive, self.plan.count_multiplier
        if adaptive is None or multiplier is None:
            return self.clipping_norm
        normals = self.source.normals("clip", round_number, model)
        noise = multiplier * 0.5 * float(normals.draw(1)[0])
        share = (within - replies / 2 + noise) / self.plan.hospitals + 0.5
        step = adaptive.rate * (share - adaptive.quantile)
        # The noise of few hospitals can be large: no round changes the norm by more than e.
        moved = self.clipping_norm * math.exp(-min(1.0, max(-1.0, step)))
        return min(max(moved, self.plan.clipping_norm * 1e-6), self.plan.clipping_norm * 1e6)
