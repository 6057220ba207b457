"""The sum of a round's updates, folded in one after the other."""

import math
import mmap
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedmed.base.errors import RunError

Arrays = dict[str, Tensor]


class WeightedSum:
    """Sum of updates times weights: one set of arrays, however many hospitals there are.

    In the updates' own dtypes a sum of n is within n 2^-24 of the sum of their absolute values, and
    the same whenever they come in the same order, as they do from a :class:`StreamingGrid`. With
    ``precise`` it is float64, of twice the memory. The arrays lie in a block of their own, which
    goes back to the system whole: among what training takes and frees they would keep its memory
    in pieces.
    """

    def __init__(self, *, precise: bool = False) -> None:
        self._precise = precise
        self._dtypes: dict[str, torch.dtype] = {}
        self._total: Arrays = {}
        self.weight = 0.0
        self.count = 0

    def add(self, hospital: str, update: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Fold one hospital's update in; it is not changed and not kept."""
        if not math.isfinite(weight):
            raise RunError(f"{hospital}'s update has the weight {weight}; nothing is aggregated")
        if not self._total:
            self._dtypes = {name: value.dtype for name, value in update.items()}
            kinds = dict.fromkeys(update, torch.float64) if self._precise else self._dtypes
            self._total = _zeros({n: (v.shape, kinds[n]) for n, v in update.items()})
        for name, value in update.items():
            self._total[name].add_(value, alpha=weight)
        self.weight += weight
        self.count += 1

    def over(self, divisor: float) -> Arrays:
        """The sum divided, in the updates' own dtypes; what was summed up is given back."""
        if not self._total or not divisor:
            raise RunError("no hospital sent an update; nothing can be aggregated")
        mean: Arrays = {}
        for name in list(self._total):
            mean[name] = self._total.pop(name).div_(divisor).to(self._dtypes[name])
        return mean


class TrimmedSum:
    """Sum of updates without the ``trim`` smallest and largest numbers of each coordinate.

    Yin et al. (2018), Definition 2. Of ``trim`` hospitals that send what they like, no coordinate
    leaves the range of the others' numbers. Memory is that of 2 ``trim`` + 1 updates, however many
    hospitals there are: what is in the middle of those seen so far never becomes extreme again.
    """

    def __init__(self, trim: int) -> None:
        self._trim = trim
        self._middle = WeightedSum()
        self._low: list[Arrays] = []
        self._high: list[Arrays] = []

    @property
    def weight(self) -> float:
        """How many numbers are left in each coordinate."""
        return self._middle.weight

    def add(self, hospital: str, update: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Fold one hospital's update in; it is not changed. All weigh the same."""
        if weight != 1.0:
            raise RunError(f"{hospital} has the weight {weight} in a trimmed mean; use 'equal'")
        left = {name: value.clone() for name, value in update.items()}
        for held, first, second in (
            (self._low, torch.minimum, torch.maximum),
            (self._high, torch.maximum, torch.minimum),
        ):
            for kept in held:
                for name, value in left.items():
                    kept[name], left[name] = first(kept[name], value), second(kept[name], value)
            if len(held) < self._trim:
                held.append(left)
                return
        self._middle.add(hospital, left)

    def over(self, divisor: float) -> Arrays:
        """See :meth:`WeightedSum.over`; raises where nobody is left in the middle."""
        if not self.weight:
            raise RunError(
                f"train.trim = {self._trim} leaves none of the {len(self._low) + len(self._high)} "
                "updates that came; lower it, or wait for more hospitals"
            )
        return self._middle.over(divisor)


def _zeros(forms: Mapping[str, tuple[torch.Size, torch.dtype]]) -> Arrays:
    """Zeros of these names, shapes and dtypes, one after the other in fresh pages."""
    sizes = {name: shape.numel() * dtype.itemsize for name, (shape, dtype) in forms.items()}
    whole = sum(-(-size // 64) * 64 for size in sizes.values())
    block = np.frombuffer(mmap.mmap(-1, max(1, whole)), np.uint8)
    arrays, start = {}, 0
    for name, (shape, dtype) in forms.items():
        part = torch.from_numpy(block[start : start + sizes[name]])
        arrays[name] = part.view(dtype).view(shape)
        start += -(-sizes[name] // 64) * 64
    return arrays
