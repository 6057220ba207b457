"""Linear layers: y = a W^T + b at every position of a sample."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedmed.privacy.gradients.bounds import Estimate
from fedmed.privacy.gradients.forms import chunks, full, gram_product, with_bias
from fedmed.privacy.gradients.use import Form, Part, Use


class LinearRule:
    """``nn.Linear`` on (rows, ..., features); the dimensions between are positions T."""

    cost = (
        "ghost T^2 (in + out), direct T in out and as much memory; the smaller: ghost for one "
        "position (T = 1, where it is |a|^2 |g|^2), direct for long sequences of narrow layers"
    )

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """The layer with detached parameters."""
        module = cast(nn.Linear, use.module)
        bias = None if module.bias is None else module.bias.detach()
        inputs = use.tape.cast(inputs)
        return use.watch(self, inputs, linear(inputs, module.weight.detach(), bias))

    def form(self, use: Use) -> Form:
        """By multiply-adds; an element that is kept costs more than one that is multiplied."""
        module = cast(nn.Linear, use.module)
        into, out = module.in_features, module.out_features
        positions = use.a[0].numel() // into * use.tape.views
        return "ghost" if positions**2 * (into + out) <= (positions + 16) * into * out else "direct"

    def per_sample(self, use: Use) -> Iterator[Part]:
        """g^T a of each sample."""
        a, g = _positions(use)
        for rows in chunks(len(a), a.shape[2] * g.shape[2]):
            gradients = {}
            if use.trains("weight"):
                gradients["weight"] = torch.bmm(full(g[rows]).transpose(1, 2), full(a[rows]))
            if use.trains("bias"):
                gradients["bias"] = full(g[rows]).sum(1)
            yield rows, gradients

    def squared_norms(self, use: Use) -> Estimate:
        """Sum over pairs of positions of (a a')(g g'), and |sum of g|^2 for the bias."""
        a, g = (full(tensor) for tensor in _positions(use))
        weight = gram_product(a, g) if use.trains("weight") else None
        return with_bias(weight, g) if weight is None or use.trains("bias") else weight

    def weighted_sum(self, use: Use, factors: Tensor) -> dict[str, Tensor]:
        """One product with rescaled g."""
        a, g = (full(tensor) for tensor in _positions(use))
        scaled = (g * factors[:, None, None]).flatten(0, 1)
        sums = {}
        if use.trains("weight"):
            sums["weight"] = scaled.t() @ a.flatten(0, 1)
        if use.trains("bias"):
            sums["bias"] = scaled.sum(0)
        return sums

    def whole(self, use: Use, own: str, gradient: Tensor) -> Tensor:
        """Nothing was left out."""
        return gradient


def _positions(use: Use) -> tuple[Tensor, Tensor]:
    """Input and gradient as (samples, positions, features)."""
    samples = use.samples
    return (
        use.a.reshape(samples, -1, use.a.shape[-1]),
        use.g.reshape(samples, -1, use.g.shape[-1]),
    )
