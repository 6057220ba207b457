"""Pitfall 45: noise missing after a dropout, a sum that wraps around, rounding that adds."""

import math

import numpy as np
import pytest
from support import goes_red

from fedmed.privacy.mechanisms.grid import ROUNDING, Grid
from fedmed.privacy.plans import SummedPlan


def plan(threshold: int = 12, colluding: int = 2) -> SummedPlan:
    return SummedPlan(
        placement="shares", unit="patient", units=400, rate=0.5, expected_batch=200,
        steps_per_round=1, rounds=50, clipping_norm=1.0, noise_multiplier=5.0, delta=1e-5,
        hospitals=20, threshold=threshold, colluding=colluding,
    )  # fmt: skip


def test_pitfall_45_noise_that_is_missing_after_a_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fewest survivors, of whom the colluders took theirs away, the noise is whole."""

    def check() -> None:
        for threshold, colluding in ((12, 2), (20, 1), (11, 0), (16, 8)):
            grid = plan(threshold, colluding).grid(500)
            left = (threshold - colluding) * grid.deviation**2
            assert left >= (5.0 * grid.sensitivity) ** 2
            # By draws of those who are left: 500 coordinates, 4 standard deviations.
            zero = np.zeros(500, np.uint32)
            shares = [grid.noised(zero, bytes([k] * 32)) for k in range(threshold - colluding)]
            drawn = sum(shares, zero).view(np.int32).astype(float)
            whole = (5.0 * grid.sensitivity) ** 2
            assert drawn.var() > whole * (1 - 4 * math.sqrt(2 / 500))

    check()
    monkeypatch.setattr(SummedPlan, "honest", property(lambda self: self.hospitals))
    goes_red(check)


def test_pitfall_45_a_sum_that_wraps_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """All hospitals at their limit, and the noise at 8 deviations, keep their sign."""

    def check() -> None:
        for multiplier in (0.5, 5.0, 500.0):
            grid = Grid(coordinates=64, clipping_norm=1.0, multiplier=multiplier, hospitals=20,
                        shares=10)  # fmt: skip
            for sign in (1.0, -1.0):
                far = grid.rounded(np.full(64, sign * 1e12, np.float32))
                noise = round(sign * 8 * grid.deviation * math.sqrt(20))
                total = far * np.uint32(20) + np.array(noise, dtype=np.int64).astype(np.uint32)
                assert (total.view(np.int32) == sign * 20 * grid.limit + noise).all()
                assert (np.sign(grid.opened(total)) == sign).all()

    check()
    monkeypatch.setattr(Grid, "limit", property(lambda self: 2**31 - 1))
    goes_red(check)


def test_pitfall_45_rounding_that_adds_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums that differ by one clipped gradient, as unlucky on the grid as can be."""

    def check() -> None:
        grid = Grid(coordinates=400, clipping_norm=1.0, multiplier=2.0, hospitals=5, shares=4)
        step, generator, most = grid.step, np.random.default_rng(1), 0.0
        for number in range(200):
            gradient = generator.normal(size=400)
            if number % 2:  # all alike, a little over a whole number of steps
                gradient = np.sign(gradient) * (math.floor(0.05 / step) + 1e-3) * step
            gradient *= min(1.0, 1.0 / np.linalg.norm(gradient))
            sums = step * (np.round(generator.normal(size=400) * 1000) + 0.5)
            sums -= np.sign(gradient) * step * 5e-4
            there, here = (np.rint(value / step) for value in (sums + gradient, sums))
            most = max(most, float(np.linalg.norm(there - here)))
            assert np.linalg.norm(there - here) <= grid.sensitivity
        assert most > grid.sensitivity * 0.995

    check()
    without = property(lambda self: math.sqrt(self.coordinates) / ROUNDING)
    monkeypatch.setattr(Grid, "sensitivity", without)
    goes_red(check)
