"""Laplace noise on images: a draw per pixel, the right scale, never infinite."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from support import goes_red, make, refuses

from fedmed.privacy.mechanisms.images import BrightnessShift, DPPix, PixelLaplace, clipped
from fedmed.privacy.mechanisms.step import laplace
from fedmed.privacy.plans.making import image_mechanism

Apply = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.float32]]
SCALE = 0.7
MECHANISM = PixelLaplace(SCALE, 16 * 16)
IMAGES = np.random.default_rng(0).integers(0, 256, (200, 16, 16), dtype=np.uint8)


def noise_of(apply: Apply) -> NDArray[np.float64]:
    return apply(IMAGES, np.random.default_rng(5)).astype(np.float64) - IMAGES / 255


def brightness_shift(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Pitfall 12: one draw per image."""
    shift = rng.laplace(0, SCALE, size=(len(images), 1, 1))
    return (images / 255 + shift).astype(np.float32)


def check_every_pixel_has_its_own_draw(apply: Apply) -> None:
    noise = noise_of(apply)
    flat = noise.reshape(-1)
    assert len(np.unique(noise[0].round(6))) > 250, "the pixels of an image differ"
    # Means of images scatter by sqrt(2) scale / 16; beyond six times that once in 1e7 runs.
    assert np.abs(noise.mean(axis=(1, 2))).max() < 6 * np.sqrt(2) * SCALE / 16
    # Neighbours are uncorrelated: five standard errors, a false alarm once in a million.
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 5 / np.sqrt(len(flat))


def check_scale(apply: Apply) -> None:
    """Mean absolute deviation is the scale, its standard error scale/sqrt(n); 5 of them: 6e-7."""
    noise = noise_of(apply)
    assert abs(np.abs(noise).mean() - SCALE) < 5 * SCALE / np.sqrt(noise.size)
    assert abs(np.median(noise)) < 5 * SCALE / np.sqrt(noise.size)
    # Laplace, not Gaussian: the share beyond 3 scales is exp(-3) = 5 %.
    share = np.exp(-3)
    beyond = float((np.abs(noise) > 3 * SCALE).mean())
    assert abs(beyond - share) < 5 * np.sqrt(share * (1 - share) / noise.size)


def test_noise_is_drawn_for_every_pixel_not_once_per_image() -> None:
    check_every_pixel_has_its_own_draw(MECHANISM.apply)
    goes_red(check_every_pixel_has_its_own_draw, brightness_shift)
    goes_red(check_every_pixel_has_its_own_draw, BrightnessShift(SCALE).apply)
    goes_red(check_every_pixel_has_its_own_draw, DPPix(SCALE, 4, 1, 16).apply)


def test_the_scale_is_the_laplace_scale() -> None:
    check_scale(MECHANISM.apply)
    goes_red(check_scale, PixelLaplace(SCALE * 1.05, 256).apply)
    goes_red(
        check_scale,  # the same mean absolute deviation, another shape
        lambda images, rng: (
            images / 255 + rng.normal(0, SCALE * np.sqrt(np.pi / 2), images.shape)
        ).astype(np.float32),
    )


class EdgeGenerator:
    """A generator whose uniform draw is the worst one: exactly 0."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def random(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        return np.zeros(size)

    def laplace(self, loc: float, scale: float, size: tuple[int, ...]) -> NDArray[np.float64]:
        return self._rng.laplace(loc, scale, size)


def inverse_cdf(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Pitfall 25: u = -1/2 gives minus infinity."""
    u = rng.random(images.shape) - 0.5
    with np.errstate(divide="ignore"):
        noise = -SCALE * np.sign(u) * np.log1p(-2 * np.abs(u))
    return (images / 255 + noise).astype(np.float32)


def check_finite(apply: Apply) -> None:
    assert np.isfinite(apply(IMAGES, EdgeGenerator())).all()  # type: ignore[arg-type]  # has the one method that is used


def test_no_draw_is_infinite() -> None:
    check_finite(MECHANISM.apply)
    goes_red(check_finite, inverse_cdf)
    wide = PixelLaplace(1e6, 256).apply(IMAGES, np.random.default_rng(1))
    assert np.isfinite(wide).all()


def test_output_is_float32_not_clipped_and_the_input_is_kept() -> None:
    before = IMAGES.copy()
    noised = MECHANISM.apply(IMAGES, np.random.default_rng(1))
    assert noised.dtype == np.float32
    assert noised.min() < 0 < 1 < noised.max()
    np.testing.assert_array_equal(IMAGES, before)


def test_epsilon_per_pixel_and_per_image() -> None:
    assert PixelLaplace(2.0, 1024).epsilon_per_pixel == 0.5
    assert PixelLaplace(2.0, 1024).epsilon_per_image == 512
    assert PixelLaplace.for_epsilon(4.0, 1024).scale == 256


@pytest.mark.parametrize(("scale", "pixels"), [(0.0, 1), (-1.0, 1), (np.inf, 1), (1.0, 0)])
def test_a_mechanism_without_noise_cannot_be_made(scale: float, pixels: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        PixelLaplace(scale, pixels)


# DP-Pix.

CELL = 4
PIX = DPPix(SCALE, CELL, 8, 16)


def cells_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 4 x 4 pixels, (n, 4, 4)."""
    side = 16 // CELL
    return values.reshape(len(values), side, CELL, side, CELL).mean(axis=(2, 4))


def check_dp_pix(apply: Apply) -> None:
    """3200 noised means: five standard errors, false alarms below one in a million."""
    shown = apply(IMAGES, np.random.default_rng(5)).astype(np.float64)
    assert shown.shape == IMAGES.shape
    blocks = shown.reshape(len(shown), 4, CELL, 4, CELL)
    assert np.ptp(blocks, axis=(2, 4)).max() == 0, "nothing of a single pixel is left"
    noise = cells_of(shown) - cells_of(IMAGES / 255)
    assert abs(np.abs(noise).mean() - SCALE) < 5 * SCALE / np.sqrt(noise.size)
    flat = noise.reshape(-1)
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 5 / np.sqrt(len(flat))


def test_dp_pix_shows_noised_means_and_nothing_else() -> None:
    check_dp_pix(PIX.apply)
    goes_red(check_dp_pix, MECHANISM.apply)
    goes_red(check_dp_pix, DPPix(SCALE / 1.15, CELL, 8, 16).apply)
    goes_red(check_dp_pix, DPPix(SCALE, 8, 8, 16).apply)
    goes_red(check_dp_pix, lambda images, rng: brightness_shift(cells_shown(images), rng))


def cells_shown(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The means without noise, at full size."""
    means = cells_of(images.astype(np.float64))
    return means.repeat(CELL, axis=1).repeat(CELL, axis=2).astype(np.uint8)


def sensitivity(pixels: int) -> float:
    """Largest L1 change of the means where so many pixels of one image change."""
    dark = np.zeros((1, 16, 16))
    bright = dark.copy()
    bright.reshape(-1)[:pixels] = 1.0
    return float(np.abs(cells_of(bright) - cells_of(dark)).sum())


@pytest.mark.parametrize(("neighbourhood", "cell"), [(1, 4), (8, 4), (16, 4), (256, 4)])
def test_dp_pix_claims_the_sensitivity_of_its_neighbourhood(neighbourhood: int, cell: int) -> None:
    """Fan 2018, Section 4: m pixels move the means by at most m / b^2 in L1."""

    def check(mechanism: DPPix) -> None:
        expected = sensitivity(neighbourhood) / mechanism.scale
        assert mechanism.claims["neighbourhood"] == pytest.approx(expected)
        assert mechanism.claims["pixel"] == pytest.approx(sensitivity(1) / mechanism.scale)
        assert mechanism.claims["image"] == pytest.approx(sensitivity(256) / mechanism.scale)
        assert mechanism.claims["image"] == mechanism.step.pure_epsilon()

    check(DPPix(SCALE, cell, neighbourhood, 16))
    goes_red(check, DPPix(SCALE, 2 * cell, neighbourhood, 16))
    found = DPPix.for_epsilon(0.5, cell, neighbourhood, 16)
    assert found.epsilon_per_neighbourhood == pytest.approx(0.5)
    assert found.step == laplace(found.scale, 16)


def test_another_neighbourhood_is_another_reading_of_the_same_release() -> None:
    assert DPPix(SCALE, 4, 8, 16).key == DPPix(SCALE, 4, 9, 16).key
    assert DPPix(SCALE, 4, 8, 16).key != DPPix(SCALE, 8, 8, 16).key
    assert len({PIX.key, MECHANISM.key, BrightnessShift(SCALE).key}) == 3


@pytest.mark.parametrize(
    ("cell", "neighbourhood", "size"), [(3, 1, 16), (0, 1, 16), (4, 0, 16), (4, 257, 16)]
)
def test_cells_that_do_not_fit_cannot_be_made(cell: int, neighbourhood: int, size: int) -> None:
    with pytest.raises(ValueError, match="must"):
        DPPix(1.0, cell, neighbourhood, size)
    with pytest.raises(ValueError, match="not 32 x 32"):
        DPPix(1.0, 4, 1, 32).apply(IMAGES, np.random.default_rng(0))


# Volumes: voxels in cubes, and slices with squares of their own.

VOLUMES = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 8), dtype=np.uint8)


def test_every_voxel_has_its_own_draw() -> None:
    def check(apply: Apply) -> None:
        noise = apply(VOLUMES, np.random.default_rng(5)).astype(np.float64) - VOLUMES / 255
        assert len(np.unique(noise.round(6))) > 0.9 * noise.size
        assert np.abs(noise).mean() == pytest.approx(SCALE, rel=0.05)

    mechanism = PixelLaplace.for_epsilon(512 / SCALE, 512, "voxel")
    check(mechanism.apply)
    goes_red(check, BrightnessShift(SCALE, "voxel").apply)
    goes_red(check, DPPix(SCALE, 4, 8, 8, 3).apply)
    assert mechanism.claims == {"pixel": 1 / SCALE, "image": 512 / SCALE}
    assert "every voxel" in mechanism.words


def test_dp_pix_of_volumes_shows_noised_means_of_cubes() -> None:
    def check(apply: Apply, cells: tuple[int, int, int]) -> None:
        shown = apply(VOLUMES, np.random.default_rng(5)).astype(np.float64)
        d, h, w = cells
        split = shown.reshape(-1, 8 // d, d, 8 // h, h, 8 // w, w)
        assert np.ptp(split, axis=(2, 4, 6)).max() == 0
        clean = VOLUMES.reshape(split.shape).mean(axis=(2, 4, 6)) / 255
        noise = split[:, :, 0, :, 0, :, 0] - clean
        # 480 (or 1920) draws: six standard errors of the mean absolute value.
        assert np.abs(noise).mean() == pytest.approx(SCALE, rel=6 / np.sqrt(noise.size))

    cubes, planes = DPPix(SCALE, 4, 8, 8, 3), DPPix(SCALE, 4, 8, 8, 2, 8)
    check(cubes.apply, (4, 4, 4))
    check(planes.apply, (1, 4, 4))
    goes_red(check, planes.apply, (4, 4, 4))
    goes_red(check, cubes.apply, (8, 8, 8))
    assert cubes.key != planes.key, "one pool must never serve both"


def test_dp_pix_of_volumes_claims_its_sensitivity() -> None:
    """m voxels move the means of b^3 by at most m / b^3; every cube's mean by 1 at most."""

    def check(mechanism: DPPix) -> None:
        assert mechanism.claims["neighbourhood"] == pytest.approx(8 / 4**3 / SCALE)
        assert mechanism.claims["pixel"] == pytest.approx(1 / 4**3 / SCALE)
        assert mechanism.claims["image"] == pytest.approx(2**3 / SCALE)
        assert mechanism.step.pure_epsilon() == pytest.approx(2**3 / SCALE)

    check(DPPix(SCALE, 4, 8, 8, 3))
    goes_red(check, DPPix(SCALE, 4, 8, 8))
    slices = DPPix(SCALE, 4, 8, 8, 2, 3)
    assert slices.claims["image"] == pytest.approx(3 * 2**2 / SCALE)
    assert slices.claims["neighbourhood"] == pytest.approx(8 / 4**2 / SCALE)
    found = DPPix.for_epsilon(0.5, 4, 8, 8, 3)
    assert found.epsilon_per_neighbourhood == pytest.approx(0.5)
    with pytest.raises(ValueError, match="planes belong to 2"):
        DPPix(SCALE, 4, 8, 8, 3, 2)


def test_brightness_shift_of_volumes_is_one_draw_each() -> None:
    shown = BrightnessShift(SCALE, "voxel").apply(VOLUMES, np.random.default_rng(1))
    shifts = shown - VOLUMES / 255
    assert np.ptp(shifts, axis=(1, 2, 3)).max() < 1e-6
    assert len(np.unique(shifts[:, 0, 0, 0])) == len(VOLUMES)


@pytest.mark.parametrize(("data", "points"), [({"dimensions": 3}, 16**3), ({"slices": 3}, 3 * 256)])
def test_the_settings_mechanism_counts_every_point(data: dict[str, int], points: int) -> None:
    model = {"channels": data.get("slices", 1)}
    laplace = image_mechanism(make(data=data, model=model, privacy={"arm": "pixel-laplace"}))
    assert isinstance(laplace, PixelLaplace)
    assert laplace.epsilon_per_image == pytest.approx(8.0)
    assert laplace.scale == points / 8
    pix = image_mechanism(
        make(data=data, model=model, privacy={"arm": "dp-pix", "cell": 4, "laplace-scale": 1.0})
    )
    assert isinstance(pix, DPPix)
    assert pix.epsilon_per_image == points / (4**3 if "dimensions" in data else 4**2)
    refuses(
        lambda: make(
            data=data,
            model=model,
            privacy={"arm": "dp-pix", "cell": 4, "neighbourhood": points + 1},
        ),
        "privacy.neighbourhood",
    )


# Brightness shift: what one paper's code did.


def test_brightness_shift_hides_no_difference_of_pixels_and_claims_nothing() -> None:
    mechanism = BrightnessShift(SCALE)

    def check(apply: Apply) -> None:
        shown = apply(IMAGES, np.random.default_rng(1)).astype(np.float64)
        clean = IMAGES / 255
        np.testing.assert_allclose(np.diff(shown), np.diff(clean), atol=1e-6)
        assert np.abs((shown - clean).mean(axis=(1, 2))).mean() > SCALE / 2

    check(mechanism.apply)
    goes_red(check, MECHANISM.apply)
    assert mechanism.claims == {}
    assert mechanism.step is None
    assert "no differential privacy" in mechanism.words


def test_clipping_is_two_sided_and_after_the_noise() -> None:
    noised = MECHANISM.apply(IMAGES, np.random.default_rng(1))

    def check(shown: NDArray[np.float32]) -> None:
        assert shown.min() == 0
        assert shown.max() == 1
        inside = (noised >= 0) & (noised <= 1)
        np.testing.assert_array_equal(shown[inside], noised[inside])
        assert noised.min() < 0 < 1 < noised.max(), "the release itself stays as it is"

    check(clipped(noised))
    goes_red(check, noised)
    goes_red(check, np.maximum(noised, 0))
