"""From the ``[model]`` table to a network."""

from typing import TYPE_CHECKING, Literal

from torch import nn

from fedmed.base.errors import UserError
from fedmed.models.efficientnet import EfficientBody
from fedmed.models.features import ResidualBody, SqueezeBody, seeded_head
from fedmed.models.resnet import resnet
from fedmed.models.scattering import Scattering
from fedmed.models.stem import stem_of

if TYPE_CHECKING:  # the networks themselves need torch and torchvision alone
    from fedmed.config import Model

SMALLEST = 17  # pixels; SqueezeNet halves four times


def build(
    model: "Model",
    image_size: int,
    seed: int,
    dimensions: Literal[2, 3] = 2,
    in_channels: int | None = None,
    outputs: int = 1,
) -> nn.Module:
    """The classifier that ``model`` describes, initialised from ``seed``; one logit per label.

    Input (batch, channels, image_size, image_size), for volumes one ``image_size`` more, float32;
    output (batch, ``outputs``). ``in_channels`` is ``model.channels`` unless given. With pretrained
    weights the first convolution is averaged over its input channels and the last layer is new.
    What ``model.trains`` leaves out needs no gradient. Scattering takes each channel on its own.
    Raises :class:`UserError` for
    weights that do not fit, and for images that the architecture does not take.
    """
    channels = in_channels or model.channels
    body = model.features if model.name == "probe" else model.name
    if body in ("squeezenet1_1", "efficientnet_lite0") and channels not in (1, 3):
        raise UserError(f"model: {body} takes 1 or 3 channels; use 'resnet18' for others")
    if body == "squeezenet1_1":
        if dimensions == 3 and model.name != "probe":
            raise UserError(
                "model: SqueezeNet takes flat images; a probe looks at a volume from three sides: "
                "use model.name = 'probe', or 'resnet18'"
            )
        network = _squeezenet(model.feature_size or image_size)
    elif body == "efficientnet_lite0":
        network = EfficientBody()
    elif body == "scattering":
        side = model.feature_size or image_size
        network = Scattering(side, model.scales, dimensions, channels=channels)
    else:
        network = _residual(model, body, image_size, seed, channels, dimensions, outputs)
    if model.weights != "none":
        from fedmed.models.pretrained import load_weights

        key = "model.features" if model.name == "probe" else "model.name"
        load_weights(network, model.weights, body, key)
    if model.name in ("probe", "squeezenet1_1"):
        if body in ("resnet18", "resnet9"):
            network = ResidualBody(network)
        network = seeded_head(
            seed,
            network,
            pooling=model.pooling,
            feature_size=model.feature_size,
            standard=model.standardise,
            components=model.components,
            hidden=model.hidden,
            outputs=outputs,
        )
    _freeze(network, model, body)
    return network


def _squeezenet(size: int) -> nn.Module:
    if size < SMALLEST:
        raise UserError(
            f"model: SqueezeNet needs images of at least {SMALLEST} pixels, they have {size}; set "
            "model.feature-size"
        )
    return SqueezeBody()


def _residual(
    model: "Model",
    name: str,
    image_size: int,
    seed: int,
    channels: int,
    dimensions: Literal[2, 3],
    outputs: int,
) -> nn.Module:
    if dimensions == 3 and model.norm == "frozen-batch":
        raise UserError(
            "model.norm: 'frozen-batch' has statistics of flat images, the data are volumes; "
            "use 'group'"
        )
    return resnet(
        "resnet9" if name == "resnet9" else "resnet18",
        seed,
        stem=stem_of(model, image_size),
        channels=channels,
        norm=model.norm,
        activation=model.activation,
        standardised=model.weight_standardisation,
        dimensions=dimensions,
        outputs=outputs,
    )


_LAST = {"resnet18": "layer4.1.", "resnet9": "layer4.0.", "squeezenet1_1": "body.features.12."}


def _freeze(network: nn.Module, model: "Model", body: str) -> None:
    """Only the parameters of ``model.trains`` keep their gradients; of a probe, the head's."""
    trains = "head" if model.name == "probe" else model.trains
    if trains == "all":
        return
    kept = ["fc."]
    if trains == "last-block":
        kept.append(_LAST[body])
    elif trains == "norms":
        modules = network.named_modules()
        kept += [f"{name}." for name, one in modules if isinstance(one, nn.GroupNorm)]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(kept)))


def without_weights(model: "Model", image_size: int) -> "Model":
    """The same architecture to be filled from elsewhere: no weights are looked up."""
    return model.model_copy(update={"weights": "none", "stem": stem_of(model, image_size)})
