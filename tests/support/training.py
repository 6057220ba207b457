"""What tests of the local loop share: one step of plain SGD, and the change of the parameters."""

import torch
from torch import Tensor, nn

from support import make

# One step of plain SGD at rate 1: the change of the parameters is minus the gradient used.
SETTINGS = make(
    train={"optimizer": "sgd", "learning-rate": 1.0, "momentum": 0.0},
    privacy={"arm": "dp-sgd"},
)


def flat(model: nn.Module) -> Tensor:
    """All parameters in one row, copied."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
