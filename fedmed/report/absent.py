"""Why numbers are not there, in words: a part that is left out is named, never dropped silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.report.arms import Arm
from fedmed.report.reading import dig

_UNKNOWN: Final = "unknown"


def from_histograms(arm: Arm) -> bool:
    """Whether its numbers come from hospitals' histograms of scores, not from predictions."""
    return any(dig(result, "metrics", "source") == "histograms" for result in arm.results)


def comparison(arms: Sequence[Arm]) -> str:
    """Why differences between arms have no intervals of their own; one sentence."""
    if all(from_histograms(arm) for arm in arms):
        return (
            "The arms were not compared on the same resamples: hospitals sent histograms and no "
            "predictions, so each arm has intervals of its own and differences have none."
        )
    return (
        "The arms were not compared on the same resamples (comparison.json is absent): "
        "differences have no intervals of their own here."
    )


def changes(arms: Sequence[Arm], base: Arm | None, attributes: Sequence[str]) -> str:
    """Why no change of a gap is shown; empty where one arm alone leaves nothing to compare."""
    if len(arms) < 2:
        return ""
    if base is None:
        return "there is no arm without privacy to compare with"
    return gaps(arms, attributes)


def gaps(arms: Sequence[Arm], attributes: Sequence[str]) -> str:
    """Why no gap of these attributes could be compared between the arms, without a full stop."""
    groups = [group for arm in arms for name in attributes for group in arm.groups(name)]
    known = [group for group in groups if group.name != _UNKNOWN]
    if not groups:
        return "the results hold no groups of patients"
    if not known:
        return "the test images do not say to which group their patients belong"
    measured = {
        (arm.name, name)
        for arm in arms
        for name in attributes
        if sum(bool(g.metrics) for g in arm.groups(name) if g.name != _UNKNOWN) > 1
    }
    if not measured:
        notes = list(dict.fromkeys(group.note for group in known if group.note))
        told = f" ({', '.join(notes)})" if notes else ""
        return f"no two groups have enough images with and without disease{told}"
    without = [arm.name for arm in arms if arm.name not in {name for name, _ in measured}]
    if without:
        return f"{', '.join(without)} has no two groups with enough images to be compared"
    return "no gap has a number both with and without privacy"
