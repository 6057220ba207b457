"""The server's own step, where hospitals send gradients: ``train.optimizer`` on their sum."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedmed.config import Train
from fedmed.training.optimiser import make_optimizer, schedule

Arrays = dict[str, Tensor]


class ServerSteps:
    """One optimiser over a whole run; ``state`` holds its moments, for the checkpoint.

    It sees a noised gradient alone, so that momentum, moments and schedule are post-processing.
    """

    def __init__(self, train: Train, state: Mapping[str, Arrays] | None = None) -> None:
        self._train = train
        self.state: dict[str, Arrays] = dict(state or {})

    def step(self, parameters: Arrays, gradient: Arrays, number: int) -> Arrays:
        """The next model after step ``number`` (from 1); ``parameters`` stay as they are."""
        own = {name: nn.Parameter(value.clone()) for name, value in parameters.items()}
        optimizer = make_optimizer(own.values(), self._train)
        for name, parameter in own.items():
            parameter.grad = gradient[name]
            held = {key: arrays[name] for key, arrays in self.state.items() if name in arrays}
            if held:
                optimizer.state[parameter] = held
        factor = schedule(self._train, number - 1, self._train.rounds)
        for group in optimizer.param_groups:
            group["lr"] = self._train.learning_rate * factor
        optimizer.step()
        state: dict[str, Arrays] = {}
        for name, parameter in own.items():
            for key, value in optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    state.setdefault(key, {})[name] = value
        self.state = state
        with torch.no_grad():
            return {name: parameter.detach() for name, parameter in own.items()}
