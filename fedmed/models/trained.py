"""Which parameters of a model training changes; no network is built here."""

from torch import nn


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name: the only thing hospitals and server exchange."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
