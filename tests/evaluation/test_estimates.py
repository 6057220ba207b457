"""Estimates over seeds keep within what the number can be."""

import numpy as np

from fedmed.evaluation.intervals.estimates import cut_difference, estimate, estimate_share
from fedmed.evaluation.intervals.quantity import Quantity


def test_a_share_has_no_limit_beyond_nought_and_one() -> None:
    """Three trainings, 0.30 to 0.82: Student t with two degrees of freedom passes both."""
    values = np.array([0.30, 0.80, 0.82])
    samples = values + np.random.default_rng(0).normal(0.0, 0.03, (400, 1))
    quantity = Quantity(("0", "1", "2"), values, samples, lambda: np.full((900, 3), 0.001))
    free, told = estimate(quantity), estimate_share(quantity)
    bounds = {"training_low": 0.0, "training_high": 1.0, "both_low": 0.0, "both_high": 1.0}
    for key, bound in bounds.items():
        assert (free[key] < 0.0) if bound == 0.0 else (free[key] > 1.0)
    assert told == free | bounds


def test_a_difference_of_shares_has_no_limit_beyond_one() -> None:
    """Two trainings that disagree: Student t with one degree of freedom reaches twelve times."""
    values = np.array([-0.15, 0.18])
    samples = values + np.random.default_rng(0).normal(0.0, 0.03, (400, 1))
    quantity = Quantity(("0", "1"), values, samples, lambda: np.full((900, 2), 0.001))
    free = estimate(quantity)
    told = cut_difference(free)
    assert free["both_low"] < -1.0
    assert free["both_high"] > 1.0
    assert (told["both_low"], told["both_high"]) == (-1.0, 1.0)
    assert (told["training_low"], told["training_high"]) == (-1.0, 1.0)
    for key in ("value", "low", "high", "training_sd", "seeds"):
        assert told[key] == free[key]
    alone = Quantity(("0",), values[:1], samples[:, :1], lambda: np.full((900, 1), 0.001))
    assert cut_difference(estimate(alone)) == estimate(alone)
