"""What privacy does to gaps between sexes and age bands, in sentences: values before verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.evaluation.group_gaps import GAPS, RANGES
from fedmed.evaluation.metrics import METRICS
from fedmed.report import absent, people
from fedmed.report.arms import CHANCE, Arm, Group
from fedmed.report.evidence import Difference
from fedmed.report.groups import change
from fedmed.report.ranking import difference, family, holm
from fedmed.report.words import fixed, interval, listed, signed

_WORDS: Final = {"sex": "the sexes", "age": "age bands"}
_HEADLINES: Final = ("auroc_gap", "fnr_gap")  # what the sentence about groups looks at
_UNKNOWN: Final = "What privacy does to gaps between groups is not known"
_SPACE: Final = "\N{NO-BREAK SPACE}"


def sentences(private: Sequence[Arm], base: Arm | None) -> list[str]:
    """Where a gap changed most against no privacy, or why that is unknown; groups at chance.

    `private` are the arms with meaningful protection. Nothing is said to have stayed as it was: a
    widening is shown, or it is not shown, by the tests that were made.
    """
    if not private:
        return []
    if base is None or base.private:
        return [f"{_UNKNOWN}: there is no arm without privacy to compare with."]
    # A gap between groups means little where the model knows nothing.
    seeing = [arm for arm in private if not arm.blind]
    if base.blind or not seeing:
        who = f"{base.name}, without privacy, is not" if base.blind else "no arm with privacy is"
        return [f"{_UNKNOWN}: {who} shown to be better than chance, where a gap says little."]
    return [*_changed(seeing, base), *at_chance([base, *seeing])]


def at_chance(arms: Sequence[Arm]) -> list[str]:
    """Groups by sex and age of which a model is not shown to know anything; no sentence if none."""
    by_arm = {_under(arm): _blind_groups(arm) for arm in arms}
    told = [f"{under} for {listed(groups)}" for under, groups in by_arm.items() if groups]
    if not told:
        return []
    return [f"Not shown to be better than chance {'; '.join(told)}: a gap says little there."]


def _blind_groups(arm: Arm) -> list[str]:
    """The groups at chance under an arm, with their AUROCs."""
    return [
        f"{people.named(attribute, group.name)} ({fixed(auroc.value)}, {interval(*auroc.outer)})"
        for attribute in _WORDS
        for group in arm.groups(attribute)
        if group.name != "unknown"
        and (auroc := group.metrics.get("auroc")) is not None
        and auroc.reaches(CHANCE)
    ]


def _changed(seeing: Sequence[Arm], base: Arm) -> list[str]:
    changes = [
        one
        for attribute in _WORDS
        for arm in seeing
        for quantity in _HEADLINES
        if (one := change(arm, base, attribute, quantity)) is not None
        and one.change.value is not None
        and _values(one, seeing, base)
    ]
    if not changes:
        why = absent.gaps([base, *seeing], list(_WORDS))
        return [f"Gaps between sexes or age bands could not be compared: {why}."]
    tested = [one for one in changes if one.change.outer[0] is not None or one.p is not None]
    if not tested:
        return [_untested(changes, seeing, base)]
    text = _tested(tested, seeing, base)
    left = [arm.name for arm in seeing if arm.name not in {one.arm for one in tested}]
    return [text, *([f"Gaps were not tested under {listed(left)}."] if left else [])]


def _tested(changes: Sequence[Difference], seeing: Sequence[Arm], base: Arm) -> str:
    wider = [one for one in changes if one.distinguishable and (one.change.value or 0.0) > 0.0]
    one = max(wider or changes, key=lambda one: one.change.value or 0.0)
    values, size = _values(one, seeing, base), family(base)
    if wider:
        several = f"; {len(wider)} of {len(changes)} changes are clear" if len(wider) > 1 else ""
        return (
            f"{values} Privacy widens the {_gap(one)} most clearly under {one.arm}: "
            f"{fixed(one.before)} without privacy, {fixed(one.after)} with it "
            f"({difference(one, size, tested=True)}){several}."
        )
    return f"{values} {_not_shown(changes, one, size)}"


def _not_shown(changes: Sequence[Difference], one: Difference, size: int) -> str:
    """That no change is a widening beyond chance; `one` is the largest of them."""
    # Where an interval alone leaves zero out, chance is ruled out if that were the only question.
    alone = any(c.change.excludes_zero and (c.change.value or 0.0) > 0.0 for c in changes)
    verdict = (
        "a widening that stands once all comparisons are counted"
        if alone
        else "a widening that can be told from chance"
    )
    told = signed(one.change.value)
    if one.change.outer[0] is not None:
        told += f" (95{_SPACE}% interval {interval(*one.change.outer, sign=True)}{holm(one, size)})"
    elif one.p is not None:
        told += f" ({holm(one, size).removeprefix(', ')})"
    if len(changes) == 1:
        text = f"The change of the {_gap(one)}, {told}, is not {verdict}"
    else:
        tested = {change.attribute for change in changes}
        between = " and ".join(_WORDS[name] for name in _WORDS if name in tested)
        text = f"Of {len(changes)} changes of gaps between {between} that were tested, none is "
        text += f"{verdict}; the largest, of the {_gap(one)} under {one.arm}, is {told}"
    if one.detectable is not None and abs(one.change.value or 0.0) < one.detectable:
        text += f", and a change under {one.detectable:.3f} could not be seen with these patients"
    return text + "."


def _untested(changes: Sequence[Difference], seeing: Sequence[Arm], base: Arm) -> str:
    """Without a paired comparison: what was measured, and that nothing was tested."""
    aurocs = [one for one in changes if one.quantity == "auroc_gap"] or list(changes)
    one = max(aurocs, key=lambda one: one.change.value or 0.0)
    return (
        f"{_values(one, seeing, base)} Whether privacy changes gaps between groups was not tested: "
        f"of the {_gap(one)} the largest change is {signed(one.change.value)}."
    )


def _values(one: Difference, seeing: Sequence[Arm], base: Arm) -> str:
    """The two groups that a gap lies between under an arm, with both values with and without it.

    Empty where they are not recorded.
    """
    metric = RANGES[one.quantity]
    arm = next(arm for arm in seeing if arm.name == one.arm)
    here, there = (_known(of, one.attribute, metric) for of in (arm, base))
    both = [name for name in here if name in there]
    if len(both) < 2:
        return ""
    names = sorted(both, key=lambda name: _of(here[name], metric))
    low, high = names[0], names[-1]
    title = METRICS[metric].title
    first, second = (people.named(one.attribute, name) for name in (low, high))
    with_it = [fixed(_of(here[name], metric)) for name in (low, high)]
    without = [fixed(_of(there[name], metric)) for name in (low, high)]
    return (
        f"Under {arm.name} the {title} is {with_it[0]} for {first} and {with_it[1]} for {second}; "
        f"without privacy {without[0]} and {without[1]}."
    )


def _known(arm: Arm, attribute: str, metric: str) -> dict[str, Group]:
    return {
        group.name: group
        for group in arm.groups(attribute)
        if group.name != "unknown" and metric in group.metrics
    }


def _of(group: Group, metric: str) -> float:
    return group.metrics[metric].value or 0.0


def _under(arm: Arm) -> str:
    return f"under {arm.name}" if arm.private else "without privacy"


def _gap(one: Difference) -> str:
    return f"{GAPS[one.quantity].title} between {_WORDS[one.attribute]}"
