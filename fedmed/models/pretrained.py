"""Pretrained weights, by name or from a local file, never by unpickling code."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from fedmed.errors import UserError

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def load_weights(network: nn.Module, source: str) -> None:
    """Fill ``network`` from ``imagenet`` (torchvision's own) or a .pth or .safetensors file.

    The first convolution is averaged or repeated over its input channels, statistics of a batch
    norm are dropped where the network has none, and the last layer keeps its new initialisation.
    Raises :class:`UserError` naming the file or the array that does not fit.
    """
    given = _imagenet() if source == "imagenet" else _read(Path(source).expanduser())
    own = network.state_dict()
    extra = [name for name in given if name not in own and not name.endswith(_STATISTICS)]
    if extra:
        raise UserError(
            f"model.weights: {source} has an array '{extra[0]}' that the model has not; give "
            "weights of a ResNet-18"
        )
    adapted: dict[str, Tensor] = {}
    for name, value in own.items():
        if name.startswith("fc."):
            adapted[name] = value
            continue
        if name not in given:
            raise UserError(
                f"model.weights: {source} has no array '{name}'; give weights of a ResNet-18"
            )
        array = given[name].to(value.dtype)
        if name == "conv1.weight" and array.shape[1] != value.shape[1]:
            # Grey is the same in every channel: the sum over channels keeps the response.
            total = array.sum(dim=1, keepdim=True)
            array = total.repeat(1, value.shape[1], 1, 1) / value.shape[1]
        if array.shape != value.shape:
            raise UserError(
                f"model.weights: '{name}' in {source} has shape {tuple(array.shape)}, the model "
                f"needs {tuple(value.shape)}; give weights of a ResNet-18 with this stem"
            )
        adapted[name] = array
    network.load_state_dict(adapted)


def _imagenet() -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        raise UserError(
            "model.weights: ImageNet weights could not be downloaded; give a local file, or 'none'"
        ) from error
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"model.weights: no file {path}; give 'none', 'imagenet' or a file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise a dozen kinds
        raise UserError(
            f"model.weights: {path} is damaged or holds more than arrays; save a plain state dict"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"model.weights: {path} is no state dict; save model.state_dict()")
    return state
