"""Whether training together is worth it to a hospital, and how many of the ill are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.report.arms import Arm
from fedmed.report.evidence import Difference
from fedmed.report.ranking import difference
from fedmed.report.words import fixed, interval, listed, signed

_TOLD: Final = 4  # arms whose figures a sentence has room for
_SPACE: Final = "\N{NO-BREAK SPACE}"


def against_alone(arms: Sequence[Arm]) -> list[str]:
    """Which arms are shown to reach more within hospitals than hospitals alone, and which less."""
    evidence = next((arm.evidence for arm in arms if arm.evidence), None)
    names = {arm.name for arm in arms}
    told = [
        one
        for one in (evidence.alone if evidence else [])
        if one.arm in names and one.change.value is not None
    ]
    if not told:
        return []
    shown = [one for one in told if one.distinguishable]
    parts = [
        _part(verb, [one for one in shown if (one.change.value or 0.0) * sign > 0.0])
        for verb, sign in (("reaches more", 1.0), ("reaches less", -1.0))
    ]
    unclear = [one for one in told if one not in shown]
    if unclear:
        parts.append(f"no difference is shown for {_named(unclear)}")
    text = f"Each hospital alone reaches a mean AUROC of {fixed(told[0].before)} within hospitals: "
    return [text + "; ".join(part for part in parts if part) + "."]


def _part(verb: str, those: Sequence[Difference]) -> str:
    return f"training together {verb} under {_named(those)}" if those else ""


def _named(those: Sequence[Difference]) -> str:
    """Names with their differences; of many arms the differences alone of first and last."""
    if len(those) == 1:
        return f"{those[0].arm} ({difference(those[0], len(those))})"
    if len(those) <= _TOLD:
        return listed([f"{one.arm} ({signed(one.change.value)})" for one in those])
    changes = sorted(one.change.value or 0.0 for one in those)
    return (
        f"{len(those)} arms, {those[0].arm} to {those[-1].arm} ({signed(changes[0])} to "
        f"{signed(changes[-1])})"
    )


def sensitivity(arms: Sequence[Arm]) -> list[str]:
    """The share of the ill that arms which know something find at their thresholds."""
    seeing = [(arm, arm.measure("sensitivity")) for arm in arms if not arm.blind]
    known = [(arm, told) for arm, told in seeing if told.value is not None]
    if len(known) > _TOLD:  # the whole table stands below
        known = [known[0], min(known[1:], key=lambda one: one[1].value or 0.0)]
    if not known:
        return []
    each = []
    for arm, told in known:
        text = f"{fixed(told.value)} under {arm.name}"
        if told.outer[0] is not None:
            text += f" (95{_SPACE}% interval {interval(*told.outer)})"
        each.append(text)
    return [
        f"Of the ill test images, thresholds chosen on validation patients find {listed(each)}."
    ]
