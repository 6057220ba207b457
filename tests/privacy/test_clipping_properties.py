"""What clipping promises of every update and every batch, whatever their size, form and numbers."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import SIZE, goes_red, make, refuses, tiny_network
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.privacy.gradients import ClippedSum, Engine, make_engine
from fedmed.privacy.mechanisms.updates import BadUpdate, clip


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Update = dict[str, Tensor]
Clip = Callable[[Update, float], Update]
# Beyond 2^127 a norm leaves float32 and the update becomes zero: bounded, but without direction.
LARGEST = 2.0**122
SHAPES = st.sampled_from([(), (0,), (1,), (5,), (2, 3), (0, 4), (2, 1, 2)])
BOUNDS = st.floats(1e-6, 1e6)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    """One to four arrays of one dtype; all their numbers share a magnitude, or do not."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    top = draw(st.sampled_from([0.0, 1e-40, 1e-20, 1e-3, 1.0, 1e3, 1e20, LARGEST]))
    found: Update = {}
    for number in range(draw(st.integers(1, 4))):
        shape = draw(SHAPES)
        values = draw(
            st.lists(st.floats(-1, 1), min_size=math.prod(shape), max_size=math.prod(shape))
        )
        array = torch.tensor(values, dtype=torch.float64) * top
        found[f"array-{number}"] = array.reshape(shape).to(dtype)
    return found


def numbers(update: Update) -> Any:
    """All numbers in float64."""
    return np.concatenate([v.double().numpy().ravel() for v in update.values()])


def check_clipped(clipped: Clip, update: Update, bound: float) -> None:
    kept = {name: value.clone() for name, value in update.items()}
    result = clipped(update, bound)
    before, after = numbers(update), numbers(result)
    size = float(np.linalg.norm(before))
    # float32 rounds each product; below its smallest number, 1.4e-45, nothing is left.
    tiny = 3e-45 * max(1.0, bound)
    assert np.isfinite(after).all()
    assert np.linalg.norm(after) <= bound * (1 + 1e-6) + 10 * tiny
    # Direction and all below the bound are kept.
    expected = before * min(1.0, bound / size) if size > 0 else before
    np.testing.assert_allclose(after, expected, rtol=1e-6, atol=tiny)
    for name, value in update.items():
        assert result[name].dtype == value.dtype
        assert result[name].shape == value.shape
        assert torch.equal(value, kept[name]), "the input is left as it was"
        assert size > bound or torch.equal(result[name], value), "not a bit changes below"
    np.testing.assert_allclose(numbers(clipped(result, bound)), after, rtol=1e-6, atol=tiny)


@given(updates(), BOUNDS)
@settings(max_examples=200, deadline=None)
@example({"w": torch.zeros(3), "b": torch.zeros(())}, 1.0)
@example({"w": torch.zeros(0)}, 1.0)
@example({"w": torch.full((4,), 1e-40)}, 1e-6)
@example({"w": torch.full((4,), 1e30, dtype=torch.float64)}, 1e-6)
def test_every_update_is_bounded_keeps_its_direction_and_is_clipped_once(
    update: Update, bound: float
) -> None:
    check_clipped(clip, update, bound)


def naive(update: Update, bound: float) -> Update:
    """No case for zero, and small updates are made larger."""
    size = math.sqrt(sum(float((v.double() ** 2).sum()) for v in update.values()))
    factor = bound / size if size else float("nan")
    return {name: (v * factor).to(v.dtype) for name, v in update.items()}


def in_float32(update: Update, bound: float) -> Update:
    """A norm in float32: large numbers overflow in its square."""
    size = torch.cat([v.float().flatten() for v in update.values()]).square().sum().sqrt()
    return {name: v * min(1.0, bound / float(size)) for name, v in update.items()}


def per_array(update: Update, bound: float) -> Update:
    """Every array on its own."""
    return {name: clip({name: v}, bound)[name] for name, v in update.items()}


def per_number(update: Update, bound: float) -> Update:
    """Numbers cut one by one: another direction."""
    count = sum(v.numel() for v in update.values())
    return {name: v.clamp(-bound / count**0.5, bound / count**0.5) for name, v in update.items()}


def in_place(update: Update, bound: float) -> Update:
    """The caller's own numbers are changed."""
    for name, value in clip(update, bound).items():
        update[name].copy_(value)
    return update


def not_at_all(update: Update, bound: float) -> Update:
    """Clipping skipped."""
    return {name: v.clone() for name, v in update.items()}


@pytest.mark.parametrize(
    ("broken", "update"),
    [
        (naive, {"w": torch.zeros(2)}),
        (naive, {"w": torch.tensor([0.1, 0.2])}),
        (in_float32, {"w": torch.full((4,), 1e30)}),
        (per_array, {"v": torch.tensor([1.0]), "w": torch.tensor([1.0])}),
        (per_number, {"w": torch.tensor([3.0, 0.1])}),
        (in_place, {"w": torch.tensor([3.0, 4.0])}),
        (not_at_all, {"w": torch.tensor([3.0, 4.0])}),
    ],
)
def test_broken_clipping_is_noticed(broken: Clip, update: Update) -> None:
    check_clipped(clip, update, 1.0)
    goes_red(check_clipped, broken, {name: v.clone() for name, v in update.items()}, 1.0)


def check_refused(clipped: Clip, update: Update) -> None:
    refuses(lambda: clipped(update, 1.0), error=BadUpdate)


@given(
    updates(),
    st.integers(0, 100),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
@settings(max_examples=100, deadline=None)
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(
    update: Update, position: int, bad: float
) -> None:
    total = sum(v.numel() for v in update.values())
    update["last"] = torch.zeros(1)
    flat = [value.view(-1) for value in update.values() if value.numel()]
    at = position % (total + 1)
    for row in flat:
        if at < len(row):
            row[at] = bad
            break
        at -= len(row)
    check_refused(clip, update)
    goes_red(check_refused, not_at_all, update)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_are_refused_even_where_they_are_zero(dtype: torch.dtype) -> None:
    for value in (0, 1):
        update = {"w": torch.ones(2), "num_batches_tracked": torch.tensor(value, dtype=dtype)}
        check_refused(clip, update)
        goes_red(check_refused, not_at_all, update)


@pytest.mark.parametrize("value", [1e160, 1e300])
def test_a_float64_update_whose_norm_is_beyond_its_range_is_refused(value: float) -> None:
    """Not an OverflowError, which nobody expects of an update."""
    for count in (1, 2):
        update = {"v": torch.full((count,), value, dtype=torch.float64), "w": torch.ones(1)}
        check_refused(clip, update)
        goes_red(check_refused, not_at_all, update)


# The gradient engine.

Sum = Callable[[Tensor, Tensor, float], ClippedSum]


def engine(network: nn.Module, physical: int = 16) -> Engine:
    return make_engine(make().privacy.engine, network, physical)


def length(gradients: dict[str, Tensor]) -> float:
    return float(np.linalg.norm(numbers(gradients)))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Up to four images of any magnitude, from all zero to far beyond what a network sees."""
    count = draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    images = torch.randn(count, 1, SIZE, SIZE, generator=generator)
    magnitudes = st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e3, 1e8])
    scales = draw(st.lists(magnitudes, min_size=count, max_size=count))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count))
    return images * torch.tensor(scales).view(-1, 1, 1, 1), torch.tensor(labels)


def check_batch(make_sum: Callable[[], Sum], images: Tensor, labels: Tensor, bound: float) -> None:
    """Each sample is at most C, along its own gradient; the sum is theirs, whoever is left out."""
    clipped_sum = make_sum()
    whole = clipped_sum(images, labels, bound)
    assert (whole.samples, whole.sensitivity) == (len(images), bound)
    network = tiny_network()
    parameters = dict(network.named_parameters())
    assert {n: g.shape for n, g in whole.gradients.items()} == {
        n: p.shape for n, p in parameters.items()
    }
    assert np.isfinite(numbers(whole.gradients)).all()
    total = np.zeros_like(numbers(whole.gradients))
    for i in range(len(images)):
        one = clipped_sum(images[i : i + 1], labels[i : i + 1], bound).gradients
        assert length(one) <= bound * (1 + 1e-5)
        total += numbers(one)
        logit = network(images[i : i + 1]).squeeze(1)
        loss = binary_cross_entropy_with_logits(logit, labels[i : i + 1])
        found = torch.autograd.grad(loss, list(parameters.values()))
        own = dict(zip(parameters, found, strict=True))
        size = length(own)
        expected = numbers(own) * (min(1.0, bound / size) if size else 1.0)
        np.testing.assert_allclose(
            numbers(one), expected, rtol=1e-3, atol=2e-4 * min(bound, size) + 1e-30
        )
        rest = [j for j in range(len(images)) if j != i]
        without = clipped_sum(images[rest], labels[rest], bound).gradients
        moved = length({n: whole.gradients[n] - without[n] for n in without})
        assert moved <= bound * (1 + 1e-3)
    # A layer before group norm sees a constant image's rounding errors 300 times as large.
    np.testing.assert_allclose(numbers(whole.gradients), total, rtol=1e-3, atol=2e-4 * bound)


@given(batches(), st.floats(1e-3, 1e3), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_every_sample_is_bounded_and_keeps_its_direction(
    batch: tuple[Tensor, Tensor], bound: float, physical: int
) -> None:
    used = engine(tiny_network(), physical)
    check_batch(lambda: used.clipped_sum, *batch, bound)


def without_clipping() -> Sum:
    used = engine(tiny_network())
    return lambda images, labels, bound: _renamed(used.clipped_sum(images, labels, 1e9), bound)


def clipped_as_a_batch() -> Sum:
    """The sum is clipped, not its samples."""
    used = engine(tiny_network())

    def clipped_sum(images: Tensor, labels: Tensor, bound: float) -> ClippedSum:
        found = used.clipped_sum(images, labels, 1e9)
        return _renamed(found, bound, clip(found.gradients, bound))

    return clipped_sum


def normalised() -> Sum:
    """Small gradients are made larger."""
    used = engine(tiny_network())

    def clipped_sum(images: Tensor, labels: Tensor, bound: float) -> ClippedSum:
        found = used.clipped_sum(images, labels, 1e-6)
        return _renamed(found, bound, {n: g * bound / 1e-6 for n, g in found.gradients.items()})

    return clipped_sum


def _renamed(found: ClippedSum, bound: float, gradients: Update | None = None) -> ClippedSum:
    return ClippedSum(gradients or found.gradients, bound, found.samples, found.clipped)


@pytest.mark.parametrize(
    ("broken", "bound"),
    [(without_clipping, 0.1), (clipped_as_a_batch, 0.1), (normalised, 100.0)],
)
def test_a_broken_engine_is_noticed(broken: Callable[[], Sum], bound: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, SIZE, SIZE, generator=generator)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
    check_batch(lambda: engine(tiny_network()).clipped_sum, images, labels, bound)
    goes_red(check_batch, broken, images, labels, bound)


def check_no_gradient_is_a_zero_sum(make_sum: Callable[[nn.Module], Sum]) -> None:
    """A network that is sure and right has gradients of exactly zero: not 0/0."""
    network = tiny_network()
    with torch.no_grad():
        network[4].weight.zero_()
        network[4].bias.fill_(1e4)
    found = make_sum(network)(torch.ones(2, 1, SIZE, SIZE), torch.ones(2), 1.0)
    assert length(found.gradients) == 0


def divides_by_the_norm(network: nn.Module) -> Sum:
    used = engine(network)

    def clipped_sum(images: Tensor, labels: Tensor, bound: float) -> ClippedSum:
        found = used.clipped_sum(images, labels, bound)
        size = torch.tensor(length(found.gradients))
        return _renamed(found, bound, {n: g / size * size for n, g in found.gradients.items()})

    return clipped_sum


def test_samples_without_gradient_sum_to_zero() -> None:
    check_no_gradient_is_a_zero_sum(lambda network: engine(network).clipped_sum)
    goes_red(check_no_gradient_is_a_zero_sum, divides_by_the_norm)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("name", ["fedmed", "loop", "opacus"])
def test_a_sample_whose_gradient_is_not_finite_is_left_out_without_a_word(
    bad: float, row: int, name: str
) -> None:
    """An error, or a sum that is not finite, would tell who is in the batch."""
    images, labels = torch.ones(3, 1, SIZE, SIZE), torch.tensor([0.0, 1.0, 0.0])
    images[row] = bad
    good = torch.tensor([j != row for j in range(3)])

    def check(clipped_sum: Sum) -> None:
        found = clipped_sum(images, labels, 1.0)
        assert (found.samples, found.dropped) == (3, 1)
        expected = make_engine("loop", tiny_network(), 4).clipped_sum(
            images[good], labels[good], 1.0
        )
        np.testing.assert_allclose(
            numbers(found.gradients), numbers(expected.gradients), rtol=1e-3, atol=1e-5
        )

    used = make_engine(name, tiny_network(), 4)
    check(used.clipped_sum)

    def refuses_it(images: Tensor, labels: Tensor, bound: float) -> ClippedSum:
        if not bool(torch.isfinite(images).all()):
            raise AssertionError("not finite")
        return used.clipped_sum(images, labels, bound)

    goes_red(check, refuses_it)
