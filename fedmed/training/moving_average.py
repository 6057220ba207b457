"""The running average of a model's parameters over the steps of a round."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ParameterAverage:
    """Exponential moving average of parameters after each step, without the bias of its start.

    average = sum of (1 - d) d^(t - i) theta_i / (1 - d^t) over the steps i = 1..t, d = ``decay``
    in [0, 1): the correction of Kingma and Ba 2015, section 3. A decay of 0 is the last step alone,
    and costs nothing. Under DP-SGD every theta_i is noised already, so an average of them is
    post-processing and spends no budget (De et al. 2022, section 3.1).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._steps = 0
        self._sums = [torch.zeros_like(p) for p in self._parameters] if decay else list[Tensor]()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after one more step."""
        self._steps += 1
        if self._decay:
            torch._foreach_lerp_(self._sums, list(self._parameters), 1 - self._decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in the place of the parameters; nothing before the first step."""
        if self._decay and self._steps:
            correction = 1 - self._decay**self._steps
            for parameter, total in zip(self._parameters, self._sums, strict=True):
                parameter.copy_(total / correction)
