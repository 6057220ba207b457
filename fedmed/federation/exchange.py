"""What hospitals and server tell each other, whatever carries it: answers, codes, a model's arrays.

No Flower here: a site's guard speaks of the same things over a socket.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from fedmed import __version__
from fedmed.config import Scalar
from fedmed.evaluation.pooled.histograms import Spec
from fedmed.models import trainable

ERRORS: Final = {
    "data": "the hospital's data do not do for this, for a reason that its own log has",
    "plan": "the hospital could not make the plan that was asked for",
    "policy": "the hospital's own policy does not allow it",
    "budget": "the hospital has taken all the steps that its plan pays for",
    "ledger": "the hospital's ledger could not be written",
    "not-finite": "the model that came is not finite, or training without protection made it so",
    "requests": "the hospital has answered as many requests as its policy allows",
    "mismatch": "the server's model does not fit the hospital's",
    "memory": "the hospital ran out of memory",
    "internal": "an unexpected failure; the hospital's own log names its kind",
    "bad-counts": "the histograms had another form, or numbers that cannot be",
    "bad-update": "the update had another form, or numbers that cannot be",
    "version": "the hospital runs another version of fedmed than the server",
    "meeting": "the hospital has no keys of this meeting of a secure sum (any more)",
    "sum": "the hospital refused a message of the secure sum; its own log says why",
    "bad-sum": "the masked sum had another form, or was of another step",
    "app": "the hospital's policy does not name this app bundle",
    "buffers": "the hospital no longer has the buffers that no training changes",
    "frame": "the request to the hospital's guard had another form",
    "guard": "the hospital's guard cannot be reached",
    "peer": "the hospital's guard does not hear this user",
    "absent": "the hospital has not joined, or not again",
    "no-answer": "no answer came in time, or the hospital's process ended",
}


@dataclass(frozen=True)
class Reply:
    """A hospital's answer to a train message: an update, or an error code."""

    hospital: str
    update: dict[str, Tensor] | None = None
    loss: float | None = None
    images: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Histograms:
    """A hospital's answer to an evaluate message: counts by family, or an error code.

    ``clustering`` tells how images cluster in patients; 1 under an arm that protects anything.
    """

    hospital: str
    counts: dict[str, NDArray[np.float64]] | None = None
    clustering: float = 1.0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Joining:
    """A hospital's answer to a query; where it does not accept, what it would take instead.

    ``rounds`` at the plan's own noise, ``epsilon`` at its own length; 0 where there is no room.
    Both come from the policy and the ledger, never from data. ``public_size`` is the number of
    units that the policy declares; 0 where it declares none. ``evaluates``: whether it would send
    histograms of its evaluation patients, where the settings ask for them. ``own`` holds what the
    hospital sets of its own (see :mod:`fedmed.site.own_settings`), ``version`` its fedmed's.
    """

    hospital: str
    accepts: bool = True
    evaluates: bool = True
    rounds: int = 0
    epsilon: float = 0.0
    public_size: int = 0
    own: Mapping[str, Scalar] = field(default_factory=dict)
    version: str = __version__


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
