"""EfficientNet-Lite0 without its classifier: features whose weights install with pip."""

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.ops import FrozenBatchNorm2d

from fedmed.models.scaling import scaled

STAGES: Final = (4, 10, 15)
"""Blocks whose outputs are features: each the last of its size."""

_MEAN, _SPREAD = 127 / 255, 128 / 255  # its trainers' own, of every channel, on pixels in [0, 1]
_CLASSIFIER: Final = ("conv_head.", "bn1.", "fc.")
_EPSILON: Final = 1e-3  # of its batch norms
# Table 1 of Tan and Le (2019): expansion, channels, blocks, stride and kernel of each row.
_ROWS: Final = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip


class EfficientBody(nn.Module):
    """EfficientNet-Lite0's blocks (Tan & Le 2019; "Lite": no squeezes, ReLU6), frozen batch norm.

    Takes what the other networks take, (batch, 1 or 3, height, width) scaled by the project's
    constants. Its norms have the statistics of their weights for ever: samples never meet. Borders
    are padded as TensorFlow does it, with which the weights were trained.
    """

    channels, flat = (40, 112, 320), True

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _Convolution(3, 32, 3, 2)
        self.bn0 = _norm(32)
        blocks, before = [], 32
        for expansion, channels, count, stride, kernel in _ROWS:
            for number in range(count):
                first = stride if number == 0 else 1
                blocks.append(_Block(before, channels, expansion, first, kernel))
                before = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Blocks 4, 10 and 15: 40, 112 and 320 channels, an 8th, 16th and 32nd of the side."""
        x = scaled(x.expand(-1, 3, -1, -1), [_MEAN] * 3, [_SPREAD] * 3)
        x = self.bn0(self.conv_stem(x)).clamp(0, 6)
        stages = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in STAGES:
                stages.append(x)
        return stages


class _Convolution(nn.Conv2d):
    """A convolution that pads so that the side is divided by the stride and rounded up."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side in reversed(x.shape[-2:]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [missing // 2, missing - missing // 2]
        result: Tensor = super().forward(pad(x, pads))
        return result


class _Block(nn.Module):
    """Widened, convolved channel by channel, and narrowed again; added to what came in."""

    def __init__(self, before: int, after: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv, self.bn0 = _Convolution(before, wide, 1, 1), _norm(wide)
        self.depthwise_conv = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv, self.bn2 = _Convolution(wide, after, 1, 1), _norm(after)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn0(self.expand_conv(x)).clamp(0, 6) if self.expands else x
        y = self.bn1(self.depthwise_conv(y)).clamp(0, 6)
        y = self.bn2(self.project_conv(y))
        result: Tensor = x + y if self.adds else y
        return result


def own_names(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays of the published weights by this module's names, without the classifier's.

    >>> from torch import zeros
    >>> own_names({"_blocks.0._bn1.bias": zeros(1), "_fc.bias": zeros(1)}).keys()
    dict_keys(['blocks.0.bn1.bias'])
    """
    plain = {name.replace("._", ".").removeprefix("_"): value for name, value in arrays.items()}
    return {name: value for name, value in plain.items() if not name.startswith(_CLASSIFIER)}


def _norm(channels: int) -> nn.Module:
    layer: nn.Module = FrozenBatchNorm2d(channels, eps=_EPSILON)
    return layer
