"""The sum of a round's updates, folded in one after the other."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmed.errors import RunError

Arrays = dict[str, Tensor]


class WeightedSum:
    """Sum of updates times weights: one set of float64 arrays, however many hospitals there are.

    Hospitals answer in any order. A float64 sum of n float32 updates depends on the order by at
    most n 2^-53 of the largest partial sum, so that the float32 result is the same for every order
    but where that much decides the rounding: then it differs by one unit in the last place (a
    relative 2^-23).
    """

    def __init__(self) -> None:
        self._total: Arrays = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self.weight = 0.0
        self.count = 0

    def add(self, hospital: str, update: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Fold one hospital's update in; it is not changed and not kept."""
        if not math.isfinite(weight):
            raise RunError(f"{hospital}'s update has the weight {weight}; nothing is aggregated")
        for name, value in update.items():
            if name not in self._total:
                self._total[name] = torch.zeros(value.shape, dtype=torch.float64)
                self._dtypes[name] = value.dtype
            self._total[name].add_(value, alpha=weight)
        self.weight += weight
        self.count += 1

    def over(self, divisor: float) -> Arrays:
        """The sum divided, in the updates' own dtypes; what was summed up is given back."""
        if not self._total or not divisor:
            raise RunError("no hospital sent an update; nothing can be aggregated")
        found: Arrays = {}
        for name in list(self._total):
            found[name] = self._total.pop(name).div_(divisor).to(self._dtypes[name])
        return found
