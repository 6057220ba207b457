"""``model``: the classifier."""

from typing import Annotated, Literal

from pydantic import Field

from fedmed.config.names import Unit
from fedmed.config.tables.section import Section


class Model(Section):
    """The classifier."""

    name: Literal["resnet18", "resnet9", "squeezenet1_1", "probe"] = "resnet18"
    """The architecture. ResNets have two residual blocks in each of four stages, or one; for
    volumes, the same in three dimensions. SqueezeNet 1.1 has no norm. A probe trains a head on
    [features](recipe.md#probes) that are computed once."""

    norm: Literal["group", "frozen-batch"] = "group"
    """GroupNorm, or batch norm with statistics that stay as the pretrained weights have them.
    `frozen-batch` needs `model.weights`."""

    activation: Literal["relu", "mish"] = "relu"
    """Mish is smooth; ResNet-9 with it is the network of Tayebi Arasteh et al. 2024."""

    weight_standardisation: bool = False
    """Convolutions use weights of mean 0 and fixed variance per output channel (Qiao et al. 2019).
    Not with `frozen-batch`."""

    stem: Literal["auto", "imagenet", "small"] = "auto"
    """First layers. `imagenet`: 7x7 convolution and max-pool. `small`: 3x3 convolution, no pool.
    `auto`: `imagenet` with pretrained weights or from 64 pixels up, else `small`."""

    channels: Annotated[int, Field(ge=1, le=64)] = 1
    """Input channels: 1, 3, or `data.slices`. With 3, the grey image is repeated. With
    `data.slices`, each slice is a channel."""

    weights: Annotated[str, Unit("`none`, `imagenet`, `pretrain`, or a path")] = "none"
    """Starting weights: random, ImageNet's (torchvision's, downloaded; EfficientNet-Lite0's with
    the extra `imagenet`), those of the experiment's [`[pretrain]`](recipe.md#transfer), or a local
    `.pth`, `.safetensors` or `.npz` file of the same architecture. A run's `model.safetensors` is
    one."""

    weights_origin: Annotated[str, Unit("text")] = ""
    """What the statement says of the weights: their data, and who declared them public."""

    trains: Literal["all", "last-block", "norms", "head"] = "all"
    """What training changes. `norms`: the factors and shifts of the norms, and the head. The rest
    is neither sent by hospitals nor noised."""

    features: Literal[
        "squeezenet1_1", "efficientnet_lite0", "resnet18", "resnet9", "scattering"
    ] = "squeezenet1_1"
    """`probe`: whose features. EfficientNet-Lite0's install
    [with pip](recipe.md#imagenets-features). [Scattering](recipe.md#scattering) has no weights."""

    scales: Annotated[int, Field(ge=1, le=6), Unit("octaves")] = 2
    """`scattering`: how many times the side is halved: J of the literature."""

    feature_size: Annotated[int, Field(ge=0, le=1024), Unit("pixels")] = 0
    """`probe`, `squeezenet1_1`: the side that images are enlarged to first. 0: as they are."""

    pooling: Literal["mean", "stages", "middle", "grid", "all"] = "mean"
    """`probe`, `squeezenet1_1`: the means of the last stage over positions (512 numbers; of
    EfficientNet-Lite0 320), of the last three stages (896; 472), of the two before the last (384;
    152), or of the last one over 2 x 2 parts (2,048; 1,280). `scattering`: the means of its maps
    (81 numbers of an image), over 2 x 2 parts (324), or all positions."""

    standardise: Literal["layer", "validation"] = "layer"
    """`probe`: each feature vector on its own to length 1, or all by the principal
    components of the server's validation images, which are public."""

    components: Annotated[int, Field(ge=0, le=4096), Unit("components")] = 0
    """`validation`: how many components. 0: all."""

    hidden: Annotated[int, Field(ge=0, le=4096), Unit("units")] = 0
    """`probe`, `squeezenet1_1`: a hidden layer in the head. 0: none."""
