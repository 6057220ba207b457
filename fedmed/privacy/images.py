"""Mechanisms that noise the images themselves, once, before training."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.privacy.mechanism import Mechanism, laplace


class ImageMechanism(Protocol):
    """Noise on one image at a time; what leaves no other trace of the image."""

    @property
    def key(self) -> str:
        """Name and parameters: another key is another release of the same image."""
        ...

    @property
    def words(self) -> str:
        """What is done, in one line."""
        ...

    @property
    def step(self) -> Mechanism | None:
        """What one release costs an image that may change everywhere; None: nothing is claimed."""
        ...

    @property
    def claims(self) -> dict[str, float]:
        """Pure epsilons (delta 0) by what they protect: ``pixel``, ``image``, ``neighbourhood``."""
        ...

    def apply(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
        """Noised copy, float32, not clipped; ``images`` uint8 (n, height, width), 255 = 1.0."""
        ...


@dataclass(frozen=True)
class PixelLaplace:
    """Laplace(0, scale) added to every pixel of an image scaled to [0, 1] (Dwork et al. 2006).

    One pixel has sensitivity 1, so epsilon is 1/scale per pixel; an image of d pixels has L1
    sensitivity d, so epsilon is d/scale per image (replace one image, delta 0). A mean-preserving
    scale alone never hides an image of many pixels: both numbers are always printed.
    """

    scale: float
    pixels: int

    def __post_init__(self) -> None:
        _check(self.scale)
        if self.pixels < 1:
            raise ValueError(f"pixels {self.pixels} must be at least 1")

    @classmethod
    def for_epsilon(cls, epsilon: float, pixels: int) -> "PixelLaplace":
        """The mechanism whose epsilon *per image* is ``epsilon``."""
        return cls(pixels / epsilon, pixels)

    @property
    def key(self) -> str:
        """See :class:`ImageMechanism`."""
        return f"laplace-scale-{self.scale!r}"

    @property
    def words(self) -> str:
        """See :class:`ImageMechanism`."""
        return f"Laplace noise of scale {self.scale:g} on every pixel (images on [0, 1])"

    @property
    def step(self) -> Mechanism:
        """Every pixel may change by its whole range."""
        return laplace(self.scale, self.pixels)

    @property
    def claims(self) -> dict[str, float]:
        """Per pixel and per image."""
        return {"pixel": self.epsilon_per_pixel, "image": self.epsilon_per_image}

    @property
    def epsilon_per_pixel(self) -> float:
        """Epsilon for one changed pixel."""
        return 1 / self.scale

    @property
    def epsilon_per_image(self) -> float:
        """Epsilon for one replaced image."""
        return self.pixels / self.scale

    def apply(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
        """Noised copy, float32, not clipped; ``images`` uint8 (n, height, width), 255 = 1.0.

        Every pixel of every image gets a draw of its own. numpy's sampler never returns infinity
        (it rejects u = 0); its low bits are those of a double (Mironov 2012).
        """
        result = np.empty(images.shape, dtype=np.float32)
        for row, image in enumerate(images):
            # One image at a time: the draws are doubles, and a shard may be large.
            result[row] = rng.laplace(0.0, self.scale, size=image.shape) + image / 255.0
        return result


@dataclass(frozen=True)
class DPPix:
    """Means of ``cell`` x ``cell`` pixels plus Laplace noise, at full size (Fan 2018, Sec. 4).

    Two images are neighbours where at most ``neighbourhood`` pixels differ: the means then differ
    by at most m/b^2 in L1, so a scale of m/(b^2 epsilon) on [0, 1] gives epsilon. An image replaced
    as a whole changes every mean by up to 1. It protects m pixels, not the patient.
    """

    scale: float
    cell: int
    neighbourhood: int
    size: int

    def __post_init__(self) -> None:
        _check(self.scale)
        if self.cell < 1 or self.size < 1 or self.size % self.cell:
            raise ValueError(f"cell {self.cell} must divide the image's {self.size} pixels")
        if not 1 <= self.neighbourhood <= self.size**2:
            raise ValueError(f"neighbourhood {self.neighbourhood} must be 1 to {self.size**2}")

    @classmethod
    def for_epsilon(cls, epsilon: float, cell: int, neighbourhood: int, size: int) -> "DPPix":
        """The mechanism whose epsilon for ``neighbourhood`` pixels is ``epsilon`` (Fan, Eq. 4)."""
        return cls(neighbourhood / (cell**2 * epsilon), cell, neighbourhood, size)

    @property
    def key(self) -> str:
        """See :class:`ImageMechanism`; the neighbourhood is a reading of it, not a part."""
        return f"dp-pix-{self.cell}-scale-{self.scale!r}"

    @property
    def words(self) -> str:
        """See :class:`ImageMechanism`."""
        return (
            f"Laplace noise of scale {self.scale:g} on the means of {self.cell} x {self.cell} "
            f"pixels (images on [0, 1]); neighbours differ in up to {self.neighbourhood} pixels"
        )

    @property
    def cells(self) -> int:
        """Means in one image."""
        return (self.size // self.cell) ** 2

    @property
    def step(self) -> Mechanism:
        """Every mean may change by its whole range."""
        return laplace(self.scale, self.cells)

    @property
    def epsilon_per_neighbourhood(self) -> float:
        """Epsilon for ``neighbourhood`` changed pixels, wherever they lie."""
        return self.neighbourhood / (self.cell**2 * self.scale)

    @property
    def epsilon_per_image(self) -> float:
        """Epsilon for one replaced image."""
        return self.cells / self.scale

    @property
    def claims(self) -> dict[str, float]:
        """Per pixel, per neighbourhood and per image."""
        return {
            "pixel": 1 / (self.cell**2 * self.scale),
            "neighbourhood": self.epsilon_per_neighbourhood,
            "image": self.epsilon_per_image,
        }

    def apply(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
        """See :class:`ImageMechanism`; every cell is filled with its noised mean."""
        side = self.size // self.cell
        if images.shape[1:] != (self.size, self.size):
            raise ValueError(f"images of {images.shape[1:]} pixels, not {self.size} x {self.size}")
        cells = images.reshape(len(images), side, self.cell, side, self.cell)
        means = cells.mean(axis=(2, 4), dtype=np.float64) / 255.0
        noised = means + rng.laplace(0.0, self.scale, size=means.shape)
        shown = noised.repeat(self.cell, axis=1).repeat(self.cell, axis=2)
        return np.asarray(shown, dtype=np.float32)


@dataclass(frozen=True)
class BrightnessShift:
    """One Laplace(0, scale) draw per image, added to all its pixels: no differential privacy.

    The difference of any two pixels stays as it was. It is here because published code did this
    under the name of local differential privacy.
    """

    scale: float

    def __post_init__(self) -> None:
        _check(self.scale)

    @property
    def key(self) -> str:
        """See :class:`ImageMechanism`."""
        return f"brightness-shift-scale-{self.scale!r}"

    @property
    def words(self) -> str:
        """See :class:`ImageMechanism`."""
        return (
            f"one Laplace draw of scale {self.scale:g} added to all pixels of an image: a change "
            "of brightness, no differential privacy"
        )

    @property
    def step(self) -> None:
        """Nothing is claimed."""
        return

    @property
    def claims(self) -> dict[str, float]:
        """Nothing is claimed."""
        return {}

    def apply(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
        """See :class:`ImageMechanism`."""
        shifts = rng.laplace(0.0, self.scale, size=(len(images), 1, 1))
        shifted: NDArray[np.float32] = (images / 255.0 + shifts).astype(np.float32)
        return shifted


def clipped(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Released images cut to [0, 1] on both sides: post-processing, which costs nothing."""
    result: NDArray[np.float32] = np.clip(images, 0.0, 1.0)
    return result


def _check(scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale {scale} must be a number above 0")
