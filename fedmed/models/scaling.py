"""What every image is scaled by, and from that to what pretrained networks are used to."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor

MEAN: Final = 0.5
SPREAD: Final = 0.25
"""Subtracted from pixels in [0, 1] and divided by: public, as statistics of private images are a
release."""


def scaled(images: Tensor, mean: Sequence[float], spread: Sequence[float]) -> Tensor:
    """Images (batch, channels, ...) of the project's scale on another: a mean, a spread a channel.

    >>> import torch
    >>> black = torch.full((1, 1, 2, 2), -2.0)
    >>> float(scaled(black, [0.485], [0.229]).mean()) == -0.485 / 0.229
    False
    """
    shape = (len(mean), *[1] * (images.dim() - 2))
    scale = [SPREAD / one for one in spread]
    shift = [(MEAN - one) / other for one, other in zip(mean, spread, strict=True)]
    return images * images.new_tensor(scale).view(shape) + images.new_tensor(shift).view(shape)
