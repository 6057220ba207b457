"""The sum of a round's updates, folded in one after the other."""

import math
import mmap
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedmed.errors import RunError

Arrays = dict[str, Tensor]


class WeightedSum:
    """Sum of updates times weights: one set of arrays, however many hospitals there are.

    Hospitals answer in any order. A sum of n float32 updates depends on the order, by at most
    n 2^-24 of the sum of their absolute values: less than training ever notices, and half the
    memory of float64. The arrays lie in a block of their own, which goes back to the system whole:
    among what training takes and frees they would keep its memory in pieces.
    """

    def __init__(self) -> None:
        self._total: Arrays = {}
        self.weight = 0.0
        self.count = 0

    def add(self, hospital: str, update: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Fold one hospital's update in; it is not changed and not kept."""
        if not math.isfinite(weight):
            raise RunError(f"{hospital}'s update has the weight {weight}; nothing is aggregated")
        if not self._total:
            self._total = _zeros_like(update)
        for name, value in update.items():
            self._total[name].add_(value, alpha=weight)
        self.weight += weight
        self.count += 1

    def over(self, divisor: float) -> Arrays:
        """The sum divided; what was summed up is given back."""
        if not self._total or not divisor:
            raise RunError("no hospital sent an update; nothing can be aggregated")
        found, self._total = self._total, {}
        return {name: value.div_(divisor) for name, value in found.items()}


def _zeros_like(arrays: Mapping[str, Tensor]) -> Arrays:
    """Zeros of the same names, shapes and dtypes, one after the other in fresh pages."""
    aligned = {name: -(-value.nbytes // 64) * 64 for name, value in arrays.items()}
    block = np.frombuffer(mmap.mmap(-1, max(1, sum(aligned.values()))), np.uint8)
    found, start = {}, 0
    for name, value in arrays.items():
        part = torch.from_numpy(block[start : start + value.nbytes])
        found[name] = part.view(value.dtype).view(value.shape)
        start += aligned[name]
    return found
