"""Epsilon is never printed smaller than it is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.base.rounding import up, up_text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(8.004, 8.01), (7.9961, 8.0), (0.123401, 0.124), (2048.0, 2050), (8.0, 8.0), (0.29, 0.29)],
)
def test_known_values(value: float, shown: float) -> None:
    assert up(value) == shown


@given(st.floats(1e-6, 1e9))
def test_never_below_and_close(value: float) -> None:
    assert value * (1 - 1e-11) <= up(value) <= value * 1.0101
    assert float(f"{up(value):.3g}") == up(value)


def test_special_values_stay() -> None:
    assert up(0.0) == 0
    assert up(math.inf) == math.inf


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2048.0, "2,048"),
        (2048.01, "2,049"),
        (12_582_912.0, "12,582,912"),
        (999.5, "1,000"),
        (998.2, "999"),
        (8.001, "8.01"),
        (1e-5, "0.00001"),
        (math.inf, "inf"),
    ],
)
def test_text_has_thousands_and_no_exponent(value: float, text: str) -> None:
    assert up_text(value) == text
