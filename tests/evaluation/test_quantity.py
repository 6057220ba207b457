import math

import numpy as np
import pytest

from fedmed.evaluation.intervals.quantity import Quantity, average, largest, smallest, spread


def number(*values: float, seed: int) -> Quantity:
    generator = np.random.default_rng(seed)
    influence = generator.normal(size=(4, len(values)))
    samples = np.array(values) + generator.normal(size=(5, len(values)))
    names = tuple("ab"[: len(values)])
    return Quantity(names, np.array(values), samples, lambda: influence)


def test_differences_are_taken_resample_by_resample() -> None:
    one, two = number(3.0, 1.0, seed=0), number(1.0, 5.0, seed=1)
    gap = one - two
    assert gap.values.tolist() == [2.0, -4.0]
    assert np.array_equal(gap.samples, one.samples - two.samples)
    assert np.array_equal(gap.influence, one.influence - two.influence)


def test_selection_and_mean_keep_the_order_asked_for() -> None:
    both = number(3.0, 1.0, seed=0)
    turned = both.select(["b", "a"])
    assert turned.values.tolist() == [1.0, 3.0]
    assert np.array_equal(turned.samples, both.samples[:, ::-1])
    assert np.array_equal(turned.influence, both.influence[:, ::-1])
    mean = both.mean()
    assert mean.values.tolist() == [2.0]
    assert mean.samples[:, 0] == pytest.approx(both.samples.mean(axis=1))
    assert mean.influence[:, 0] == pytest.approx(both.influence.mean(axis=1))


def test_spread_is_taken_anew_in_each_resample_with_the_influence_of_the_extremes() -> None:
    groups = [number(0.1, 0.9, seed=0), number(0.5, 0.2, seed=1), number(0.3, 0.4, seed=2)]
    found = spread(groups)
    assert found.values == pytest.approx([0.4, 0.7])
    table = np.stack([group.samples for group in groups])
    assert found.samples == pytest.approx(np.ptp(table, axis=0))
    assert found.influence[:, 0] == pytest.approx(
        groups[1].influence[:, 0] - groups[0].influence[:, 0]
    )
    assert found.influence[:, 1] == pytest.approx(
        groups[0].influence[:, 1] - groups[1].influence[:, 1]
    )
    assert (largest(groups) - smallest(groups)).samples == pytest.approx(found.samples)


def test_an_undefined_group_makes_the_range_undefined_there_only() -> None:
    one, two = number(0.1, 0.9, seed=0), number(math.nan, 0.2, seed=1)
    one.samples[2, 1] = math.nan
    found = spread([one, two])
    assert math.isnan(found.values[0])
    assert found.values[1] == pytest.approx(0.7)
    assert np.isnan(found.samples[:, 1]).tolist() == [False, False, True, False, False]
    assert found.influence.shape == (4, 2)


def test_macro_average_is_over_quantities_not_columns() -> None:
    found = average([number(0.2, 0.4, seed=0), number(0.4, 0.8, seed=1)])
    assert found.values == pytest.approx([0.3, 0.6])
    wanted = (number(0.0, 0.0, seed=0).influence + number(0.0, 0.0, seed=1).influence) / 2
    assert found.influence == pytest.approx(wanted)
