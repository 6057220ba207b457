"""Mechanisms that noise the images themselves, once, before training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.privacy.mechanisms.step import Mechanism, laplace

Element = Literal["pixel", "voxel"]
"""What an image is made of, as statements call it."""


class ImageMechanism(Protocol):
    """Noise on one image at a time; what leaves no other trace of the image."""

    @property
    def key(self) -> str:
        """Name and parameters: another key is another release of the same image."""
        ...

    @property
    def scale(self) -> float:
        """Of its Laplace noise, on images from 0 to 1."""
        ...

    @property
    def words(self) -> str:
        """What is done, in one line."""
        ...

    @property
    def element(self) -> Element:
        """What the images are made of; claims keep the name ``pixel`` for either."""
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
        """Noised copy, float32, not clipped; ``images`` uint8 (n, ..., height, width)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What settings say of a mechanism: a ``scale``, or where that is 0 an ``epsilon``.

    Images have ``size`` pixels along each of ``dimensions``, in ``planes`` slices; ``cell`` and
    ``neighbourhood`` are in pixels.
    """

    scale: float
    epsilon: float
    cell: int
    neighbourhood: int
    size: int
    dimensions: int
    planes: int

    @property
    def points(self) -> int:
        """Pixels or voxels of an image."""
        return int(self.planes * self.size**self.dimensions)

    @property
    def element(self) -> Element:
        """What images are made of."""
        return "voxel" if self.dimensions == 3 else "pixel"


@dataclass(frozen=True)
class PixelLaplace:
    """Laplace(0, scale) added to every pixel of an image scaled to [0, 1] (Dwork et al. 2006).

    One pixel has sensitivity 1, so epsilon is 1/scale per pixel; an image of d pixels has L1
    sensitivity d, so epsilon is d/scale per image (replace one image, delta 0). A mean-preserving
    scale alone never hides an image of many pixels: both numbers are always printed.
    """

    scale: float
    pixels: int  # or voxels
    element: Element = "pixel"

    def __post_init__(self) -> None:
        _check(self.scale)
        if self.pixels < 1:
            raise ValueError(f"pixels {self.pixels} must be at least 1")

    @classmethod
    def for_epsilon(cls, epsilon: float, pixels: int, element: Element = "pixel") -> "PixelLaplace":
        """The mechanism whose epsilon *per image* is ``epsilon``."""
        return cls(pixels / epsilon, pixels, element)

    @property
    def key(self) -> str:
        """See :class:`ImageMechanism`."""
        return f"laplace-scale-{self.scale!r}"

    @property
    def words(self) -> str:
        """See :class:`ImageMechanism`."""
        return f"Laplace noise of scale {self.scale:g} on every {self.element} (images on [0, 1])"

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
        """Noised copy, float32, not clipped; ``images`` uint8 (n, ..., height, width), 255 = 1.0.

        Every pixel of every image gets a draw of its own. numpy's sampler never returns infinity
        (it rejects u = 0) and reaches 36 scales, which one true draw in 2^52 would pass; its low
        bits are those of a double (Mironov 2012).
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
    as a whole changes every mean by up to 1. It protects m pixels, not the patient. A volume
    (``dimensions`` 3) has cubes of b^3 voxels instead; of ``planes`` slices each has its squares.
    """

    scale: float
    cell: int
    neighbourhood: int
    size: int
    dimensions: int = 2
    planes: int = 1

    def __post_init__(self) -> None:
        _check(self.scale)
        if self.dimensions not in (2, 3) or not 1 <= self.planes <= (
            64 if self.dimensions == 2 else 1
        ):
            raise ValueError("dimensions must be 2 or 3, and planes belong to 2")
        if self.cell < 1 or self.size < 1 or self.size % self.cell:
            raise ValueError(f"cell {self.cell} must divide the image's {self.size} pixels")
        points = self.planes * self.size**self.dimensions
        if not 1 <= self.neighbourhood <= points:
            raise ValueError(f"neighbourhood {self.neighbourhood} must be 1 to {points}")

    @classmethod
    def for_epsilon(
        cls,
        epsilon: float,
        cell: int,
        neighbourhood: int,
        size: int,
        dimensions: int = 2,
        planes: int = 1,
    ) -> "DPPix":
        """The mechanism whose epsilon for ``neighbourhood`` pixels is ``epsilon`` (Fan, Eq. 4)."""
        scale = neighbourhood / (cell**dimensions * epsilon)
        return cls(scale, cell, neighbourhood, size, dimensions, planes)

    @property
    def element(self) -> Element:
        """See :class:`ImageMechanism`."""
        return "voxel" if self.dimensions == 3 else "pixel"

    @property
    def key(self) -> str:
        """See :class:`ImageMechanism`; the neighbourhood is a reading of it, not a part."""
        cubes = "-cubes" if self.dimensions == 3 else ""
        return f"dp-pix-{self.cell}{cubes}-scale-{self.scale!r}"

    @property
    def words(self) -> str:
        """See :class:`ImageMechanism`."""
        cell = " x ".join([str(self.cell)] * self.dimensions)
        return (
            f"Laplace noise of scale {self.scale:g} on the means of {cell} {self.element}s (images "
            f"on [0, 1]); neighbours differ in up to {self.neighbourhood} {self.element}s"
        )

    @property
    def cells(self) -> int:
        """Means in one image."""
        return self.planes * int((self.size // self.cell) ** self.dimensions)

    @property
    def step(self) -> Mechanism:
        """Every mean may change by its whole range."""
        return laplace(self.scale, self.cells)

    @property
    def epsilon_per_neighbourhood(self) -> float:
        """Epsilon for ``neighbourhood`` changed pixels, wherever they lie."""
        return self.neighbourhood / (float(self.cell**self.dimensions) * self.scale)

    @property
    def epsilon_per_image(self) -> float:
        """Epsilon for one replaced image."""
        return self.cells / self.scale

    @property
    def claims(self) -> dict[str, float]:
        """Per pixel, per neighbourhood and per image."""
        return {
            "pixel": 1 / (self.cell**self.dimensions * self.scale),
            "neighbourhood": self.epsilon_per_neighbourhood,
            "image": self.epsilon_per_image,
        }

    def apply(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
        """See :class:`ImageMechanism`; every cell is filled with its noised mean."""
        side, count = self.size // self.cell, len(images)
        flat = (self.planes,) if images.ndim == 4 and self.dimensions == 2 else ()
        expected = flat + (self.size,) * self.dimensions
        if images.shape[1:] != expected:
            raise ValueError(f"images of {images.shape[1:]}, not {' x '.join(map(str, expected))}")
        # Each celled axis becomes two: which cell, and where in it.
        split = (side, self.cell) * self.dimensions
        inner = tuple(1 + len(flat) + 2 * axis + 1 for axis in range(self.dimensions))
        cells = images.reshape(count, *flat, *split)
        means = cells.mean(axis=inner, dtype=np.float64) / 255.0
        shown = means + rng.laplace(0.0, self.scale, size=means.shape)
        for axis in range(images.ndim - self.dimensions, images.ndim):
            shown = shown.repeat(self.cell, axis=axis)
        return np.asarray(shown, dtype=np.float32)


@dataclass(frozen=True)
class BrightnessShift:
    """One Laplace(0, scale) draw per image, added to all its pixels: no differential privacy.

    The difference of any two pixels stays as it was. It is here because published code did this
    under the name of local differential privacy.
    """

    scale: float
    element: Element = "pixel"

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
            f"one Laplace draw of scale {self.scale:g} added to all {self.element}s of an image: a "
            "change of brightness, no differential privacy"
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
        shifts = rng.laplace(0.0, self.scale, size=(len(images), *[1] * (images.ndim - 1)))
        shifted: NDArray[np.float32] = (images / 255.0 + shifts).astype(np.float32)
        return shifted


def _pixel_laplace(wanted: Wanted) -> ImageMechanism:
    if wanted.scale > 0:
        return PixelLaplace(wanted.scale, wanted.points, wanted.element)
    return PixelLaplace.for_epsilon(wanted.epsilon, wanted.points, wanted.element)


def _dp_pix(wanted: Wanted) -> ImageMechanism:
    known = wanted.cell, wanted.neighbourhood, wanted.size, wanted.dimensions, wanted.planes
    if wanted.scale > 0:
        return DPPix(wanted.scale, *known)
    return DPPix.for_epsilon(wanted.epsilon, *known)


def _brightness_shift(wanted: Wanted) -> ImageMechanism:
    # The published code called 1/scale its epsilon.
    return BrightnessShift(wanted.scale or 1 / wanted.epsilon, wanted.element)


MECHANISMS: dict[str, Callable[[Wanted], ImageMechanism]] = {
    "pixel-laplace": _pixel_laplace,
    "dp-pix": _dp_pix,
    "brightness-shift": _brightness_shift,
}
"""How each arm that noises images makes its mechanism."""


def clipped(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Released images cut to [0, 1] on both sides: post-processing, which costs nothing."""
    result: NDArray[np.float32] = np.clip(images, 0.0, 1.0)
    return result


def _check(scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale {scale} must be a number above 0")
