"""ResNet-18 (He et al. 2016) with norms that do not mix samples, for grey images of any size."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

if TYPE_CHECKING:  # the network itself needs torch and torchvision alone
    from fedmed.config import Model

GROUPS = 32  # Wu and He 2018 (group normalisation)
SMALL_IMAGE = 64  # pixels; below it "auto" chooses the small stem


class OutOfPlaceBlock(BasicBlock):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's basic block with ``out + identity`` instead of ``out += identity``.

    The same parameters and numbers; hooks on the summands (Opacus) work only this way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Residual block; (batch, channels, height, width) float to the same rank."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + identity)
        return result


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or one per channel where there are fewer channels."""
    return nn.GroupNorm(min(GROUPS, channels), channels)


def resnet18(
    seed: int,
    *,
    stem: Literal["imagenet", "small"],
    channels: int,
    norm: Literal["group", "frozen-batch"] = "group",
) -> nn.Module:
    """ResNet-18 initialised from ``seed``: (batch, channels, size, size) to one logit (batch, 1).

    Every norm of ``norm`` leaves samples apart.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = FrozenBatchNorm2d if norm == "frozen-batch" else group_norm
        network: nn.Module = ResNet(OutOfPlaceBlock, [2, 2, 2, 2], num_classes=1, norm_layer=layer)
        _set_stem(network, stem, channels)
        # Residual inplace ReLUs break per-sample hooks; the result is the same without them.
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
    return network


def build(model: "Model", image_size: int, seed: int) -> nn.Module:
    """The classifier that ``model`` describes, initialised from ``seed``; one logit per image.

    Input (batch, model.channels, image_size, image_size), float32; output (batch, 1). With
    pretrained weights the first convolution is averaged over its input channels and the last
    layer is new. Raises :class:`fedmed.errors.UserError` for weights that do not fit.
    """
    network = resnet18(
        seed, stem=_stem(model, image_size), channels=model.channels, norm=model.norm
    )
    if model.weights != "none":
        from fedmed.models.pretrained import load_weights

        load_weights(network, model.weights)
    return network


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name: the only thing hospitals and server exchange."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def without_weights(model: "Model", image_size: int) -> "Model":
    """The same architecture to be filled from elsewhere: no weights are looked up."""
    return model.model_copy(update={"weights": "none", "stem": _stem(model, image_size)})


def _stem(model: "Model", image_size: int) -> Literal["imagenet", "small"]:
    if model.stem != "auto":
        return model.stem
    if model.weights != "none":
        return "imagenet"  # the pretrained first convolution is 7x7
    return "small" if image_size < SMALL_IMAGE else "imagenet"


def _set_stem(network: ResNet, stem: Literal["imagenet", "small"], channels: int) -> None:
    """7x7/2 and max-pool (a quarter of the size), or 3x3/2 without (half) for small images."""
    if stem == "imagenet":
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        network.conv1 = nn.Conv2d(channels, 64, 3, stride=2, padding=1, bias=False)
        network.maxpool = nn.Identity()
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
