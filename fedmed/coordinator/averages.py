"""The running average of the global model over rounds: what a run is scored on and ends with."""

from collections.abc import Mapping
from typing import Final

import torch

from fedmed.base.errors import UserError
from fedmed.coordinator.summing import Arrays

_KEPT: Final = "average:"  # before the owner's name, in a checkpoint's state


class RoundAverages:
    """Exponential moving average of each owner's model after every round, without its start's bias.

    average = sum of (1 - d) d^(t - i) theta_i / (1 - d^t) over the rounds i = 1..t, d = ``decay``
    in [0, 1) (Kingma & Ba 2015, section 3). Hospitals go on from theta_t, whatever the average is.
    Under an arm with noise every theta_i is released already: an average spends no budget.
    """

    def __init__(self, decay: float, state: Mapping[str, Arrays]) -> None:
        self._decay = decay
        self._sums = {
            name.removeprefix(_KEPT): arrays
            for name, arrays in state.items()
            if name.startswith(_KEPT)
        }

    @property
    def state(self) -> dict[str, Arrays]:
        """What a checkpoint keeps."""
        return {f"{_KEPT}{owner}": arrays for owner, arrays in self._sums.items()}

    @torch.no_grad()
    def update(self, rounds: int, models: Mapping[str, Arrays]) -> None:
        """Take in the models after so many rounds; they stay as they are.

        Raises :class:`UserError` where a checkpoint was without what it should have kept.
        """
        for owner, model in models.items() if self._decay else ():
            if rounds > 1 and owner not in self._sums:
                raise UserError(
                    f"the checkpoint has no average of {owner}'s model; delete the run's folder "
                    "and run again"
                )
            total = self._sums.get(owner) or {n: torch.zeros_like(v) for n, v in model.items()}
            self._sums[owner] = {
                name: torch.lerp(total[name], value, 1 - self._decay)
                for name, value in model.items()
            }

    def after(self, rounds: int, models: Mapping[str, Arrays]) -> Mapping[str, Arrays]:
        """Averages after so many rounds by owner; ``models`` before the first, or of decay 0."""
        if not rounds or not self._sums:
            return models
        correction = 1 - self._decay**rounds
        return {
            owner: {name: value / correction for name, value in self._sums[owner].items()}
            for owner in models
        }


def without_averages(state: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """What of a checkpoint's state is the strategy's own."""
    return {name: arrays for name, arrays in state.items() if not name.startswith(_KEPT)}
