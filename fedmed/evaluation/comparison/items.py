"""What a comparison is made of: every metric, group's metric and gap of every run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fedmed.evaluation.group_gaps import HEADLINE
from fedmed.evaluation.intervals.gaps import Gap
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.measuring.panel import Panel
from fedmed.evaluation.metrics import Place, shown

METRICS: Final = tuple(shown("comparison"))
GROUP_METRICS: Final = tuple(shown("comparison of groups"))
HEADLINE_ATTRIBUTES: Final = ("sex", "age")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One quantity of every run: a metric, a group's metric, or a gap."""

    kind: str
    attribute: str | None
    group: str | None
    name: str
    quantity: Quantity
    gap: Gap | None = None

    @property
    def largest(self) -> bool:
        """Whether it is a largest difference, whose resamples are biased."""
        return self.gap is not None and len(self.gap.contrasts) > 0

    def headline(self, place: Place | None) -> bool:
        """Whether its difference is one of the family that p-values are adjusted over.

        `place` of the table of metrics says which of them: those of arms that are trained by the
        baseline's scheme, or by another, whose gaps are not asked after. None: nothing of the arm.
        """
        if place is None:
            return False
        if self.kind == "gap":
            asked = self.attribute in HEADLINE_ATTRIBUTES and self.name in HEADLINE
            return asked and place == "headline"
        return self.kind == "metric" and self.name in shown(place)


def items(panel: Panel) -> Iterator[Item]:
    """Every item of a panel, one attribute after the other; groups with too few are left out."""
    for name in METRICS:
        quantity = panel.quantity(name)
        yield Item(kind="metric", attribute=None, group=None, name=name, quantity=quantity)
    for attribute, counts in panel.counts.items():
        for count in counts:
            for name in GROUP_METRICS if count.note is None else ():
                quantity = panel.quantity(name, attribute, count.group)
                yield Item(
                    kind="group",
                    attribute=attribute,
                    group=count.group,
                    name=name,
                    quantity=quantity,
                )
        for name, gap in panel.gaps(attribute).items():
            yield Item(
                kind="gap",
                attribute=attribute,
                group=None,
                name=name,
                quantity=gap.quantity,
                gap=gap,
            )
