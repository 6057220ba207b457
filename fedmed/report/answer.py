"""The answer of a comparison in three sentences computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.report.arms import Arm, reference
from fedmed.report.evidence import Difference
from fedmed.report.groups import GAPS, change
from fedmed.report.words import fixed, guarantee, interval, listed, p_value, signed

_CHANCE: Final = 0.5
_SPACE: Final = "\N{NO-BREAK SPACE}"
_WORDS: Final = {"sex": "the sexes", "age": "age bands"}
_HEADLINES: Final = ("auroc_gap", "fnr_gap")  # what the sentence about groups looks at


def answer(arms: Sequence[Arm]) -> list[str]:
    """What training together reaches, what privacy costs, and what it does to groups.

    A difference that its interval cannot tell from zero is called that.
    """
    measured = [arm for arm in arms if arm.auroc is not None]
    if not measured:
        return ["No arm has a test AUROC yet, so there is no answer yet."]
    private = _private(measured)
    base = reference(measured)
    sentences: list[str] = []
    if base is not None:
        name = "training together" if base.scheme == "federated" else f"the {base.scheme} baseline"
        sentences.append(
            f"Without privacy, {name} ({base.name}) reaches a test AUROC of {_measured(base)}."
        )
    if private:
        sentences.append(_costs(private, base))
        blind = _blind(private)
        # A gap between groups means little where the model knows nothing.
        groups = _groups([arm for arm in private if arm not in blind and arm is not base], base)
        if groups:
            sentences.append(groups)
    elif base is None:
        best = max(measured, key=lambda arm: arm.auroc or 0.0)
        sentences.append(f"The best arm, {best.name}, reaches {_measured(best)}.")
    return sentences


def cautions(arms: Sequence[Arm]) -> list[str]:
    """What a reader of the answer has to know beside it."""
    blind = _blind(_private([arm for arm in arms if arm.auroc is not None]))
    found = []
    if blind:
        names = listed([arm.name for arm in blind])
        found.append(f"Not shown to be better than chance (0.5): {names}.")
    if len(arms) > 1 and not any(arm.evidence for arm in arms):
        found.append(
            "The arms were not compared on the same resamples (comparison.json is absent): "
            "differences have no intervals of their own here."
        )
    return found


def _private(measured: Sequence[Arm]) -> list[Arm]:
    private = [arm for arm in measured if arm.private]
    return [arm for arm in private if arm.scheme == "federated"] or private


def _blind(private: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in private if arm.low is not None and arm.low <= _CHANCE]


def _costs(private: Sequence[Arm], base: Arm | None) -> str:
    """The private arms that cost least and most; one sentence."""
    # An arm that promises nothing is no answer where others promise something.
    private = [arm for arm in private if arm.epsilon is not None] or private
    best = max(private, key=lambda arm: arm.auroc or 0.0)
    worst = min(private, key=lambda arm: arm.auroc or 0.0)
    text = f"Of the treatments compared, {best.name} ({guarantee(best)}) keeps the most: "
    text += f"{fixed(best.auroc)}{_loss(best, base)}"
    if worst is not best:
        text += f"; {worst.name} ({guarantee(worst)}) keeps the least: "
        text += f"{fixed(worst.auroc)}{_loss(worst, base)}"
    return text + "."


def _loss(arm: Arm, base: Arm | None) -> str:
    if base is None or arm is base or arm.auroc is None or base.auroc is None:
        return ""
    found = arm.evidence.difference(arm.name, "metric", "auroc") if arm.evidence else None
    if found is not None and found.change.value is not None:
        return f" ({_difference(found)})"
    change = signed(arm.auroc - base.auroc)
    overlap = (
        None not in (arm.low, arm.high, base.low, base.high)
        and (arm.low or 0.0) <= (base.high or 0.0)
        and (base.low or 0.0) <= (arm.high or 0.0)
    )
    return f" ({change}{', intervals overlap' if overlap else ''})"


def _difference(found: Difference) -> str:
    """A difference with its interval, and whether it can be told from zero."""
    text = signed(found.change.value)
    if found.change.outer[0] is not None:
        text += f", 95{_SPACE}% interval {interval(*found.change.outer, sign=True)}"
    if found.distinguishable:
        return text
    text += ", not distinguishable from no change"
    if found.detectable is not None and abs(found.change.value or 0.0) < found.detectable:
        text += f"; a change under {found.detectable:.3f} could not be seen"
    return text


def _groups(private: Sequence[Arm], base: Arm | None) -> str:
    """Where a gap between sexes or age bands changed most against no privacy."""
    if base is None:
        return ""
    found = [
        change_
        for attribute in _WORDS
        for arm in private
        for quantity in _HEADLINES
        if (change_ := change(arm, base, attribute, quantity)) is not None
        and change_.change.value is not None
    ]
    if not found:
        return ""
    tested = [one for one in found if one.change.outer[0] is not None or one.p is not None]
    return _tested(tested) if tested else _untested(found)


def _tested(found: Sequence[Difference]) -> str:
    wider = [one for one in found if one.distinguishable and (one.change.value or 0.0) > 0.0]
    if wider:
        one = max(wider, key=lambda one: one.change.value or 0.0)
        several = f"; {len(wider)} of {len(found)} changes are clear" if len(wider) > 1 else ""
        return (
            f"Privacy widens the {_gap(one)} most clearly under {one.arm}: {fixed(one.before)} "
            f"without privacy, {fixed(one.after)} with it ({_difference(one)}"
            f"{_holm(one)}){several}."
        )
    one = max(found, key=lambda one: one.change.value or 0.0)
    text = (
        "No widening of a gap between sexes or age bands can be told from chance; the largest, "
        f"of the {_gap(one)} under {one.arm}, is {signed(one.change.value)}"
    )
    if one.change.outer[0] is not None:
        text += f" (95{_SPACE}% interval {interval(*one.change.outer, sign=True)}{_holm(one)})"
    if one.detectable is not None and abs(one.change.value or 0.0) < one.detectable:
        text += f", and a change under {one.detectable:.3f} could not be seen with these patients"
    return text + "."


def _untested(found: Sequence[Difference]) -> str:
    """Without a paired comparison: what was measured, and that chance is not ruled out."""
    aurocs = [one for one in found if one.quantity == "auroc_gap"] or found
    one = max(aurocs, key=lambda one: one.change.value or 0.0)
    if (one.change.value or 0.0) <= 0.0:
        return "No treatment widens the AUROC gap between sexes or age bands."
    return (
        f"The {_gap(one)} widens most under {one.arm}: {fixed(one.before)} without privacy, "
        f"{fixed(one.after)} with it; whether that is chance was not tested."
    )


def _gap(one: Difference) -> str:
    name = GAPS[one.quantity]
    name = name if name.startswith("AUROC") else name.lower()
    return f"{name} between {_WORDS[one.attribute]}"


def _holm(one: Difference) -> str:
    if one.p_holm is not None:
        return f", p {p_value(one.p_holm)} after Holm"
    return "" if one.p is None else f", p {p_value(one.p)}"


def _measured(arm: Arm) -> str:
    text = fixed(arm.auroc)
    if arm.low is None or arm.high is None:
        return text
    return f"{text} (95{_SPACE}% interval {interval(arm.low, arm.high)})"
