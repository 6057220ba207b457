"""Networks whose features are fixed: SqueezeNet of pretrained weights, and the linear probe."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, interpolate, layer_norm
from torchvision.models import squeezenet1_1

from fedmed.models.scaling import scaled
from fedmed.models.scattering import Scattering

Pooling = Literal["mean", "stages", "middle", "grid", "all"]
Standard = Literal["layer", "validation"]
# ImageNet's, per channel, on pixels in [0, 1]: public.
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RIDGE = 1e-3  # of the largest variance: directions below it are no further enlarged


class SqueezeBody(nn.Module):
    """SqueezeNet 1.1's convolutions (Iandola et al. 2016), named as in torchvision.

    Takes what the other networks take, (batch, 1 or 3, height, width) scaled by the project's
    constants, and scales it by ImageNet's. No norm: samples never meet.
    """

    channels, flat = (128, 256, 512), True

    def __init__(self) -> None:
        super().__init__()
        self.features = squeezenet1_1().features
        for module in self.features.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """What the last three stages leave: 128, 256 and 512 channels, each half the size."""
        x = scaled(x.expand(-1, 3, -1, -1), _MEAN, _SPREAD)
        stages = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in (4, 7, 12):
                stages.append(x)
        return stages


class ResidualBody(nn.Module):
    """A ResNet of :func:`fedmed.models.resnet.resnet` without its last layers."""

    channels, flat = (128, 256, 512), False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, child in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def forward(self, x: Tensor) -> list[Tensor]:
        """What the last three stages leave: 128, 256 and 512 channels, each half the size."""
        stages = []
        for name, child in self.named_children():
            x = child(x)
            if name in ("layer2", "layer3", "layer4"):
                stages.append(x)
        return stages


class FeatureNetwork(nn.Module):
    """A body, pooling, a standardisation by public constants, and a small head; a logit per label.

    ``forward`` takes images (batch, channels, *sides) or features (batch, n) that were pooled
    before. ``feature_size`` is the side that images are enlarged to first; 0 = as they are.

    ``standard`` "layer" gives each feature vector length 1 on its own, and mean 0; scattering's by
    :meth:`Scattering.standardised`. "validation"
    subtracts ``centre`` and multiplies by ``project`` (n, k), both set by :func:`standardise` from
    features of public images; k = ``components``, or n where that is 0.

    ``pooling`` says what a feature vector is: the "mean" of the last stage over positions, the
    means of the last three "stages", of the two in the "middle" before the last, the means of the
    last one over a "grid" of 2 x 2 parts, or "all" positions of scattering.

    A flat body sees a volume (batch, channels, depth, height, width) as three images, its means
    along each axis, as an X-ray tube would from three sides; the three vectors are averaged.
    """

    centre: Tensor
    project: Tensor

    def __init__(
        self,
        body: nn.Module,
        *,
        pooling: Pooling = "mean",
        feature_size: int = 0,
        standard: Standard = "layer",
        components: int = 0,
        hidden: int = 0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling
        self.feature_size = feature_size
        self.width = _width(body, pooling)
        self.standard = standard
        kept = self.width
        if standard == "validation":
            kept = components or self.width
            self.register_buffer("centre", torch.zeros(self.width))
            self.register_buffer("project", torch.eye(self.width, kept))
        self.fc: nn.Module = nn.Linear(hidden or kept, outputs)
        if hidden:
            self.fc = nn.Sequential(nn.Linear(kept, hidden), nn.Mish(), self.fc)

    def pooled(self, images: Tensor) -> Tensor:
        """Features (batch, n) of images."""
        if images.dim() == 5 and getattr(self.body, "flat", False):
            sides = [self._pooled(images.mean(axis)) for axis in (2, 3, 4)]
            return torch.stack(sides).mean(0)
        return self._pooled(images)

    def _pooled(self, images: Tensor) -> Tensor:
        if self.feature_size:
            flat = images.dim() == 4
            sides = [self.feature_size] * (images.dim() - 2)
            mode = "bilinear" if flat else "trilinear"
            images = interpolate(images, sides, mode=mode, align_corners=False)
        stages: list[Tensor] = self.body(images)
        maps = stages[-1]
        if self.pooling == "all":
            return maps.flatten(1)
        if self.pooling in ("stages", "middle"):
            kept = stages if self.pooling == "stages" else stages[:-1]
            return torch.cat([stage.flatten(2).mean(2) for stage in kept], 1)
        if self.pooling == "grid":
            if maps.dim() == 4:
                return adaptive_avg_pool2d(maps, 2).flatten(1)
            return adaptive_avg_pool3d(maps, (1, 2, 2)).flatten(1)
        return maps.flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, outputs)."""
        features = self.pooled(x) if x.dim() > 2 else x
        if self.standard == "layer" and isinstance(self.body, Scattering):
            features = self.body.standardised(features)
        elif self.standard == "layer":
            features = layer_norm(features, features.shape[1:]) / features.shape[1] ** 0.5
        else:
            features = (features - self.centre) @ self.project
        result: Tensor = self.fc(features)
        return result


def _width(body: nn.Module, pooling: Pooling) -> int:
    """Numbers of an image."""
    if isinstance(body, Scattering):
        return body.width(pooling)
    # torch declares every attribute of a module as a tensor or a module.
    channels: tuple[int, ...] = body.channels  # type: ignore[assignment]
    kept = {"stages": channels, "middle": channels[:-1], "grid": channels[-1:] * 4}
    return sum(kept.get(pooling, channels[-1:]))


def seeded_head(seed: int, body: nn.Module, **keys: Any) -> FeatureNetwork:
    """A :class:`FeatureNetwork` whose head is initialised from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureNetwork(body, **keys)


@torch.no_grad()
def standardise(network: FeatureNetwork, features: Tensor) -> None:
    """Set the constants of "validation" from ``features`` (m, n) of images that are public.

    Principal components, each divided by the root of its standard deviation: half way between
    leaving them, where the first ones rule, and whitening, where noise counts like signal. Their
    root mean square length is 1, as a clipping norm near 1 wants it.
    """
    centre = features.double().mean(0)
    _, values, vectors = torch.linalg.svd(features.double() - centre, full_matrices=False)
    project = network.project
    kept = project.shape[1]
    variance = values.square() / max(1, len(features) - 1)
    variance = variance[:kept].clamp(min=_RIDGE * float(variance[0]) + 1e-12)
    components = vectors[:kept].t() * variance.pow(-0.25)
    components /= variance.sqrt().sum().sqrt()
    project.zero_()
    project[:, : components.shape[1]] = components.to(project.dtype)
    network.centre.copy_(centre)
