"""Tensors as Flower carries them, with as few copies as can be: one to write, none to read."""

import functools
import io
import math
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.common.constant import SType
from numpy.typing import NDArray
from torch import Tensor

_MAGIC: Final = np.lib.format.magic(1, 0)
_BEFORE: Final = len(_MAGIC) + 2  # the header's length follows, in two bytes


def encode_arrays(arrays: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors of any device to a Flower record, names and order kept."""
    return ArrayRecord({name: _encode(value) for name, value in arrays.items()})


def decode_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    """A Flower record to CPU tensors, names and order kept.

    They are views of the record's own bytes, which never change: whoever writes to one of them
    writes to the message, and equal arrays may be one. Raises ``ValueError`` for bytes that are no
    whole array.
    """
    return {name: _tensor(_view(value)) for name, value in record.items()}


def encode_update(update: dict[str, Tensor], wire: str, *, spend: bool = False) -> ArrayRecord:
    """An update as it travels: float32, or bfloat16 as the int16 of the same bits; integers as they
    are.

    With ``spend`` it is emptied on the way, so that there are never two copies of all. numpy, and
    so Flower, knows no bfloat16. Rounding comes after clipping and noise: it is post-processing.
    Where the server adds the noise it clips what it has decoded.
    """
    record = ArrayRecord()
    for name in list(update):
        value = update.pop(name) if spend else update[name]
        if wire == "bfloat16" and value.is_floating_point():
            value = value.to(torch.bfloat16).view(torch.int16)
        record[name] = _encode(value)
    return record


def take_arrays(record: ArrayRecord, wire: str = "float32") -> dict[str, Tensor]:
    """Arrays of :func:`encode_update`, views as in :func:`decode_arrays`; the record is emptied.

    Raises ``ValueError`` for bits of another kind, or that are no whole array.
    """
    taken = {}
    for name in list(record):
        value = _tensor(_view(record.pop(name)))
        if wire == "bfloat16":
            if value.dtype != torch.int16:
                raise ValueError(f"array '{name}' is {value.dtype}, not the bits of bfloat16")
            value = value.view(torch.bfloat16).float()
        taken[name] = value
    return taken


def size_of(message: Message) -> int:
    """Bytes of a message's arrays as they are encoded; 0 where it carries none."""
    if not message.has_content():
        return 0
    records = message.content.values()
    return sum(record.count_bytes() for record in records if isinstance(record, ArrayRecord))


def _encode(tensor: Tensor) -> Array:
    """As Flower's own constructor makes it (numpy's file format), with one copy instead of two."""
    value = tensor.detach().cpu().contiguous().numpy()
    header = io.BytesIO()
    about = np.lib.format.header_data_from_array_1_0(value)
    np.lib.format.write_array_header_1_0(header, about)
    data = b"".join((header.getvalue(), value.reshape(-1).view(np.uint8).data))
    return Array(str(value.dtype), value.shape, SType.NUMPY, data)


def _view(array: Array) -> NDArray[Any]:
    """The array over its own bytes; raises ``ValueError`` for any other form than ours."""
    if array.stype != SType.NUMPY:
        raise ValueError(f"arrays of the kind '{array.stype}' are not read")
    data = array.data
    start = _BEFORE + int.from_bytes(data[len(_MAGIC) : _BEFORE], "little")
    shape, dtype = _header(data[:start])
    count = math.prod(shape)
    if len(data) != start + count * dtype.itemsize:
        raise ValueError("an array of another length than its header says")
    return np.frombuffer(data, dtype, count, start).reshape(shape)


@functools.lru_cache(maxsize=4096)
def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and kind; the same few headers come with every round of every hospital."""
    if not data.startswith(_MAGIC):
        raise ValueError("no array of numpy's format, version 1.0")
    try:
        read = np.lib.format.read_array_header_1_0(io.BytesIO(data[len(_MAGIC) :]))
    except Exception as error:  # a header is a Python literal: the parsers raise many kinds
        raise ValueError("not the header of an array") from error
    shape, fortran, dtype = read
    # No object is ever made of bytes from outside, and no order is guessed.
    if fortran or dtype.hasobject:
        raise ValueError("an array of objects, or of another order")
    return shape, dtype


def _tensor(view: NDArray[Any]) -> Tensor:
    if not view.size:  # torch keeps no reference to a buffer without bytes
        return torch.from_numpy(view.copy())
    with warnings.catch_warnings():
        # That it must not be written to is the contract of these functions.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(view)
