"""Views of a batch: whole images moved or mirrored, each on its own, none of them lost."""

import numpy as np
import pytest
import torch
from support import goes_red
from torch import Tensor

from fedmed.training.augmentation import augment, seeded


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def draws(number: int = 0) -> np.random.Generator:
    return seeded(number, ("h", 1))


def test_none_is_the_batch_itself_and_views_are_consecutive() -> None:
    images = batch(3, 1, 4, 4)
    assert augment(images, "none", 1, draws()) is images
    repeated = augment(images, "none", 2, draws())
    assert torch.equal(repeated, images[[0, 0, 1, 1, 2, 2]])


@pytest.mark.parametrize("shape", [(400, 1, 5, 6), (400, 2, 3, 4, 5)])
def test_a_flip_mirrors_half_of_the_images_left_to_right(shape: tuple[int, ...]) -> None:
    """Half of 400 within five standard errors: a false alarm once in a million."""
    images = batch(*shape)
    found = augment(images, "flip", 1, draws())
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert abs(int(mirrored.sum()) - 200) < 50


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_shift_moves_each_axis_on_its_own_and_repeats_the_border(dimensions: int) -> None:
    side = 16  # moves of -2 to 2
    images = torch.zeros(300, 1, *[side] * dimensions)
    centre = (slice(None), 0, *[8] * dimensions)
    images[centre] = 1
    found = augment(images, "shift", 1, draws())
    assert found.shape == images.shape
    where = found.nonzero()
    assert len(where) == 300
    for axis in range(dimensions):
        assert set(where[:, 2 + axis].tolist()) == {6, 7, 8, 9, 10}
    moves = where[:, 2:].sub(8)
    assert len(torch.unique(moves, dim=0)) > 3 * dimensions * 2  # not along a diagonal
    ramp = torch.arange(side).float().expand(50, 1, *[side] * (dimensions - 1), side)
    ends = augment(ramp, "shift", 1, draws())[..., 0, :]
    assert float(ends.min()) == 0
    assert float(ends.max()) == side - 1


def test_views_differ_and_the_seed_fixes_them() -> None:
    images = batch(2, 1, 16, 16)

    def check(number: int) -> None:
        first, again = (augment(images, "flip-shift", 4, draws(n)) for n in (0, number))
        assert torch.equal(first, again)

    check(0)
    goes_red(check, 1)
    found = augment(images, "flip-shift", 4, draws())
    assert len(torch.unique(found[:4].flatten(1), dim=0)) > 1
    assert not torch.equal(found[:4], found[4:])


def test_an_empty_batch_stays_empty() -> None:
    assert augment(torch.zeros(0, 1, 8, 8), "flip-shift", 3, draws()).shape == (0, 1, 8, 8)
