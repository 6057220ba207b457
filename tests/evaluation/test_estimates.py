"""Estimates over seeds keep within what the number can be."""

import numpy as np
import pytest

from fedmed.evaluation.estimates import estimate, estimate_share
from fedmed.evaluation.quantity import Quantity


def test_a_share_has_no_limit_beyond_nought_and_one() -> None:
    """AUROCs of three trainings, 0.39 to 0.65: Student t with two degrees of freedom passes 1."""
    values = np.array([0.391, 0.646, 0.648])
    samples = values + np.random.default_rng(0).normal(0.0, 0.03, (400, 1))
    quantity = Quantity(("0", "1", "2"), values, samples, lambda: np.full((900, 3), 0.001))
    free, told = estimate(quantity), estimate_share(quantity)
    assert free["both_high"] > 1.0
    assert (told["both_high"], told["training_low"]) == (1.0, pytest.approx(free["training_low"]))
    assert told["both_low"] == pytest.approx(max(0.0, free["both_low"]))
    assert {**told, "both_high": None} == {**free, "both_high": None}
