"""The grid of clipped sums: sensitivity, range, noise and what is refused."""

import math

import numpy as np
import pytest
from support import refuses

from fedmed.privacy.mechanisms.grid import ROUNDING, Grid, added_delta


def grid(**changes: object) -> Grid:
    given = {"coordinates": 500, "clipping_norm": 1.0, "multiplier": 2.0, "hospitals": 5}
    return Grid(**{**given, "shares": 4, **changes})  # type: ignore[arg-type]  # by name


def test_rounding_comes_back_within_half_a_step() -> None:
    about, generator = grid(), np.random.default_rng(1)
    sums = (40 * generator.normal(size=500)).astype(np.float32)
    back = about.opened(about.rounded(sums))
    assert np.abs(back - sums).max() <= about.step * 0.5 + 1e-5
    assert about.step == pytest.approx(ROUNDING / math.sqrt(500))


def test_sums_of_all_hospitals_open_to_their_sum() -> None:
    about, generator = grid(), np.random.default_rng(2)
    sums = [(40 * generator.normal(size=500)).astype(np.float32) for _ in range(5)]
    total = sum((about.rounded(one) for one in sums), np.zeros(500, np.uint32))
    assert about.opened(total) == pytest.approx(np.sum(sums, axis=0), abs=3 * about.step)
    far = [np.full(500, -1e9, np.float32)] * 5  # cut, and never the other sign
    total = sum((about.rounded(one) for one in far), np.zeros(500, np.uint32))
    assert (about.opened(total) < -1e3 * about.step).all()


def test_the_noise_of_all_shares_is_that_of_one() -> None:
    """The variance of 5 x 40,000 draws over that of a share, within 4 standard deviations."""
    shares, one = grid(coordinates=40_000), grid(coordinates=40_000, shares=1)
    assert shares.deviation * 2 == pytest.approx(one.deviation)
    wanted = math.hypot(2.0 * one.sensitivity, 4.0)
    assert one.deviation == pytest.approx(wanted)
    zero = np.zeros(40_000, np.uint32)
    drawn = [shares.noised(zero, bytes([k] * 32)).view(np.int32) for k in range(5)]
    assert np.var(drawn) / shares.deviation**2 == pytest.approx(1, abs=4 * math.sqrt(2 / 200_000))
    assert np.var(np.sum(drawn[:4], axis=0)) == pytest.approx(one.deviation**2, rel=0.03)


def test_what_32_bits_cannot_carry_is_refused() -> None:
    words = ("privacy.epsilon", "does not fit whole numbers of 32 bits")
    refuses(lambda: grid(multiplier=1e6), *words)
    refuses(lambda: grid(multiplier=1e-9, coordinates=1), *words)
    assert grid(coordinates=11_000_000, multiplier=5.0).limit > 100 * grid().sensitivity


def test_every_part_of_the_grid_is_in_its_digest() -> None:
    changes = ({"coordinates": 501}, {"clipping_norm": 1.5}, {"multiplier": 2.1}, {"hospitals": 6},
               {"shares": 3})  # fmt: skip
    assert len({grid().digest(), *(grid(**change).digest() for change in changes)}) == 6
    assert grid().digest() == grid().digest()


def test_tables_add_less_to_delta_than_anyone_prints() -> None:
    assert 0 < added_delta(11_000_000, 100_000, 100, 20.0) < 1e-7
    assert added_delta(500, 50, 5, 1.0) < 1e-24
