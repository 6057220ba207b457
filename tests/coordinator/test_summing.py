"""The sum of updates: whatever the order, and no more memory for more hospitals."""

import math
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from support import goes_red
from torch import Tensor

from fedmed.base.errors import RunError
from fedmed.coordinator.summing import TrimmedSum, WeightedSum

Updates = dict[str, dict[str, Tensor]]


def updates(count: int, size: int = 1000, seed: int = 0) -> Updates:
    """Of very different sizes, so that sums depend on the order."""
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


def coarse(given: Updates, order: tuple[str, ...]) -> Tensor:
    """Broken: a sum in bfloat16, as updates may travel."""
    total = torch.zeros(1000, dtype=torch.bfloat16)
    for name in order:
        total.add_(given[name]["w"], alpha=1 / 3)
    return total.float() / (len(order) / 3)


def test_the_sum_is_the_exact_one_to_its_bound_in_any_order() -> None:
    """n 2^-24 of the sum of absolute values, divided as the sum is, and a rounding for that."""
    given = updates(100)
    exact = [math.fsum(float(u["w"][i]) for u in given.values()) / 100 for i in range(1000)]
    size = torch.stack([u["w"].abs() for u in given.values()]).double().sum(0) / 100
    bound = 102 * 2**-24 * size

    def check(kind: Callable[[Updates, tuple[str, ...]], Tensor]) -> None:
        names = tuple(given)
        for order in (names, names[::-1], names[50:] + names[:50]):
            error = (kind(given, order).double() - torch.tensor(exact, dtype=torch.float64)).abs()
            assert bool((error <= bound).all())

    check(summed)
    goes_red(check, coarse)


def test_a_precise_sum_is_the_exact_one_rounded_once() -> None:
    given = updates(5)
    exact = [math.fsum(float(u["w"][i]) for u in given.values()) / 5 for i in range(1000)]

    def check(precise: bool) -> None:
        total = WeightedSum(precise=precise)
        for name, update in given.items():
            total.add(name, update)
        found = total.over(5.0)["w"]
        assert found.dtype == torch.float32
        differs = found != torch.tensor(exact, dtype=torch.float64).float()
        assert float(differs.float().mean()) < 0.002

    check(True)
    goes_red(check, False)


def test_arrays_of_every_shape_lie_beside_each_other() -> None:
    given = {
        "matrix": torch.arange(6.0).reshape(2, 3),
        "scalar": torch.tensor(2.0),
        "none": torch.zeros(0, 3),
        "counts": torch.tensor([0.1], dtype=torch.float64),
    }
    total = WeightedSum()
    for name in "ab":
        total.add(name, given, 2.0)
    found = total.over(4.0)
    assert list(found) == list(given)
    assert all(torch.equal(found[n], v) and found[n].dtype == v.dtype for n, v in given.items())
    before = found["matrix"].clone()
    found["scalar"].add_(1.0)
    assert torch.equal(found["matrix"], before)


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


# A trimmed mean.


def trimmed(given: Updates, trim: int) -> Tensor:
    total = TrimmedSum(trim)
    for name, update in given.items():
        total.add(name, update)
    return total.over(total.weight)["w"]


@pytest.mark.parametrize(("count", "trim"), [(3, 1), (5, 2), (7, 1), (20, 4), (9, 4)])
def test_a_trimmed_mean_is_that_of_the_sorted_numbers(count: int, trim: int) -> None:
    given = updates(count, seed=count)
    ordered = torch.stack([one["w"] for one in given.values()]).double().sort(0).values
    expected = ordered[trim : count - trim].mean(0)
    assert torch.allclose(trimmed(given, trim).double(), expected, rtol=1e-5, atol=1e-5)


def test_who_sends_what_they_like_stays_within_the_others_numbers() -> None:
    given = updates(5)
    honest = torch.stack([given[name]["w"] for name in ("h0", "h1", "h2", "h3")])
    for sent in (3e38, -3e38, 1e10):
        given["h4"] = {"w": torch.full((1000,), sent)}

        def check(kind: Callable[[Updates], Tensor]) -> None:
            mean = kind(given)
            assert bool((mean >= honest.min(0).values).all())
            assert bool((mean <= honest.max(0).values).all())

        check(lambda told: trimmed(told, 1))
        goes_red(check, lambda told: summed(told, tuple(told)))


def test_trimming_changes_no_update_and_needs_a_middle() -> None:
    given = updates(4)
    before = {name: update["w"].clone() for name, update in given.items()}
    with pytest.raises(RunError, match=r"train.trim = 2 leaves none of the 4 updates that came"):
        trimmed(given, 2)
    trimmed(given, 1)
    assert all(torch.equal(given[name]["w"], before[name]) for name in given)
    with pytest.raises(RunError, match=r"h0 has the weight 2.0 in a trimmed mean"):
        TrimmedSum(1).add("h0", given["h0"], 2.0)
