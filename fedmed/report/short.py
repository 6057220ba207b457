"""The answer in three sentences, for who reads no further: what is reached, and no ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.report import ranking
from fedmed.report.arms import Arm, reference
from fedmed.report.ranking import Level
from fedmed.report.words import epsilon_text, fixed, listed

_FEW: Final = 2
"""Protected arms of which the answer itself is short enough."""
_DIGITS: Final = 2


def in_short(arms: Sequence[Arm]) -> list[str]:
    """Without privacy, with it by epsilon, and each hospital alone; empty where arms are few.

    What the sentences name are values: which difference is shown is left to the answer below.
    """
    measured = [arm for arm in arms if arm.auroc is not None]
    federated = [arm for arm in measured if arm.private and arm.scheme == "federated"]
    levels, base = ranking.levels(federated), reference(measured)
    if base is None or base.private or sum(len(level.arms) for level in levels) <= _FEW:
        return []
    return [
        _without(base),
        _with([one for one in levels if one.unit == levels[0].unit]),
        *_alone(arms),
    ]


def _without(base: Arm) -> str:
    who = "the hospitals together reach" if base.scheme == "federated" else "pooled films give"
    seen = ", which is not shown to be better than guessing" if base.blind else ""
    reached = fixed(base.auroc, digits=_DIGITS)
    return f"Without privacy {who} an AUROC of {reached}{seen} (0.5 is guessing, 1 no mistake)."


def _with(levels: Sequence[Level]) -> str:
    parts = []
    for level in levels:
        seen = [arm for arm in level.arms if not arm.blind]
        low, high = (
            (fixed(of(arm.auroc or 0.0 for arm in seen), digits=_DIGITS) if seen else "")
            for of in (min, max)
        )
        reached = f"{low} to {high}" if low != high else low
        if len(seen) < len(level.arms):
            reached = f"{reached} or guessing" if seen else "no more than guessing"
        parts.append(f"{reached} at ε = {_epsilon(level)}")
    stronger = ": the smaller ε, the stronger the promise" if len(levels) > 1 else ""
    return f"With each {levels[0].unit} protected they reach {listed(parts)}{stronger}."


def _epsilon(level: Level) -> str:
    return epsilon_text(max(arm.axis_epsilon or 0.0 for arm in level.arms))


def _alone(arms: Sequence[Arm]) -> list[str]:
    evidence = next((arm.evidence for arm in arms if arm.evidence), None)
    if evidence is None or not evidence.alone or evidence.alone[0].before is None:
        return []
    alone = fixed(evidence.alone[0].before, digits=_DIGITS)
    return [f"A hospital alone, which shares nothing, reaches {alone} with its own patients."]
