"""A model's arrays in a frame between an app and its site's guard."""

from collections.abc import Mapping
from typing import Final

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from fedmed.site.wire import BadFrame

DTYPES: Final = (torch.float32, torch.int64)
"""Of parameters and buffers."""
ANSWERS: Final = (*DTYPES, torch.float64, torch.int32, torch.uint8)
"""Of what a guard answers: sums of whole numbers and counts as well."""


def write_arrays(arrays: Mapping[str, Tensor]) -> bytes:
    """Arrays as safetensors bytes.

    Of arrays that share their memory (Flower hands equal ones out as one) each is written.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in arrays.items():
        value = value.contiguous()
        apart[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return save_bytes(apart)


def read_arrays(
    data: bytes, names: list[str], dtypes: tuple[torch.dtype, ...] = DTYPES
) -> dict[str, Tensor]:
    """Arrays of safetensors bytes, in the order of ``names``; raises :class:`BadFrame`.

    The format's reader checks every length, offset and shape against the bytes that are there.
    """
    try:
        arrays = load_bytes(data)
    except Exception as error:  # bytes from outside: the reader raises a kind of its own
        raise BadFrame("arrays that are no safetensors") from error
    if sorted(arrays) != sorted(names) or any(v.dtype not in dtypes for v in arrays.values()):
        raise BadFrame("arrays of another name or kind")
    return {name: arrays[name] for name in names}
