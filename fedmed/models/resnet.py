"""ResNets (He et al. 2016) with norms that do not mix samples, for images and volumes."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from fedmed.models.stem import Stem

BLOCKS = {"resnet18": [2, 2, 2, 2], "resnet9": [1, 1, 1, 1]}
GROUPS = 32  # Wu and He 2018 (group normalisation)


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


class StandardisedWeight(nn.Module):
    """Weight standardisation (Qiao et al. 2019): each output channel has mean 0, variance 1/k.

    Over the k weights of a channel; 1/k instead of 1 keeps the size of activations (Brock et al.
    2021, equation 1), which a norm behind the convolution does not see.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The weight (out, in, ...) that the convolution uses."""
        rows = weight.flatten(1)
        variance = rows.var(dim=1, unbiased=False, keepdim=True)
        normal = (rows - rows.mean(dim=1, keepdim=True)) * torch.rsqrt(variance + 1e-8)
        result: Tensor = (normal / rows.shape[1] ** 0.5).view_as(weight)
        return result


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or one per channel where there are fewer channels."""
    return nn.GroupNorm(min(GROUPS, channels), channels)


def resnet(
    name: Literal["resnet18", "resnet9"],
    seed: int,
    *,
    stem: Stem,
    channels: int,
    norm: Literal["group", "frozen-batch"] = "group",
    activation: Literal["relu", "mish"] = "relu",
    standardised: bool = False,
    dimensions: Literal[2, 3] = 2,
    outputs: int = 1,
) -> nn.Module:
    """A ResNet initialised from ``seed``: (batch, channels, *sides) to (batch, outputs).

    ``resnet9`` has one block in each of the four stages where ``resnet18`` has two; with ``mish``
    (Misra 2019) it is the network of Tayebi Arasteh et al. 2024. Parameters are named as in
    torchvision. Every norm of ``norm`` leaves samples apart. With ``standardised`` the weights of
    convolutions are made from parameters by :class:`StandardisedWeight`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = FrozenBatchNorm2d if norm == "frozen-batch" else group_norm
        network: nn.Module = ResNet(
            OutOfPlaceBlock, BLOCKS[name], num_classes=outputs, norm_layer=layer
        )
        _set_stem(network, stem, channels)
        if dimensions == 3:
            _in_three_dimensions(network)
    for module in list(network.modules()):
        for own, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                # In place, a residual ReLU breaks per-sample hooks.
                setattr(module, own, nn.ReLU() if activation == "relu" else nn.Mish())
        if standardised and isinstance(module, nn.Conv2d | nn.Conv3d):
            parametrize.register_parametrization(module, "weight", StandardisedWeight())
    return network


def resnet18(
    seed: int,
    *,
    stem: Stem,
    channels: int,
    norm: Literal["group", "frozen-batch"] = "group",
) -> nn.Module:
    """:func:`resnet` as most runs have it."""
    return resnet("resnet18", seed, stem=stem, channels=channels, norm=norm)


def _set_stem(network: ResNet, stem: Stem, channels: int) -> None:
    """7x7/2 and max-pool (a quarter of the size), or 3x3/2 without (half) for small images."""
    if stem == "imagenet":
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        network.conv1 = nn.Conv2d(channels, 64, 3, stride=2, padding=1, bias=False)
        network.maxpool = nn.Identity()
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")


def _in_three_dimensions(network: nn.Module) -> None:
    """Every flat layer becomes a cubic one; convolutions are initialised again."""
    for module in list(network.modules()):
        for own, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(module, own, _cubic(child))
            elif isinstance(child, nn.MaxPool2d):
                pool = nn.MaxPool3d(child.kernel_size, child.stride, child.padding)
                setattr(module, own, pool)
            elif isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, own, nn.AdaptiveAvgPool3d(1))


def _cubic(flat: nn.Conv2d) -> nn.Conv3d:
    layer = nn.Conv3d(
        flat.in_channels,
        flat.out_channels,
        flat.kernel_size[0],
        stride=flat.stride[0],
        padding=int(flat.padding[0]),
        bias=False,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
