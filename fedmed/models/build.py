"""From the ``[model]`` table to a network."""

from typing import TYPE_CHECKING, Literal

from torch import nn

from fedmed.errors import UserError
from fedmed.models.resnet import Stem, resnet

if TYPE_CHECKING:  # the networks themselves need torch and torchvision alone
    from fedmed.config import Model

SMALL_IMAGE = 64  # pixels; below it "auto" chooses the small stem


def build(
    model: "Model",
    image_size: int,
    seed: int,
    dimensions: Literal[2, 3] = 2,
    in_channels: int | None = None,
) -> nn.Module:
    """The classifier that ``model`` describes, initialised from ``seed``; one logit per image.

    Input (batch, channels, image_size, image_size), for volumes one ``image_size`` more, float32;
    output (batch, 1). ``in_channels`` is ``model.channels`` unless given. With pretrained weights
    the first convolution is averaged over its input channels and the last layer is new. Raises
    :class:`fedmed.errors.UserError` for weights that do not fit.
    """
    if dimensions == 3 and model.norm == "frozen-batch":
        raise UserError(
            "model.norm: 'frozen-batch' has statistics of flat images, the data are volumes; "
            "use 'group'"
        )
    network = resnet(
        model.name,
        seed,
        stem=_stem(model, image_size),
        channels=in_channels or model.channels,
        norm=model.norm,
        activation=model.activation,
        standardised=model.weight_standardisation,
        dimensions=dimensions,
    )
    if model.weights != "none":
        from fedmed.models.pretrained import load_weights

        load_weights(network, model.weights, model.name)
    return network


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name: the only thing hospitals and server exchange."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def without_weights(model: "Model", image_size: int) -> "Model":
    """The same architecture to be filled from elsewhere: no weights are looked up."""
    return model.model_copy(update={"weights": "none", "stem": _stem(model, image_size)})


def _stem(model: "Model", image_size: int) -> Stem:
    if model.stem != "auto":
        return model.stem
    if model.weights != "none":
        return "imagenet"  # the pretrained first convolution is 7x7
    return "small" if image_size < SMALL_IMAGE else "imagenet"
