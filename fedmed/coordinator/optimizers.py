"""What the server does with the averaged update: averaging, momentum or Adam."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmed.config import Train

Arrays = dict[str, Tensor]


class ServerOptimizer:
    """Turns a round's averaged (and, in the central arms, noised) update into the next model.

    With d the update and s the server's learning rate: ``average`` x + s d (McMahan et al. 2017);
    ``momentum`` m = b1 m + d, x + s m (Hsu et al. 2019); ``adam`` m = b1 m + (1 - b1) d,
    v = b2 v + (1 - b2) d^2, x + s m / (sqrt(v) + tau), v = tau^2 at first (Reddi et al. 2021,
    Algorithm 2, FedAdam). It sees d alone: after noise it is post-processing and spends nothing.
    """

    def __init__(self, train: Train, state: Mapping[str, Arrays] | None = None) -> None:
        self._train = train
        self.state: dict[str, Arrays] = dict(state or {})

    @torch.no_grad()
    def step(self, parameters: Arrays, update: Arrays, *, spend: bool = False) -> Arrays:
        """The next model; ``parameters`` stay, and with ``spend`` the average takes ``update``."""
        train = self._train
        rate, decay = train.server_learning_rate, train.server_momentum
        if train.server_optimizer == "average":
            if spend:
                return {n: update.pop(n).mul_(rate).add_(v) for n, v in parameters.items()}
            return {n: v + rate * update[n] for n, v in parameters.items()}
        first = self.state.get("first") or {n: torch.zeros_like(v) for n, v in parameters.items()}
        if train.server_optimizer == "momentum":
            first = {n: decay * m + update[n] for n, m in first.items()}
            self.state = {"first": first}
            return {n: v + rate * first[n] for n, v in parameters.items()}
        tau, slow = train.server_tau, train.server_second_moment
        second = self.state.get("second") or {
            n: torch.full_like(v, tau**2) for n, v in parameters.items()
        }
        first = {n: decay * m + (1 - decay) * update[n] for n, m in first.items()}
        second = {n: slow * v + (1 - slow) * update[n].square() for n, v in second.items()}
        self.state = {"first": first, "second": second}
        return {n: v + rate * first[n] / (second[n].sqrt() + tau) for n, v in parameters.items()}
