"""Numbers and guarantees as the report writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedmed.base.rounding import up, up_text
from fedmed.config import ARMS
from fedmed.report.arms import Arm

_NAME: Final = 22  # characters of an arm's name that figures have room for
ABSENT: Final = "\N{EN DASH}"
_MINUS: Final = "\N{MINUS SIGN}"


def fixed(value: float | None, absent: str = ABSENT, digits: int = 3) -> str:
    """A number with fixed decimals and a true minus sign; `absent` for None."""
    return absent if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def listed(names: Sequence[str]) -> str:
    """Names with commas and a last "and"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def thousands(value: float | None) -> str:
    """A whole number with its thousands grouped; a dash for None."""
    return ABSENT if value is None else f"{value:,.0f}"


def signed(value: float | None, absent: str = ABSENT) -> str:
    """A difference with its sign."""
    if value is None:
        return absent
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", _MINUS)


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """The two ends of an interval; a dash where it is not known."""
    if low is None or high is None:
        return ABSENT
    form = signed if sign else fixed
    return f"{form(low)} to {form(high)}"


def p_value(value: float | None) -> str:
    """A p-value in two digits, never 0; a dash for None."""
    if value is None:
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def epsilon_text(value: float | None) -> str:
    """Epsilon rounded up to three digits, thousands grouped, no exponent; a dash for None."""
    return ABSENT if value is None else up_text(value)


def share(value: float | None) -> str:
    """A share in percent, rounded up to two digits; a dash for None."""
    return ABSENT if value is None else f"{100 * up(value, 2):.3g} %"


def short(name: str) -> str:
    """An arm's name cut to what a figure has room for."""
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def guarantee(arm: Arm) -> str:
    """Epsilon with its unit and delta, or that there is no claim.

    Where arms of its unit are compared at another epsilon, that one stands beside it.
    """
    if arm.mixed:
        return "each hospital's own guarantee"
    if arm.epsilon is None:
        return (arm.kind in ARMS and ARMS[arm.kind].unclaimed) or "no claim"
    text = f"ε = {epsilon_text(arm.epsilon)} per {arm.unit}"
    if arm.axis_epsilon != arm.epsilon:
        text += f", {epsilon_text(arm.axis_epsilon)} if its data are replaced"
    return text if arm.delta is None else f"{text}, δ = {delta_text(arm.delta)}"


def too_weak(arm: Arm) -> str:
    """The guarantee of an arm without meaningful protection, with what makes it too weak."""
    text, of_patient = guarantee(arm), arm.patient_epsilon
    if of_patient is None:
        return text
    return f"{text}; {epsilon_text(of_patient)} for a patient's images together"


def delta_text(value: float | None) -> str:
    """Delta in two digits, as 1e-5; a dash for None."""
    if value is None:
        return ABSENT
    value = up(value, 2)
    if value == 0.0 or value >= 0.001:
        return f"{value:.2g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
