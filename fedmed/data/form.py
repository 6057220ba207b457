"""The form that every image of a shard is brought to: a square, a cube, or slices as channels."""

from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.decode import PREPROCESSING, to_square
from fedmed.data.volume import Volume, resampled, windowed

Pixel = TypeVar("Pixel", np.uint8, np.float32)

VOLUMES = "HU window, triangle filter, uint8; volumes version 1"
"""Names what :meth:`Form.make` does to volumes; it changes whenever their voxels change."""


@dataclass(frozen=True)
class Form:
    """Shape and preprocessing of a shard's images; the keys of ``[data]`` by the same names."""

    size: int
    dimensions: int = 2
    slices: int = 0
    spacing: float = 0.0
    window_centre: float = 40.0
    window_width: float = 400.0

    @classmethod
    def of(cls, data: Data) -> Self:
        """What the settings ask for."""
        return cls(
            data.image_size,
            data.dimensions,
            data.slices,
            data.spacing,
            data.window_centre,
            data.window_width,
        )

    @property
    def volumes(self) -> bool:
        """Whether images are made from volumes."""
        return self.dimensions == 3 or self.slices > 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(size, size), (slices, size, size) or (size, size, size)."""
        if not self.volumes:
            return self.size, self.size
        return self.slices or self.size, self.size, self.size

    @property
    def key(self) -> str:
        """Tells images in this form from those in another."""
        if not self.volumes:
            return f"{PREPROCESSING}|{self.size}"
        return f"{VOLUMES}|{self!r}"

    def make(self, image: NDArray[np.float32] | Volume, name: str) -> NDArray[np.uint8]:
        """The image in this form, uint8; ``name`` is for messages.

        Raises :class:`UserError` where a volume is given for a flat image, or the other way round.
        """
        if not isinstance(image, Volume):
            if self.volumes:
                raise UserError(
                    f"{name} is a flat image, no volume; give NIfTI, a folder of a DICOM series or "
                    "an array, or set data.dimensions = 2 and data.slices = 0"
                )
            return to_square(image, self.size)
        if not self.volumes:
            raise UserError(
                f"{name} is a volume; set data.dimensions = 3, or data.slices for a 2D model"
            )
        values = resampled(image, self.size, self.spacing, self.slices)
        if image.hounsfield:
            values = windowed(values, self.window_centre, self.window_width)
        else:
            values /= np.float32(255)
        return np.rint(values * 255).astype(np.uint8)

    def preview(
        self, image: NDArray[np.float32] | Volume, name: str, size: int
    ) -> NDArray[np.uint8]:
        """The image, or the middle axial slice of a volume, as a square of ``size`` pixels."""
        if not self.volumes:
            return replace(self, size=size).make(image, name)
        spacing = self.spacing * self.size / size
        flat = replace(self, size=size, dimensions=2, slices=1, spacing=spacing)
        middle: NDArray[np.uint8] = flat.make(image, name)[0]
        return middle


def central_slices(images: NDArray[Pixel]) -> NDArray[Pixel]:
    """The middle slice (n, height, width) of volumes (n, depth, height, width); 2D as it is."""
    return images if images.ndim == 3 else images[:, images.shape[1] // 2]
