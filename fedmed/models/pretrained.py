"""Pretrained weights, by name or from a local file, never by unpickling code."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from fedmed.errors import UserError

_WORDS = {"resnet18": "ResNet-18", "resnet9": "ResNet-9"}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_MADE = ".parametrizations.weight.original"  # what a standardised weight is made from


def load_weights(network: nn.Module, source: str, name: str = "resnet18") -> None:
    """Fill ``network`` from ``imagenet`` (torchvision's own) or a .pth or .safetensors file.

    ``name`` is the architecture's, for messages. The first convolution is averaged or repeated
    over its input channels, statistics of a batch norm are dropped where the network has none, a
    standardised network takes plain weights and the reverse, and the last layer keeps its new
    initialisation. Raises :class:`UserError` naming the file or the array that does not fit.
    """
    flat = not any(isinstance(module, nn.Conv3d) for module in network.modules())
    if source == "imagenet" and (name != "resnet18" or not flat):
        raise UserError(
            f"model.weights: there are no ImageNet weights of {name} for these images; use "
            "model.name = 'resnet18' on flat images, a file, or 'none'"
        )
    given = _imagenet() if source == "imagenet" else _read(Path(source).expanduser())
    given = {array.replace(_MADE, ".weight"): value for array, value in given.items()}
    own = {array.replace(_MADE, ".weight"): array for array in network.state_dict()}
    state = network.state_dict()
    wanted = f"give weights of a {_WORDS[name]}"
    extra = [array for array in given if array not in own and not array.endswith(_STATISTICS)]
    if extra:
        raise UserError(
            f"model.weights: {source} has an array '{extra[0]}' that the model has not; {wanted}"
        )
    for plain, full in own.items():
        value = state[full]
        if plain.startswith("fc."):
            continue
        if plain not in given:
            raise UserError(f"model.weights: {source} has no array '{plain}'; {wanted}")
        array = given[plain].to(value.dtype)
        if array.dim() != value.dim():
            raise UserError(
                f"model.weights: '{plain}' in {source} has shape {tuple(array.shape)}, the model "
                f"needs {tuple(value.shape)}; {wanted} for "
                f"{'volumes' if value.dim() == 5 else 'flat images'}"
            )
        if plain == "conv1.weight" and array.shape[1] != value.shape[1]:
            # Grey is the same in every channel: the sum over channels keeps the response.
            total = array.sum(dim=1, keepdim=True)
            array = total.expand(-1, value.shape[1], *value.shape[2:]) / value.shape[1]
        if array.shape != value.shape:
            raise UserError(
                f"model.weights: '{plain}' in {source} has shape {tuple(array.shape)}, the model "
                f"needs {tuple(value.shape)}; {wanted} with this stem"
            )
        if not bool(torch.isfinite(array).all()):
            raise UserError(
                f"model.weights: '{plain}' in {source} has values that are not finite; give "
                "weights of a training that did not diverge"
            )
        state[full] = array
    network.load_state_dict(state)


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
