"""Volumes to cubes and slices: window, spacing, crop, pad; and what does not fit."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import goes_red, refuses

from fedmed.data.form import Form, central_slices
from fedmed.data.volume import AIR, Volume, resampled


def volume(voxels: NDArray[Any], spacing: tuple[float, float, float] | None = (1, 1, 1)) -> Volume:
    kind = voxels.dtype == np.uint8
    return Volume(voxels if kind else voxels.astype(np.int16), spacing, not kind, "v.nii")


def ramp(*shape: int) -> NDArray[np.int16]:
    return (np.arange(np.prod(shape)).reshape(shape) % 997).astype(np.int16)


CUBE = Form(16, dimensions=3)


def test_the_window_is_linear_between_its_ends() -> None:
    """40/400: -160 HU is black, 240 HU white."""
    voxels = np.full((16, 16, 16), -161)
    voxels[0, 0, :6] = [-160, -60, 40, 140, 240, 3000]
    made = CUBE.make(volume(voxels), "v")
    np.testing.assert_array_equal(made[0, 0, :7], [0, 64, 128, 191, 255, 255, 0])
    wide = Form(16, 3, window_centre=-600, window_width=1500).make(volume(voxels), "v")
    assert wide[0, 0, 0] == round((-160 + 1350) / 1500 * 255)


def test_brightness_keeps_its_values_and_knows_no_window() -> None:
    voxels = (np.arange(16**3) % 256).reshape(16, 16, 16).astype(np.uint8)
    np.testing.assert_array_equal(CUBE.make(volume(voxels, None), "v"), voxels)


def test_a_spacing_crops_and_pads_around_the_centre() -> None:
    values = ramp(20, 16, 12)
    made = resampled(volume(values), 16, 1.0)
    np.testing.assert_allclose(made[:, :, 2:14], values[2:18], rtol=1e-6)
    assert (made[:, :, :2] == AIR).all()
    assert (made[:, :, 14:] == AIR).all()


def test_anisotropic_voxels_become_cubes() -> None:
    """A slope along the depth keeps its HU per mm."""
    depth = np.broadcast_to(np.arange(8)[:, None, None] * 50.0, (8, 20, 20))
    made = resampled(volume(depth, (2.5, 1, 1)), 20, 1.0)
    middle = made[3:17, 10, 10]
    np.testing.assert_allclose(np.diff(middle), 20, atol=0.1)
    assert middle.mean() == pytest.approx(175, abs=1)
    across = resampled(volume(depth, (2.5, 1, 1)), 10, 2.0)
    np.testing.assert_allclose(np.diff(across[2:8, 5, 5]), 40, atol=4)


def test_no_spacing_fits_the_longest_side() -> None:
    values = np.full((10, 40, 20), 100)
    made = resampled(volume(values, (2, 1, 1)), 16, 0)
    inside = (made == 100).nonzero()
    assert [int(axis.max() - axis.min()) + 1 for axis in inside] == [8, 16, 8]
    assert [int(axis.min()) for axis in inside] == [4, 0, 4]


def test_reduction_does_not_alias_and_metal_does_not_bleed() -> None:
    stripes = np.zeros((64, 64, 64))
    stripes[:, :, ::2] = 200
    reduced = resampled(volume(stripes), 16, 0)[2:-2, 2:-2, 2:-2]
    assert np.abs(reduced - 100).max() < 15
    metal = np.zeros((64, 64, 64))
    metal[32, 32, 32] = 30000
    assert resampled(volume(metal), 16, 0).max() < 3071 / 4**3 * 2


def test_a_thin_slab_is_not_lost() -> None:
    made = resampled(volume(np.full((3, 100, 100), 50)), 16, 0)
    shown = (made == 50).any(axis=(1, 2))
    assert shown.sum() in (1, 2)
    assert shown[7:9].any()


def test_slices_are_equally_spaced_over_what_the_cube_holds() -> None:
    """Depth 12 mm in 3 slices: their middles at 2, 6 and 10 mm, between two voxels each."""
    values = np.broadcast_to(np.arange(12)[:, None, None] * 10.0, (12, 16, 16))
    form = Form(16, slices=3)
    made = resampled(volume(values), 16, 0, 3)
    assert form.shape == made.shape == (3, 16, 16)
    np.testing.assert_allclose(made[:, 8, 8], [15, 55, 95])
    deep = np.broadcast_to(np.arange(32)[:, None, None] * 10.0, (32, 16, 16))
    near = resampled(volume(deep), 16, 1.0, 2)  # 16 of 32 mm are held: middles at 12 and 20 mm
    np.testing.assert_allclose(near[:, 8, 8], [115, 195])
    one = resampled(volume(deep), 16, 0, 1)
    assert one[0, 8, 8] == pytest.approx(155)


def test_orders_are_kept() -> None:
    def check(made: NDArray[Any]) -> None:
        assert made[15, 0, 0] > made[0, 15, 0] > made[0, 0, 15] > made[0, 0, 0]

    z, y, x = np.meshgrid(*[np.arange(32)] * 3, indexing="ij")
    made = resampled(volume(4 * z + 2 * y + x), 16, 0)
    check(made)
    goes_red(check, made.transpose(2, 1, 0))


def test_an_unknown_spacing_cannot_be_resampled() -> None:
    voxels = np.zeros((4, 4, 4), dtype=np.uint8)
    form = Form(16, 3, spacing=1.5)
    refuses(lambda: form.make(volume(voxels, None), "v"), "v.nii", "not known", "data.spacing = 0")


def test_flat_images_and_volumes_are_not_mixed_up() -> None:
    flat, deep = np.zeros((8, 8), dtype=np.float32), volume(ramp(4, 4, 4))
    refuses(lambda: CUBE.make(flat, "a.png"), "a.png", "no volume", "data.dimensions = 2")
    refuses(lambda: Form(16).make(deep, "a.nii"), "a.nii", "data.dimensions = 3", "data.slices")


def test_the_key_follows_every_setting_of_volumes() -> None:
    forms = [
        Form(16),
        Form(16, 3),
        Form(16, slices=3),
        Form(16, 3, spacing=1.0),
        Form(16, 3, window_centre=50),
        Form(16, 3, window_width=350),
        Form(24, 3),
    ]
    assert len({form.key for form in forms}) == len(forms)
    # Flat images know none of them: their shards stay what they were.
    assert Form(16).key == Form(16, window_centre=50).key


def test_previews_and_samples_show_the_middle_slice() -> None:
    values = np.broadcast_to(np.arange(16)[:, None, None] * 10.0, (16, 16, 16))
    shown = Form(16, 3, window_centre=80, window_width=160).preview(volume(values), "v", 48)
    assert shown.shape == (48, 48)
    assert shown[24, 24] == pytest.approx(75 / 160 * 255, abs=2)
    cropped = Form(16, 3, spacing=0.5, window_width=160).preview(volume(values), "v", 48)
    assert (cropped > 0).all(), "the same 8 mm as the cube"
    stack = np.arange(2 * 5 * 3 * 3, dtype=np.uint8).reshape(2, 5, 3, 3)
    np.testing.assert_array_equal(central_slices(stack), stack[:, 2])
    np.testing.assert_array_equal(central_slices(stack[:, 0]), stack[:, 0])
