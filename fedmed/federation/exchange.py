"""A model's arrays as hospitals and server exchange them, whatever carries them.

No Flower here: a site's guard speaks of the same things over a socket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from fedmed.models.trained import trainable

if TYPE_CHECKING:
    from fedmed.evaluation.pooled.histograms import Spec


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy of the trainable parameters, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in trainable(model).items()}


def frozen_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy of everything in the state that training never changes."""
    names = trainable(model).keys()
    return {n: v.detach().cpu().clone() for n, v in model.state_dict().items() if n not in names}


def install(model: nn.Module, arrays: Mapping[str, Tensor]) -> None:
    """Copy arrays into the model's state; raises ``ValueError`` for another name or shape."""
    own = model.state_dict()
    for name, value in arrays.items():
        if name not in own or own[name].shape != value.shape:
            raise ValueError(f"array '{name}' does not fit the model")
    with torch.no_grad():
        for name, value in arrays.items():
            own[name].copy_(value)


def fingerprint(arrays: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes: which model a request was about."""
    digest = hashlib.sha256()
    for name, value in arrays.items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def request_fingerprint(arrays: Mapping[str, Tensor], spec: Spec) -> str:
    """SHA-256 of a model and the public cells: which release of histograms was asked for."""
    return hashlib.sha256(f"{fingerprint(arrays)}|{spec!r}".encode()).hexdigest()


class Buffers:
    """What a hospital's process keeps of a model between rounds: what no training changes.

    It comes once and is known by its fingerprint from then on. The last model's is kept.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}

    def find(self, given: dict[str, Tensor] | str) -> dict[str, Tensor] | None:
        """The buffers that came, or those kept of this fingerprint; None where unknown."""
        return self._kept.get(given) if isinstance(given, str) else given

    def keep(self, buffers: dict[str, Tensor]) -> None:
        """Keep what was found to fit the model; a model without any leaves the last ones."""
        if buffers and not any(kept is buffers for kept in self._kept.values()):
            self._kept = {fingerprint(buffers): buffers}

    def forget(self) -> None:
        """Keep nothing."""
        self._kept = {}


def pack(update: Mapping[str, Tensor]) -> bytes:
    """Arrays as safetensors bytes: what a ledger keeps of a release."""
    return save_bytes({name: value.contiguous() for name, value in update.items()})


def unpack(data: bytes) -> dict[str, Tensor]:
    """Arrays of :func:`pack`."""
    return dict(load_bytes(data))
