"""What a sum of whole numbers looks like on its way, and where a simulation keeps its keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fedmed.base.files import safe_name
from fedmed.privacy.mechanisms.grid import Vector
from fedmed.secure_sum import Masked, Note, SumRefused

_FOLDER: Final = "sums"


def secret_file(run: Path) -> Path:
    """The secret from which a simulation's members have their long-term keys, in a run's folder."""
    return run / _FOLDER / "keys"


def member_file(run: Path, name: str) -> Path:
    """What a simulated member holds between two messages."""
    return run / _FOLDER / f"{safe_name(name)}.json"


def packed(vector: Vector) -> dict[str, Tensor]:
    """A sum as the arrays of an update: whole numbers of 32 bits."""
    return {"sum": torch.from_numpy(vector.view(np.int32))}


def packed_masked(masked: Masked) -> dict[str, Tensor]:
    """A masked sum as the arrays of an update, with its note as bytes."""
    note = np.frombuffer(masked.note.to_text().encode(), dtype=np.uint8).copy()
    return {"note": torch.from_numpy(note), **packed(masked.vector)}


def vector_of(update: Mapping[str, Tensor]) -> Vector:
    """The whole numbers of a checked update."""
    vector: Vector = update["sum"].numpy().view(np.uint32)
    return vector


def note_of(update: Mapping[str, Tensor]) -> Note:
    """The note of a masked sum; raises :class:`SumRefused` where it is none."""
    try:
        return Note.from_text(update["note"].numpy().tobytes().decode())
    except (KeyError, UnicodeDecodeError) as error:
        raise SumRefused("a masked sum without a note") from error


def masked_of(update: Mapping[str, Tensor]) -> Masked:
    """A checked update's vector and note; raises :class:`SumRefused`."""
    return Masked(vector=vector_of(update), note=note_of(update))
