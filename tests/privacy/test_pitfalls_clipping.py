"""Pitfall 33: a norm that weights can cancel."""

import pytest
import torch
from support import goes_red
from torch import Tensor, nn

from fedmed.privacy.gradients import Loss, Options, bookkeeping, bounds
from fedmed.privacy.gradients.bookkeeping import BookkeepingEngine

POSITIONS = 64


def test_pitfall_33_inner_products_that_cancel_switch_clipping_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large, nearly constant activations and output gradients of mean zero: thousands times C."""
    draws = torch.Generator().manual_seed(0)
    pattern = torch.randn(POSITIONS, generator=draws)
    pattern -= pattern.mean()
    images = 1e6 * (1 + 1e-3 * torch.randn(40, POSITIONS, 1, generator=draws))

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return (outputs.squeeze(2) * pattern).sum()

    def check() -> None:
        engine = BookkeepingEngine(nn.Linear(1, 1, bias=False), 4, Options(Loss(loss)), "ghost")
        engine._checked = True
        for row in range(len(images)):
            found = engine.clipped_sum(images[row : row + 1], torch.zeros(1), 1.0)
            assert float(found.gradients["weight"].double().norm()) <= 1 + 1e-4

    check()
    monkeypatch.setattr(bounds.Bound, "norms", lambda self: self.squares.clamp(min=0).sqrt())
    monkeypatch.setattr(bounds.Bound, "loose", lambda self, _: self.squares.isnan())
    monkeypatch.setattr(bookkeeping, "holds", lambda *_: True)
    goes_red(check)
