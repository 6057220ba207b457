"""Rounding that never makes a guarantee look stronger than it is."""

import math


def up(value: float, digits: int = 3) -> float:
    """``value`` rounded up to ``digits`` significant digits; 0 and infinity stay as they are.

    >>> up(8.004), up(7.9961), up(0.123401)
    (8.01, 8.0, 0.124)
    """
    if value == 0 or not math.isfinite(value):
        return value
    exponent = math.floor(math.log10(abs(value))) - digits + 1
    # Decimal steps are not exact in binary: what already is a step must not go one further.
    steps = value / 10**exponent
    whole = round(steps)
    if not math.isclose(steps, whole, rel_tol=1e-12):
        whole = math.ceil(steps)
    return float(f"{whole}e{exponent}")


def up_text(value: float, digits: int = 3) -> str:
    """``value`` rounded up to ``digits`` digits as text: thousands grouped, never with an exponent.

    What has more digits before its point is rounded up to a whole number.

    >>> up_text(8.004), up_text(2048), up_text(1234.5), up_text(0.00002)
    ('8.01', '2,048', '1,235', '0.00002')
    """
    if not math.isfinite(value):
        return f"{value:g}"
    if value > 10**digits - 1:
        return f"{math.ceil(value):,}"
    rounded = up(value, digits)
    text = f"{rounded:.{digits}g}"
    return text if "e" not in text else f"{rounded:.20f}".rstrip("0")
