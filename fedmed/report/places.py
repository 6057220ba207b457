"""What local noise costs against central noise, and what distributed noise gives back of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedmed.report.arms import Arm
from fedmed.report.evidence import Difference, change_from
from fedmed.report.reading import Json, number, rows, table, texts
from fedmed.report.words import (
    delta_text,
    epsilon_text,
    fixed,
    interval,
    listed,
    p_value,
    signed,
)

_NOISE: Final = {
    "central": "noise at the server",
    "local": "noise at each hospital",
    "distributed": "noise in shares of the hospitals",
}
_COST: Final = ("central", "local")
_BACK: Final = ("local", "distributed")
_LEFT: Final = ("central", "distributed")
_PAIRS: Final = (_COST, _BACK, _LEFT)
_WHOLE: Final = 2  # epsilons of a unit that are told in full; of more the smallest is
_SPACE: Final = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Arms of one guarantee by the place of their noise, and their differences by two places."""

    unit: str
    epsilon: float
    delta: float
    arms: Mapping[str, Arm]
    left_out: Sequence[str]
    changes: Mapping[tuple[str, str], Difference]
    family: int

    def named(self, place: str) -> str:
        """Noise at this place with the arm that has it."""
        arm = self.arms[place]
        chance = ", not shown to be better than chance" if arm.blind else ""
        return f"{_NOISE[place]} ({arm.name}{chance})"

    def blind(self, pair: tuple[str, str]) -> bool:
        """Whether both arms are at chance, so that their difference says nothing."""
        return all(self.arms[place].blind for place in pair if place in self.arms)

    def change(self, pair: tuple[str, str]) -> Difference | None:
        """The difference of two places; None where it is not known or both are at chance."""
        return None if self.blind(pair) else self.changes.get(pair)

    def direction(self, pair: tuple[str, str]) -> int:
        """1 where the second place is shown to reach more, -1 where less, 0 where neither is."""
        change = self.change(pair)
        if change is None or not change.distinguishable:
            return 0
        return 1 if (change.change.value or 0.0) > 0.0 else -1

    def told(self, pair: tuple[str, str]) -> str:
        """The difference with its interval and test, and what the test could not have seen."""
        one = self.changes[pair]
        p = one.p if one.p_holm is None else one.p_holm
        parts = [signed(one.change.value)]
        if one.change.outer[0] is not None:
            parts.append(interval(*one.change.outer, sign=True))
        if p is not None:
            parts.append(f"p {p_value(p)}")
        text = ", ".join(parts)
        if one.distinguishable:
            return f"({text})"
        if one.change.excludes_zero and one.p is not None:
            return f"({text}, {p_value(one.p)} alone: not shown once all comparisons are counted)"
        if one.detectable is not None and one.detectable >= 1.0:  # AUROCs differ by less
            text += "; no difference could have been seen"
        elif one.detectable is not None and abs(one.change.value or 0.0) < one.detectable:
            text += f"; one under {one.detectable:.3f} could not be seen"
        return f"({text})"


def sentences(arms: Sequence[Arm]) -> list[str]:
    """What the place of the noise changes, a paragraph for each unit and delta with two places.

    A gain is called given back only of a loss that is shown, and epsilons are not compared.
    """
    evidence = next((arm.evidence for arm in arms if arm.evidence), None)
    if evidence is None:
        return []
    by_name = {arm.name: arm for arm in arms}
    tests = [row for level in evidence.places for row in rows(level, "differences")]
    family = sum(number(row.get("p")) is not None for row in tests)
    levels = [_level(told, by_name, family) for told in evidence.places]
    groups: dict[tuple[str, float], list[_Level]] = {}
    for level in levels:
        if level is not None:
            groups.setdefault((level.unit, level.delta), []).append(level)
    return [_of_unit(sorted(group, key=lambda one: one.epsilon)) for group in groups.values()]


def _level(told: Json, by_name: Mapping[str, Arm], family: int) -> _Level | None:
    """A guarantee of the file; None where fewer than two of its arms are here and compared."""
    epsilon, delta = number(told.get("epsilon")), number(told.get("delta"))
    arms = {
        place: by_name[name]
        for place in _NOISE
        if (name := str(table(told, "arms").get(place))) in by_name
    }
    place_of = {arm.name: place for place, arm in arms.items()}
    changes = {}
    for row in rows(told, "differences"):
        pair = place_of.get(str(row.get("from")), ""), place_of.get(str(row.get("to")), "")
        change = change_from({**row, "arm": row.get("to"), "quantity": told.get("quantity")})
        if pair in _PAIRS and change.change.value is not None:
            changes[pair] = change
    if epsilon is None or delta is None or not changes:
        return None
    return _Level(
        unit=str(told.get("unit")),
        epsilon=epsilon,
        delta=delta,
        arms=arms,
        left_out=[name for name in texts(told, "left_out") if name in by_name],
        changes=changes,
        family=family,
    )


def _of_unit(levels: Sequence[_Level]) -> str:
    full = levels if len(levels) <= _WHOLE else levels[:1]
    text = " ".join(_whole(level) for level in full)
    if len(full) < len(levels):
        text += f" {_range(levels[1:])}"
    left_out = list(dict.fromkeys(name for level in levels for name in level.left_out))
    if left_out:
        text += f" Of arms with noise at one place the first counts; left out: {listed(left_out)}."
    changes = [one for level in levels for pair in level.changes if (one := level.change(pair))]
    if not changes:
        return text
    size = levels[0].family
    over = f" over {size} comparisons" if size > 1 else ""
    text += (
        " Recipes differ too, not only the place of the noise. In brackets: difference on the same "
        f"test images, 95{_SPACE}% interval, p after Holm{over}."
    )
    return text + _trained(levels, changes)


def _whole(level: _Level) -> str:
    """One guarantee in full: the cost of local noise, then what distributed noise changes."""
    at = f"At ε = {epsilon_text(level.epsilon)} per {level.unit}, δ = {delta_text(level.delta)}, "
    if all(arm.blind for arm in level.arms.values()):
        return f"{at}{_neither(level, list(level.arms))}: there is nothing to compare."
    if _COST not in level.changes:
        return f"{at}{level.named('distributed')} {_against(level)}."
    return f"{at}{_cost(level)}. {_back(level)}".strip()


def _neither(level: _Level, places: Sequence[str]) -> str:
    names = [f"{_NOISE[place]} ({level.arms[place].name})" for place in places]
    return f"neither {' nor '.join(names)} is shown to be better than chance"


def _cost(level: _Level) -> str:
    """What local noise costs against central noise, without a full stop."""
    change = level.changes[_COST]
    local, central = level.named("local"), level.named("central")
    if level.blind(_COST):
        return f"{_neither(level, ('local', 'central'))}: there is no cost to see"
    after, before, told = fixed(change.after), fixed(change.before), level.told(_COST)
    direction = level.direction(_COST)
    if direction < 0:
        cost = fixed(abs(change.change.value or 0.0))
        return f"{local} costs {cost} of AUROC against {central}: {after} against {before} {told}"
    if direction > 0:
        return f"{local} reaches more AUROC than {central}: {after} against {before} {told}"
    return (
        f"no difference is shown between {local} and {central}: AUROC {after} and {before} {told}"
    )


def _back(level: _Level) -> str:
    """What distributed noise gives back of a loss that is shown, else how it compares."""
    if "distributed" not in level.arms:
        return ""
    distributed = level.named("distributed")
    if level.blind(_COST):
        return f"{_capital(distributed)} {_against(level)}."
    if level.direction(_COST) >= 0:
        return f"No loss is shown that {distributed} could give back: it {_against(level)}."
    direction = level.direction(_BACK)
    left = f"; it {_against(level, (_LEFT,))}." if _LEFT in level.changes else "."
    if _BACK not in level.changes or level.blind(_BACK):
        return f"What {distributed} gives back of it cannot be seen{left}"
    told = level.told(_BACK)
    if direction > 0:
        back, cost = (level.changes[pair].change.value or 0.0 for pair in (_BACK, _COST))
        size = "as much as that or more" if back >= -cost else f"{fixed(back)} of it"
        return f"{_capital(distributed)} gives back {size} {told}{left}"
    if direction < 0:
        return f"{_capital(distributed)} costs still more {told}{left}"
    return f"That {distributed} gives any of it back is not shown {told}{left}"


def _against(level: _Level, pairs: Sequence[tuple[str, str]] = (_BACK, _LEFT)) -> str:
    """How distributed noise compares with that of other places, as what is said of it."""
    verbs = {1: "reaches more than", -1: "reaches less than", 0: "is not shown to differ from"}
    parts: list[str] = []
    for pair in (pair for pair in pairs if pair in level.changes):
        if level.blind(pair):
            parts.append(f"is at chance, as {_NOISE[pair[0]]} is")
        else:
            parts.append(f"{verbs[level.direction(pair)]} {_NOISE[pair[0]]} {level.told(pair)}")
    return ", and ".join(parts)


def _range(levels: Sequence[_Level]) -> str:
    """The larger epsilons together: their range of differences, and which of them are shown."""
    ends = [epsilon_text(level.epsilon) for level in (levels[0], levels[-1])]
    parts = []
    for pair in _PAIRS:
        values = sorted(
            one.change.value or 0.0 for level in levels if (one := level.change(pair)) is not None
        )
        if values:
            reach = dict.fromkeys(signed(value) for value in (values[0], values[-1]))
            parts.append(f"{' to '.join(reach)} ({_NOISE[pair[1]]} minus {_NOISE[pair[0]]})")
    start = f"At the {len(levels)} larger epsilons, {' to '.join(ends)} per {levels[0].unit}, "
    if not parts:
        return f"{start}all are at chance: there is nothing to compare."
    text = f"{start}AUROC differs by {listed(parts)}. {_shown(levels)}"
    chance = [
        epsilon_text(level.epsilon)
        for level in levels
        if all(arm.blind for arm in level.arms.values())
    ]
    if chance:
        text += f" At ε = {listed(chance)} none is shown to be better than chance."
    return text


def _shown(levels: Sequence[_Level]) -> str:
    """Which of the differences of several guarantees are shown."""
    parts = []
    for pair in _PAIRS:
        for sign, verb in ((-1, "reaches less than"), (1, "reaches more than")):
            at = [epsilon_text(one.epsilon) for one in levels if one.direction(pair) == sign]
            if at:
                noise = f"{_NOISE[pair[1]]} {verb} {_NOISE[pair[0]]}"
                parts.append(f"{noise} at ε = {listed(at)}")
    if parts:
        return f"Of these is shown: {'; '.join(parts)}."
    changes = [one for level in levels for pair in level.changes if (one := level.change(pair))]
    sizes = sorted(min(1.0, one.detectable) for one in changes if one.detectable is not None)
    if not sizes:
        return "None of these differences is shown."
    reach = dict.fromkeys(f"{size:.3f}" for size in (sizes[0], sizes[-1]))
    return f"None of these differences is shown; one under {' to '.join(reach)} could not be seen."


def _trained(levels: Sequence[_Level], changes: Sequence[Difference]) -> str:
    """That intervals do not hold the luck of training, where they do not."""
    if all(one.change.both_low is not None for one in changes):
        return ""
    if all(len(arm.runs) == 1 for level in levels for arm in level.arms.values()):
        return " Each of them was trained once: no interval holds the luck of training."
    return " Where arms have fewer than two seeds in common no interval holds the luck of training."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
