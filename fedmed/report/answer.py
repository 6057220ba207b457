"""The answer of a comparison in three sentences computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.evaluation.group_gaps import GAPS
from fedmed.report import absent
from fedmed.report.arms import Arm, reference
from fedmed.report.evidence import Difference
from fedmed.report.groups import change
from fedmed.report.reading import number
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
        sentences.append(_reached(base))
    if private:
        sentences.append(_costs(private, base))
        others = [arm for arm in private if arm is not base]
        sentences += [_groups(others, base)] if others else []
    elif base is None:
        best = max(measured, key=lambda arm: arm.auroc or 0.0)
        sentences.append(f"The best arm, {best.name}, reaches {_measured(best)}.")
    return sentences


def cautions(arms: Sequence[Arm]) -> list[str]:
    """What a reader of the answer has to know beside it."""
    blind = _blind(arms)
    caveats = []
    if blind:
        names = listed([arm.name for arm in blind])
        caveats.append(f"Not shown to be better than chance (0.5): {names}.")
    if len(arms) > 1 and not any(arm.evidence for arm in arms):
        caveats.append(absent.comparison(arms))
    return caveats


def _reached(base: Arm) -> str:
    """What the arm that others are compared with reaches."""
    if base.private:
        return (
            f"No arm is without privacy: the others are compared with {base.name} "
            f"({guarantee(base)}), which reaches a test AUROC of {_measured(base)}."
        )
    name = "training together" if base.scheme == "federated" else f"the {base.scheme} baseline"
    return f"Without privacy, {name} ({base.name}) reaches a test AUROC of {_measured(base)}."


def _private(measured: Sequence[Arm]) -> list[Arm]:
    private = [arm for arm in measured if arm.private]
    return [arm for arm in private if arm.scheme == "federated"] or private


def _blind(arms: Sequence[Arm]) -> list[Arm]:
    """Arms whose interval does not leave chance below it, with or without privacy."""
    return [arm for arm in arms if arm.low is not None and arm.low <= _CHANCE]


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
    difference = arm.evidence.difference(arm.name, "metric", "auroc") if arm.evidence else None
    if difference is not None and difference.change.value is not None:
        return f" ({_difference(difference, _family(arm))})"
    change = signed(arm.auroc - base.auroc)
    overlap = (
        None not in (arm.low, arm.high, base.low, base.high)
        and (arm.low or 0.0) <= (base.high or 0.0)
        and (base.low or 0.0) <= (arm.high or 0.0)
    )
    return f" ({change}{', intervals overlap' if overlap else ''})"


def _difference(difference: Difference, family: int, *, tested: bool = False) -> str:
    """A difference with its interval, and whether it can be told from zero.

    Where interval and test disagree the p-value is told, as it is wherever `tested`: an interval
    looks at one difference, Holm's p at all `family` of them.
    """
    text = signed(difference.change.value)
    if difference.change.outer[0] is not None:
        text += f", 95{_SPACE}% interval {interval(*difference.change.outer, sign=True)}"
    if tested or difference.distinguishable != difference.change.excludes_zero:
        text += _holm(difference, family)
    if difference.distinguishable or difference.change.excludes_zero:
        return text
    text += ", not distinguishable from no change"
    if (
        difference.detectable is not None
        and abs(difference.change.value or 0.0) < difference.detectable
    ):
        text += f"; a change under {difference.detectable:.3f} could not be seen"
    return text


def _groups(private: Sequence[Arm], base: Arm | None) -> str:
    """Where a gap between sexes or age bands changed most against no privacy, or why unknown."""
    unknown = "What privacy does to gaps between groups is not known"
    if base is None or base.private:
        return f"{unknown}: there is no arm without privacy to compare with."
    # A gap between groups means little where the model knows nothing.
    seeing = [arm for arm in private if not _blind([arm])]
    if _blind([base]) or not seeing:
        who = f"{base.name} is not" if _blind([base]) else "no arm with privacy is"
        return f"{unknown}: {who} shown to be better than chance, where a gap says little."
    changes = [
        change_
        for attribute in _WORDS
        for arm in seeing
        for quantity in _HEADLINES
        if (change_ := change(arm, base, attribute, quantity)) is not None
        and change_.change.value is not None
    ]
    if not changes:
        why = absent.gaps([base, *seeing], list(_WORDS))
        return f"Gaps between sexes or age bands could not be compared: {why}."
    tested = [one for one in changes if one.change.outer[0] is not None or one.p is not None]
    return _tested(tested, _family(base)) if tested else _untested(changes)


def _tested(changes: Sequence[Difference], family: int) -> str:
    wider = [one for one in changes if one.distinguishable and (one.change.value or 0.0) > 0.0]
    if wider:
        one = max(wider, key=lambda one: one.change.value or 0.0)
        several = f"; {len(wider)} of {len(changes)} changes are clear" if len(wider) > 1 else ""
        return (
            f"Privacy widens the {_gap(one)} most clearly under {one.arm}: {fixed(one.before)} "
            f"without privacy, {fixed(one.after)} with it "
            f"({_difference(one, family, tested=True)}){several}."
        )
    one = max(changes, key=lambda one: one.change.value or 0.0)
    alone = any(one.change.excludes_zero and (one.change.value or 0.0) > 0.0 for one in changes)
    text = "No widening of a gap between sexes or age bands "
    if alone:  # chance could be ruled out if this one had been the only question
        text += "stands once all comparisons are counted"
    else:
        text += "can be told from chance"
    text += f"; the largest, of the {_gap(one)} under {one.arm}, is {signed(one.change.value)}"
    if one.change.outer[0] is not None:
        text += f" (95{_SPACE}% interval {interval(*one.change.outer, sign=True)}"
        text += f"{_holm(one, family)})"
    if one.detectable is not None and abs(one.change.value or 0.0) < one.detectable:
        text += f", and a change under {one.detectable:.3f} could not be seen with these patients"
    return text + "."


def _untested(changes: Sequence[Difference]) -> str:
    """Without a paired comparison: what was measured, and that chance is not ruled out."""
    aurocs = [one for one in changes if one.quantity == "auroc_gap"] or changes
    one = max(aurocs, key=lambda one: one.change.value or 0.0)
    if (one.change.value or 0.0) <= 0.0:
        return "No treatment widens the AUROC gap between sexes or age bands."
    return (
        f"The {_gap(one)} widens most under {one.arm}: {fixed(one.before)} without privacy, "
        f"{fixed(one.after)} with it; whether that is chance was not tested."
    )


def _gap(one: Difference) -> str:
    return f"{GAPS[one.quantity].title} between {_WORDS[one.attribute]}"


def _holm(one: Difference, family: int) -> str:
    if one.p_holm is not None:
        over = f" over {family} comparisons" if family > 1 else ""
        return f", p {p_value(one.p_holm)} after Holm{over}"
    return "" if one.p is None else f", p {p_value(one.p)}"


def _family(arm: Arm) -> int:
    """How many differences Holm's p-values correct for; 0 where it is not known."""
    return int(number(arm.evidence.family.get("size")) or 0) if arm.evidence else 0


def _measured(arm: Arm) -> str:
    text = fixed(arm.auroc)
    if arm.low is None or arm.high is None:
        return text
    return f"{text} (95{_SPACE}% interval {interval(arm.low, arm.high)})"
