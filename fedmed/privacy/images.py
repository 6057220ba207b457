"""Mechanisms that noise the images themselves, once, before training."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        if not (self.scale > 0 and np.isfinite(self.scale)):
            raise ValueError(f"scale {self.scale} must be a number above 0")
        if self.pixels < 1:
            raise ValueError(f"pixels {self.pixels} must be at least 1")

    @classmethod
    def for_epsilon(cls, epsilon: float, pixels: int) -> "PixelLaplace":
        """The mechanism whose epsilon *per image* is ``epsilon``."""
        return cls(pixels / epsilon, pixels)

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
