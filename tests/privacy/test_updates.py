"""Clipping and noise of an update: bounds, refusals, and the scale of what is added."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import goes_red, refuses
from torch import Tensor

from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.updates import BadUpdate, GaussianNoise, clip, finite, norm

Update = dict[str, Tensor]
Clip = Callable[[Update, float], Update]


def naive_clip(update: Update, clipping_norm: float) -> Update:
    """Pitfall 3: no case for zero, NaN passes, every array counts."""
    size = torch.sqrt(sum((v.double() ** 2).sum() for v in update.values()))  # type: ignore[arg-type]  # sum starts at the number 0
    factor = clipping_norm / size
    return {name: (v * factor).float() for name, v in update.items()}


def check_zero_stays_zero(clipped: Clip) -> None:
    result = clipped({"w": torch.zeros(3), "b": torch.zeros(())}, 1.0)
    assert all(bool((v == 0).all()) for v in result.values())


def check_bad_numbers_are_refused(clipped: Clip) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        update = {"w": torch.tensor([1.0, bad])}
        refuses(lambda update=update: clipped(update, 1.0), error=BadUpdate)


def check_integers_are_refused(clipped: Clip) -> None:
    update = {"w": torch.ones(2), "num_batches_tracked": torch.tensor(1000)}
    refuses(lambda: clipped(update, 1.0), "num_batches_tracked", error=BadUpdate)


def check_below_the_bound_nothing_changes(clipped: Clip) -> None:
    update = {"w": torch.tensor([0.3, -0.4])}
    assert torch.equal(clipped(update, 1.0)["w"], update["w"])


@pytest.mark.parametrize(
    "check",
    [
        check_zero_stays_zero,
        check_bad_numbers_are_refused,
        check_integers_are_refused,
        check_below_the_bound_nothing_changes,
    ],
)
def test_clipping_of_odd_updates(check: Callable[[Clip], None]) -> None:
    check(clip)
    goes_red(check, naive_clip)


# Above 2^127 the norm of several numbers leaves the range of float32, and they become 0.
numbers = st.floats(-(2.0**122), 2.0**122, width=32)
arrays = st.lists(st.lists(numbers, max_size=6), min_size=1, max_size=4)
bounds = st.floats(1e-6, 1e6)


def check_norm_bound(clipped: Clip, rows: list[list[float]], bound: float) -> None:
    update = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(rows)}
    before = np.concatenate([v.double().numpy() for v in update.values()])
    result = clipped(update, bound)
    after = np.concatenate([v.double().numpy() for v in result.values()])
    size = np.linalg.norm(before)
    assert list(result) == list(update)
    # float32 rounds each product; its smallest number, 1.4e-45, is multiplied by the bound.
    tiny = 3e-45 * max(1.0, bound)
    assert np.linalg.norm(after) <= bound * (1 + 1e-6) + 20 * tiny
    expected = before * min(1.0, bound / size) if size > 0 else before
    np.testing.assert_allclose(after, expected, rtol=1e-6, atol=tiny)


@given(arrays, bounds)
@settings(max_examples=150, deadline=None)
def test_no_update_leaves_above_the_norm(rows: list[list[float]], bound: float) -> None:
    check_norm_bound(clip, rows, bound)


def test_clipping_every_array_on_its_own_is_noticed() -> None:
    def per_array(update: Update, bound: float) -> Update:
        return {name: clip({"x": v}, bound)["x"] for name, v in update.items()}

    goes_red(check_norm_bound, per_array, [[3.0], [4.0]], 1.0)


def test_the_norm_runs_over_all_arrays() -> None:
    assert norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == 5.0
    assert norm({"a": torch.full((4,), 1e30)}) == pytest.approx(2e30)


def test_finite_sees_every_array() -> None:
    assert finite({"a": torch.ones(2), "b": torch.zeros(0)})
    assert not finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])})
    assert not finite({"a": torch.tensor([float("inf"), -float("inf")])})


def test_a_clipping_norm_of_zero_names_the_key() -> None:
    refuses(lambda: clip({"a": torch.ones(1)}, 0.0), "privacy.clipping-norm")


COORDINATES = 200_000


def check_noise_scale(added: Tensor, expected: float) -> None:
    """Five standard errors each: a false alarm once in a million keys (the key here is fixed)."""
    error = expected / np.sqrt(COORDINATES)
    assert abs(float(added.mean())) < 5 * error
    assert abs(float(added.std()) - expected) < 5 * error / np.sqrt(2)


def test_noise_has_the_scale_that_it_says() -> None:
    update = {"a": torch.full((COORDINATES // 2,), 7.0), "b": torch.zeros(2, COORDINATES // 4)}
    noised = GaussianNoise(0.25).add(update, NoiseSource(1).normals("test"))
    added = torch.cat([(noised[n] - update[n]).flatten() for n in update])
    check_noise_scale(added, 0.25)
    goes_red(check_noise_scale, added, 0.25 * 1.02)
    goes_red(check_noise_scale, added, 0.25**2)
    assert torch.equal(update["a"], torch.full((COORDINATES // 2,), 7.0)), "the input is kept"


def test_two_arrays_never_share_their_noise() -> None:
    zeros = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    noised = GaussianNoise(1.0).add(zeros, NoiseSource(1).normals("test"))

    def check(first: Tensor, second: Tensor) -> None:
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 5 / 1000**0.5

    check(noised["a"], noised["b"])
    goes_red(check, noised["a"], noised["a"] * 2)
