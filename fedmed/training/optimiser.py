"""What a local step does with its gradient, plain or noised: pull, rate, optimiser, average."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fedmed.config import Train
from fedmed.training.moving_average import ParameterAverage


class LocalSteps:
    """The steps of one hospital in one round, given gradients in the parameters' ``grad``.

    Nothing here reads data: under DP-SGD the gradient is noised before it comes, and the FedProx
    pull, schedule, momentum, weight decay and average of what follows are post-processing.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], train: Train, round_number: int, steps: int
    ) -> None:
        self._parameters = list(parameters)
        self._train = train
        self._done, self._steps = (round_number - 1) * steps, train.rounds * steps
        self._optimizer = make_optimizer(self._parameters, train)
        self._average = ParameterAverage(self._parameters, train.ema)
        self._start: list[Tensor] = []
        if train.proximal:
            self._start = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with the gradients that are there, and clear them."""
        if self._start:
            # The gradient of mu/2 |w - w_round|^2 (Li et al. 2020, FedProx, equation 2).
            for parameter, start in zip(self._parameters, self._start, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - start, alpha=self._train.proximal)
        factor = schedule(self._train, self._done, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._train.learning_rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)  # one copy less beside the next gradients
        self._average.update()
        self._done += 1

    def finish(self) -> None:
        """Put the average of the round's parameters in their place, and let moments go.

        An optimiser is part of a cycle of references: it would lie in memory until some later
        collection, as large as one or two models.
        """
        self._average.apply()
        self._optimizer.state.clear()


def schedule(train: Train, step: int, steps: int) -> float:
    """Factor in [0, 1] on the learning rate of ``step`` (0-based) of a run's ``steps``.

    A function of the step alone, so a resumed run goes on where it was, and hospitals with other
    numbers of steps are at the same share of the run. Over the first ``train.warmup`` of the run it
    rises linearly; then it is constant, or falls to 0 along a line or half a cosine (Loshchilov and
    Hutter 2017, without restarts).
    """
    warm = train.warmup * steps
    if step < warm:
        return min(1.0, (step + 1) / warm)
    share = min(1.0, (step - warm) / max(1.0, steps - warm))
    if train.schedule == "linear":
        return 1 - share
    if train.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 1.0


def make_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """A fresh optimiser; its state never outlives a round."""
    given = list(parameters)
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            given,
            lr=train.learning_rate,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            foreach=True,
        )
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
    }
    return kinds[train.optimizer](
        given, lr=train.learning_rate, weight_decay=train.weight_decay, foreach=True
    )
