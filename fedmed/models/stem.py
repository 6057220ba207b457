"""Which first layers a network has: decided before any network, and torch, is there."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedmed.config import Model

Stem = Literal["imagenet", "small"]
SMALL_IMAGE = 64  # pixels; below it "auto" chooses the small stem


def stem_of(model: "Model", image_size: int) -> Stem:
    """The stem that "auto" stands for."""
    if model.stem != "auto":
        return model.stem
    if model.weights != "none":
        return "imagenet"  # the pretrained first convolution is 7x7
    return "small" if image_size < SMALL_IMAGE else "imagenet"
