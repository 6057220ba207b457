"""Laplace noise on images: a draw per pixel, the right scale, never infinite."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from support import goes_red

from fedmed.privacy.images import PixelLaplace

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
    assert np.isfinite(apply(IMAGES, EdgeGenerator())).all()  # type: ignore[arg-type]


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
