"""What hospitals answer, whatever carries it, and the codes of their refusals.

Neither torch nor Flower here: who only passes answers on needs none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedmed import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fedmed.config import Scalar

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
