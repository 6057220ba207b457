"""DP-SGD's recipe without its noise: what the recipe and clipping cost, apart from privacy."""

from dataclasses import dataclass

from fedmed.privacy.plans.base import Words, everyone, leaving
from fedmed.privacy.plans.gradient import Sampling
from fedmed.privacy.plans.image import NoPrivacy
from fedmed.privacy.statement.facts import Facts


@dataclass(frozen=True, kw_only=True)
class UnnoisedPlan(NoPrivacy):
    """DP-SGD's Poisson batches and its division by the expected one, with nothing claimed.

    Gradients are clipped to ``clipping_norm`` as under DP-SGD; None: they are summed as they are.
    """

    sampling: Sampling
    clipping_norm: float | None

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        return Facts(
            unit="none",
            relation="none",
            changes="nothing",
            noise=(),
            trusted=(everyone(scheme),),
            sampling="poisson",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        unit, norm = self.sampling.unit, self.clipping_norm
        clipped = f"gradients of one {unit} clipped to L2 norm {norm:g}" if norm else "no clipping"
        return Words(
            facts=self.facts(scheme),
            mechanism=f"none: DP-SGD's recipe, {clipped} and no noise; no privacy is claimed",
            sampling=f"Poisson over {unit}s, one image of a sampled patient drawn uniformly"
            if unit == "patient"
            else "Poisson over images",
            released=(leaving(scheme), "numbers of images"),
            accountant="none",
        )
