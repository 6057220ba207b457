"""Numbers and guarantees in words, and the answer of a comparison in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from fedmed.report.arms import Arm, reference
from fedmed.rounding import up

_NAME: Final = 22  # characters of an arm's name that figures have room for
_CHANCE: Final = 0.5
ABSENT: Final = "\N{EN DASH}"
_MINUS: Final = "\N{MINUS SIGN}"
_UNCLAIMED: Final = {"none": "no differential privacy", "brightness-shift": "no DP claim"}


def fixed(value: float | None, absent: str = ABSENT, digits: int = 3) -> str:
    """A number with fixed decimals and a true minus sign; `absent` for None."""
    return absent if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def thousands(value: float | None) -> str:
    """A whole number with its thousands grouped; a dash for None."""
    return ABSENT if value is None else f"{value:,.0f}"


def signed(value: float | None, absent: str = ABSENT) -> str:
    """A difference with its sign."""
    if value is None:
        return absent
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", _MINUS)


def epsilon_text(value: float | None) -> str:
    """Epsilon rounded up to three digits, thousands grouped, no exponent; a dash for None."""
    if value is None:
        return ABSENT
    return f"{math.ceil(value):,}" if value > 999 else f"{up(value):.3g}"


def short(name: str) -> str:
    """An arm's name cut to what a figure has room for."""
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def guarantee(arm: Arm) -> str:
    """Epsilon with its unit and delta, or that there is no claim."""
    if arm.epsilon is None:
        return _UNCLAIMED.get(arm.kind, "no claim")
    text = f"ε = {epsilon_text(arm.epsilon)} per {arm.unit}"
    return text if arm.delta is None else f"{text}, δ = {delta_text(arm.delta)}"


def delta_text(value: float | None) -> str:
    """Delta in two digits, as 1e-5; a dash for None."""
    if value is None:
        return ABSENT
    value = up(value, 2)
    if value == 0.0 or value >= 0.001:
        return f"{value:.2g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def answer(arms: Sequence[Arm]) -> list[str]:
    """What the comparison found, in two to four sentences computed from its numbers."""
    measured = [arm for arm in arms if arm.auroc is not None]
    private = [arm for arm in measured if arm.private]
    private = [arm for arm in private if arm.scheme == "federated"] or private
    base = reference(measured)
    if not measured:
        return ["No arm has a test AUROC yet, so there is no answer yet."]
    sentences: list[str] = []
    if base is not None:
        sentences.append(
            f"Without privacy, training together ({base.name}) reaches a test AUROC of "
            f"{_with_interval(base)}."
        )
    if private:
        sentences.append(_costs(private, base))
        blind = [arm for arm in private if arm.low is not None and arm.low <= _CHANCE]
        if blind:
            names = _list([arm.name for arm in blind])
            sentences.append(f"Not shown to be better than chance (0.5): {names}.")
        # A gap between groups means little where the model knows nothing.
        widest = _fairness([arm for arm in private if arm not in blind], base)
        if widest:
            sentences.append(widest)
    elif base is None:
        best = max(measured, key=lambda arm: arm.auroc or 0.0)
        sentences.append(f"The best arm, {best.name}, reaches {_with_interval(best)}.")
    return sentences


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
    if base is None or arm.auroc is None or base.auroc is None:
        return ""
    change = signed(arm.auroc - base.auroc)
    overlap = (
        None not in (arm.low, arm.high, base.low, base.high)
        and (arm.low or 0.0) <= (base.high or 0.0)
        and (base.low or 0.0) <= (arm.high or 0.0)
    )
    return f" ({change}{', intervals overlap' if overlap else ''})"


def _fairness(private: Sequence[Arm], base: Arm | None) -> str:
    """Where the range of AUROC over sexes or age bands changed most against no privacy."""
    if base is None:
        return ""
    changes = []
    for attribute, words in (("sex", "the sexes"), ("age", "age bands")):
        before = base.metric("fairness", attribute, "auroc_gap")
        for arm in private:
            after = arm.metric("fairness", attribute, "auroc_gap")
            if before is not None and after is not None:
                changes.append((after - before, before, after, arm.name, words))
    if not changes:
        return ""
    change, before, after, name, words = max(changes, key=lambda item: item[0])
    if change <= 0.0:
        return "No treatment widens the AUROC gap between sexes or age bands."
    return (
        f"The AUROC gap between {words} widens most under {name}: "
        f"{fixed(before)} without privacy, {fixed(after)} with it."
    )


def _with_interval(arm: Arm) -> str:
    text = fixed(arm.auroc)
    if arm.low is None or arm.high is None:
        return text
    return f"{text} (95 % interval {fixed(arm.low)} to {fixed(arm.high)})"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
