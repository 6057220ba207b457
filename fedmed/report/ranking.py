"""What privacy costs, unit by unit and epsilon by epsilon: arms are compared within one of each.

An epsilon per patient, per image and per hospital are different promises, and a smaller epsilon is
a stronger one: across them nothing is ranked. Nor is what gives no meaningful protection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fedmed.evaluation.metrics import METRICS
from fedmed.privacy.statement.meaning import MOST
from fedmed.report.arms import Arm
from fedmed.report.evidence import Difference
from fedmed.report.reading import number
from fedmed.report.words import (
    epsilon_text,
    fixed,
    guarantee,
    interval,
    listed,
    p_value,
    signed,
    too_weak,
)

_UNITS: Final = ("patient", "image", "hospital")
_ALIKE: Final = 1.25  # the largest epsilon over the smallest of arms at about one epsilon
_LEVELS: Final = 3  # of a unit that are told; of more the first and the last
_SPACE: Final = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Level:
    """Arms of one unit at about one epsilon, the highest AUROC first."""

    unit: str
    arms: list[Arm]

    @property
    def best(self) -> Arm | None:
        """The arm that is shown to reach more than each of the others; None where none is.

        Its outer interval lies above all others, and above chance. For two intervals of 95 % and
        about one width that is a test at 0.6 % (Schenker & Gentleman 2001), and a stricter one for
        arms on the same images, so that the best of up to eight is not the best by luck
        (Bonferroni). ``comparison.json`` tests arms against the baseline, and places of noise.
        """
        first, *others = self.arms
        low = first.estimate.outer[0]
        highs = [arm.estimate.outer[1] for arm in others]
        if not others or first.blind or low is None or None in highs:
            return None
        return first if all(low > high for high in highs if high is not None) else None


def levels(arms: Sequence[Arm]) -> list[Level]:
    """Arms with an AUROC and meaningful protection by unit and, smallest first, by epsilon."""
    grouped = []
    for unit in _UNITS:
        told = [
            arm for arm in arms if arm.unit == unit and arm.meaningful and arm.auroc is not None
        ]
        runs: list[list[Arm]] = []
        for arm in sorted(told, key=_at):
            if runs and _at(arm) <= _ALIKE * _at(runs[-1][0]):
                runs[-1].append(arm)
            else:
                runs.append([arm])
        grouped += [
            Level(unit=unit, arms=sorted(run, key=lambda arm: -(arm.auroc or 0.0))) for run in runs
        ]
    return grouped


def costs(private: Sequence[Arm], base: Arm | None) -> list[str]:
    """A sentence or more for each unit; one that says so where nothing is protected."""
    every = levels(private)
    if not every:
        why = "gives meaningful protection"
        if any(arm.mixed for arm in private):
            why = "has one guarantee for all hospitals that is meaningful protection"
        return [f"What privacy costs is not known: no treatment {why}."]
    return [
        _of_unit([level for level in every if level.unit == unit], base)
        for unit in dict.fromkeys(level.unit for level in every)
    ]


def unprotected(arms: Sequence[Arm]) -> str:
    """The sentence on arms that are in no ranking; empty where there are none."""
    weak = [f"{arm.name} ({too_weak(arm)})" for arm in arms if arm.weak]
    mixed = [f"{arm.name} ({guarantee(arm)})" for arm in arms if arm.mixed]
    sentences = []
    if weak:
        sentences.append(
            f"Without meaningful protection (ε above {MOST:g}, or no claim) and so in no ranking: "
            f"{listed(weak)}."
        )
    if mixed:
        sentences.append(f"Without one guarantee for all, and so in no ranking: {listed(mixed)}.")
    return " ".join(sentences)


def difference(told: Difference, family: int, *, tested: bool = False) -> str:
    """A difference with its interval, and whether it can be told from zero.

    Where interval and test disagree the p-value is told, as it is wherever `tested`: an interval
    looks at one difference, Holm's p at all `family` of them.
    """
    text = signed(told.change.value)
    if told.change.outer[0] is not None:
        text += f", 95{_SPACE}% interval {interval(*told.change.outer, sign=True)}"
    if tested or told.distinguishable != told.change.excludes_zero:
        text += holm(told, family)
    if told.change.excludes_zero and not told.distinguishable and told.p is not None:
        return f"{text}, {p_value(told.p)} alone: not shown once all comparisons are counted"
    if told.distinguishable or told.change.excludes_zero:
        return text
    text += ", not distinguishable from no change"
    if told.detectable is not None and abs(told.change.value or 0.0) < told.detectable:
        text += f"; a change under {told.detectable:.3f} could not be seen"
    return text


def holm(told: Difference, family: int) -> str:
    """The p-value of a difference as a clause, after Holm where there is one."""
    if told.p_holm is not None:
        over = f" over {family} comparisons" if family > 1 else ""
        return f", p {p_value(told.p_holm)} after Holm{over}"
    return "" if told.p is None else f", p {p_value(told.p)}"


def family(arm: Arm) -> int:
    """How many differences Holm's p-values correct for; 0 where it is not known."""
    return int(number(arm.evidence.family.get("size")) or 0) if arm.evidence else 0


def measured(arm: Arm) -> str:
    """An arm's AUROC with its interval over patients, as the table of arms has it."""
    text = fixed(arm.auroc)
    if arm.low is None or arm.high is None:
        return text
    return f"{text} (95{_SPACE}% interval {interval(arm.low, arm.high)})"


def _at(arm: Arm) -> float:
    return arm.axis_epsilon or 0.0


def _of_unit(of_unit: Sequence[Level], base: Arm | None) -> str:
    if len(of_unit) <= _LEVELS:
        return " ".join(_level(level, base) for level in of_unit)
    between = len(of_unit) - 2
    low, high = (epsilon_text(_at(of_unit[place].arms[0])) for place in (1, -2))
    return (
        f"{_level(of_unit[0], base)} {_level(of_unit[-1], base)} AUROC against epsilon has the "
        f"{between} epsilons between, {low} to {high} per {of_unit[0].unit}."
    )


def _level(level: Level, base: Arm | None) -> str:
    """What the arms of one unit at about one epsilon reach, and which is best if that is shown."""
    if len(level.arms) == 1:
        (arm,) = level.arms
        verb = "reaches" if base is None or arm is base else "keeps"
        if arm.blind:
            return f"{arm.name} ({guarantee(arm)}) {_unseen(arm)}."
        reached = measured(arm) if base is None else f"{fixed(arm.auroc)}{_loss(arm, base)}"
        return f"{arm.name} ({guarantee(arm)}) {verb} {reached}."
    at, alone = _shared(level)

    def told(arm: Arm) -> str:
        reached = f"{arm.name}{alone(arm)}"
        return (
            f"{reached} {_unseen(arm)}"
            if arm.blind
            else f"{reached} {fixed(arm.auroc)}" + _loss(arm, base)
        )

    best = level.best
    if best is not None:
        others = listed([told(arm) for arm in level.arms[1:]])
        text = (
            f"{at}, {best.name}{alone(best)} keeps the most: {fixed(best.auroc)}"
            f"{_loss(best, base)}; its interval lies above that of {others}."
        )
    else:
        text = f"{at}: {'; '.join(told(arm) for arm in level.arms)}. "
        if not all(arm.blind for arm in level.arms):
            text += f"Which of them is best is not shown{_why(level)}."
    return text.strip() + _trusted(level)


def _why(level: Level) -> str:
    """Why no arm of a level is called the best."""
    first, *others = level.arms
    if any(arm.estimate.outer[0] is None for arm in level.arms):
        return ": not all have an interval"
    low = first.estimate.outer[0] or 0.0
    beside = [arm.name for arm in others if (arm.estimate.outer[1] or 0.0) >= low]
    return f": the intervals of {listed([first.name, *beside])} overlap" if beside else ""


def _shared(level: Level) -> tuple[str, Callable[[Arm], str]]:
    """Where the arms stand in common, and what each has of its own."""
    guarantees = {guarantee(arm) for arm in level.arms}
    if len(guarantees) == 1:
        return f"At {guarantees.pop()}", lambda arm: ""
    return f"At about one epsilon per {level.unit}", lambda arm: f" ({guarantee(arm)})"


def _trusted(level: Level) -> str:
    """Whom the arms trust, where that differs."""
    if len({arm.trust for arm in level.arms}) == 1:
        return ""
    return f" Trusted: {'; '.join(f'{arm.trust}, under {arm.name}' for arm in level.arms)}."


def _unseen(arm: Arm) -> str:
    """That an arm knows nothing, with the interval that says so."""
    text = f"is not shown to be better than chance: {fixed(arm.auroc)}"
    return f"{text} (95{_SPACE}% interval {interval(*arm.estimate.outer)})"


def _loss(arm: Arm, base: Arm | None) -> str:
    """What it loses against the reference, and whether that was tested or intervals overlap."""
    if base is None or arm is base or arm.auroc is None or base.auroc is None:
        return ""
    paired = arm.evidence.headline(arm.name) if arm.evidence else None
    if paired is not None and paired.change.value is not None:
        within = "" if paired.quantity == "auroc" else f"{METRICS[paired.quantity].title} "
        return f" ({within}{difference(paired, family(arm))})"
    change = signed(arm.auroc - base.auroc)
    overlap = (
        None not in (arm.low, arm.high, base.low, base.high)
        and (arm.low or 0.0) <= (base.high or 0.0)
        and (base.low or 0.0) <= (arm.high or 0.0)
    )
    return f" ({change}{', intervals overlap' if overlap else ', not tested'})"
