"""The sum of updates: whatever the order, and no more memory for more hospitals."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from support import goes_red
from torch import Tensor

from fedmed.errors import RunError
from server.summing import WeightedSum

Updates = dict[str, dict[str, Tensor]]


def updates(count: int, size: int = 1000, seed: int = 0) -> Updates:
    """Of very different sizes, so that float32 sums depend on the order."""
    draw = torch.Generator().manual_seed(seed)
    return {
        f"h{i}": {"w": torch.randn(size, generator=draw) * 10.0 ** (i % 5 - 2)}
        for i in range(count)
    }


def summed(given: Updates, order: tuple[str, ...]) -> Tensor:
    total = WeightedSum()
    for name in order:
        total.add(name, given[name], 1 / 3)
    return total.over(total.weight)["w"]


def plain(given: Updates, order: tuple[str, ...]) -> Tensor:
    """Broken: a float32 sum in the order of arrival."""
    total = torch.zeros(1000)
    for name in order:
        total.add_(given[name]["w"], alpha=1 / 3)
    return total / (len(order) / 3)


def test_the_order_of_arrival_does_not_change_the_sum() -> None:
    """Exact to a unit in the last place: five of 120 orders, a thousand sums each."""
    given = updates(5)

    def check(kind: object) -> None:
        found = [kind(given, order) for order in itertools.islice(orders, 0, 120, 24)]  # type: ignore[operator]
        for other in found[1:]:
            differs = (found[0] != other).sum()
            assert differs <= 1, "a rounding that float64's last bits decide is one in millions"
            torch.testing.assert_close(found[0], other, rtol=2**-23, atol=0)

    orders = list(itertools.permutations(given))
    check(summed)
    goes_red(check, plain)


def test_the_sum_is_the_exact_one_rounded_once() -> None:
    given = updates(5)
    exact = [math.fsum(float(u["w"][i]) for u in given.values()) / 5 for i in range(1000)]
    found = summed(given, tuple(given)).numpy()
    assert np.mean(found != np.float32(exact)) < 0.002
    np.testing.assert_allclose(found, exact, rtol=2**-23)


def test_updates_are_neither_kept_nor_changed() -> None:
    """Memory after 40 updates is that after 2: the sum, whatever the number of hospitals."""
    import weakref

    total = WeightedSum()
    update = {"w": torch.ones(10)}
    seen = weakref.ref(update["w"])
    total.add("a", update, 2.0)
    assert update["w"].tolist() == [1.0] * 10
    del update
    assert seen() is None
    tracemalloc.start()
    for number in range(40):
        total.add(f"h{number}", {"w": torch.ones(10)}, 2.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000
    assert total.count == 41
    assert total.over(total.weight)["w"].tolist() == pytest.approx([1.0] * 10)


def test_nothing_is_no_sum() -> None:
    with pytest.raises(RunError, match="no hospital sent an update"):
        WeightedSum().over(1.0)
    with pytest.raises(RunError, match="weight nan"):
        WeightedSum().add("a", {"w": torch.ones(1)}, math.nan)
