"""Pretrained weights, by name or from a local file, never by unpickling code."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, SqueezeNet1_1_Weights

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, expanded, present, read_bytes
from fedmed.base.packed import check_zip
from fedmed.base.parsing import check_tree, parse_json
from fedmed.models.efficientnet import own_names
from fedmed.models.packaged import packaged_weights

MOST: Final = 512 * MIB
"""Bytes of a file of weights, packed or not: the largest model here has 45 MB of them."""

_HEADER: Final = MIB  # of a safetensors file
_WORDS = {
    "resnet18": "ResNet-18",
    "resnet9": "ResNet-9",
    "squeezenet1_1": "SqueezeNet 1.1",
    "efficientnet_lite0": "EfficientNet-Lite0",
}
_IMAGENET = {
    "resnet18": ResNet18_Weights.IMAGENET1K_V1,
    "squeezenet1_1": SqueezeNet1_1_Weights.IMAGENET1K_V1,
}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_HEADS = ("fc.", "classifier.", "centre", "project")  # last layers, made anew
_STEMS = {3: "small", 7: "imagenet"}  # by the side of the first convolution
_DEEPEST = {0: "resnet9", 1: "resnet18"}  # by the number of a stage's last block
_MADE = ".parametrizations.weight.original"  # what a standardised weight is made from


def load_weights(
    network: nn.Module, source: str, name: str = "resnet18", key: str = "model.name"
) -> None:
    """Fill ``network`` from ``imagenet`` (torchvision's own) or a file of arrays.

    A file is .pth, .safetensors or .npz, of torchvision or of a run of this project. ``name`` is
    the architecture's and ``key`` the setting that it comes from. The first convolution is averaged
    or repeated over its input channels, statistics of a batch norm are dropped where the network
    has none, a standardised network takes plain weights and the reverse, and the last layer keeps
    its new initialisation. Raises :class:`UserError` naming the setting that the file was made with
    another value of, or else the array that does not fit.
    """
    flat = not any(isinstance(module, nn.Conv3d) for module in network.modules())
    packed = name == "efficientnet_lite0"
    if source == "imagenet" and not packed and (name not in _IMAGENET or not flat):
        raise UserError(
            f"model.weights: there are no ImageNet weights of {name} for these images; use "
            "'resnet18' or 'squeezenet1_1' on flat images, a file, or 'none'"
        )
    if source == "imagenet":
        arrays = _read(packaged_weights()) if packed else _imagenet(name)
    else:
        arrays = _read(expanded(source))
    if packed:
        arrays = own_names(arrays)
    given = {_plain(array): value for array, value in arrays.items()}
    state = network.state_dict()
    own = {_plain(full): full for full in state}
    _check_settings(given, {plain: state[full] for plain, full in own.items()}, source, name, key)
    wanted = f"give weights of a {_WORDS[name]}"
    extra = [
        array
        for array in given
        if array not in own and not array.endswith(_STATISTICS) and not array.startswith(_HEADS)
    ]
    if extra:
        raise UserError(
            f"model.weights: {source} has an array '{extra[0]}' that the model has not; {wanted}"
        )
    for plain, full in own.items():
        if plain.startswith(_HEADS):
            continue
        if plain not in given:
            raise UserError(f"model.weights: {source} has no array '{plain}'; {wanted}")
        state[full] = _fitted(given[plain], state[full], plain, source, wanted)
    network.load_state_dict(state)


def _check_settings(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, name: str, key: str
) -> None:
    """Raise :class:`UserError` for the first setting whose value the arrays tell to be another."""
    theirs, ours = _told(given), _told(own)
    pairs = {
        key: (theirs.get("name"), name),
        "data.dimensions": (theirs.get("dimensions"), ours.get("dimensions")),
        "model.stem": (theirs.get("stem"), ours.get("stem")),
    }
    if ours.get("norm") == "frozen-batch":  # of theirs, a network without statistics takes the rest
        pairs["model.norm"] = (theirs.get("norm"), "frozen-batch")
    for setting, (theirs_has, wanted) in pairs.items():
        if theirs_has is not None and wanted is not None and theirs_has != wanted:
            given_as, ours_as = _quoted(theirs_has), _quoted(wanted)
            raise UserError(
                f"{setting}: {source} was made with {given_as}, this model has {ours_as}; set "
                f"{setting} = {given_as}, or give weights made with {ours_as}"
            )


def _told(arrays: Mapping[str, Tensor]) -> dict[str, str | int]:
    """Settings that the names and shapes of a network's arrays tell."""
    settings: dict[str, str | int] = {}
    first = arrays.get("conv1.weight")
    if any(array.startswith("features.") for array in arrays):
        settings["name"] = "squeezenet1_1"
    elif any(array.lstrip("_").startswith("blocks.") for array in arrays):
        settings["name"] = "efficientnet_lite0"
    elif first is not None and any(array.startswith("layer4.") for array in arrays):
        blocks = {int(b) for a in arrays if (b := a.split(".")[1]).isdigit() and a[:5] == "layer"}
        if max(blocks, default=-1) in _DEEPEST:
            settings["name"] = _DEEPEST[max(blocks)]
        settings["norm"] = "frozen-batch" if "bn1.running_mean" in arrays else "group"
        if first.dim() in (4, 5):
            settings["dimensions"] = first.dim() - 2
            if first.shape[-1] in _STEMS:
                settings["stem"] = _STEMS[first.shape[-1]]
    return settings


def _quoted(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _plain(array: str) -> str:
    """An array's name in torchvision's plain network."""
    return array.replace(_MADE, ".weight").removeprefix("body.")


def _fitted(array: Tensor, value: Tensor, name: str, source: str, wanted: str) -> Tensor:
    """``array`` in the shape and type of ``value``."""
    array = array.to(value.dtype)
    shapes = f"model.weights: '{name}' in {source} has shape {tuple(array.shape)}, the model needs "
    shapes += f"{tuple(value.shape)}; {wanted}"
    if array.dim() != value.dim():
        raise UserError(f"{shapes} for {'volumes' if value.dim() == 5 else 'flat images'}")
    if name == "conv1.weight" and array.shape[1] != value.shape[1]:
        # Grey is the same in every channel: the sum over channels keeps the response.
        total = array.sum(dim=1, keepdim=True)
        array = total.expand(-1, value.shape[1], *value.shape[2:]) / value.shape[1]
    if array.shape != value.shape:
        raise UserError(f"{shapes} with this stem")
    if not bool(torch.isfinite(array).all()):
        raise UserError(
            f"model.weights: '{name}' in {source} has values that are not finite; give weights of "
            "a training that did not diverge"
        )
    return array


def _imagenet(name: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = _IMAGENET[name].get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        raise UserError(
            "model.weights: ImageNet weights could not be downloaded; give a local file, or 'none'"
        ) from error
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not present(path):
        raise UserError(f"model.weights: no file {path}; give 'none', 'imagenet' or a file")
    try:
        data = read_bytes(path, MOST, "give weights of a smaller model")
    except UserError as error:
        raise UserError(f"model.weights: {error}") from error
    try:
        state = _arrays(data, path)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes torch raise a dozen kinds
        raise UserError(
            f"model.weights: {path} is damaged or holds more than arrays; save a plain state dict"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and _plain_array(value) for name, value in state.items()
    ):
        raise UserError(f"model.weights: {path} is no state dict; save model.state_dict()")
    return state


def _arrays(data: bytes, path: Path) -> Any:
    """What a file holds, before it is known to be a state dict."""
    if path.suffix == ".safetensors":
        length = int.from_bytes(data[:8], "little")
        check_tree(parse_json(data[8 : 8 + min(length, _HEADER + 1)]))
        return dict(sorted(load(data).items()))
    check_zip(io.BytesIO(data), MOST, f"model.weights: {path}")
    if path.suffix == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _plain_array(value: object) -> bool:
    """Whether it is an array of real numbers that the file holds whole, not a promise of one."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )
