"""Embeddings: rows of a table, chosen by index."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.bounds import Estimate, sum_of_pairs
from fedmed.privacy.gradients.forms import chunks, full
from fedmed.privacy.gradients.use import Form, Part, Use


class EmbeddingRule:
    """``nn.Embedding`` on indices (rows, ...); what lies behind the batch are positions T."""

    cost = (
        "ghost T^2 width, direct a whole table per sample; ghost unless a sample has more "
        "positions than the table has rows"
    )

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        """The layer with a detached table."""
        module = cast(nn.Embedding, use.module)
        # max_norm rescales rows by which are used, scale_grad_by_freq counts over the batch.
        for option in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(module, option):
                raise UserError(
                    f"model: layer '{use.layer.name}' has {option}, which clipping by sample does "
                    "not allow; make the embedding without it"
                )
        return use.watch(
            self, inputs, embedding(inputs, module.weight.detach(), module.padding_idx)
        )

    def form(self, use: Use) -> Form:
        """By the numbers that are made."""
        positions = use.a[0].numel() * use.tape.views
        return "ghost" if positions <= cast(nn.Embedding, use.module).num_embeddings else "direct"

    def per_sample(self, use: Use) -> Iterator[Part]:
        """g added into each sample's own table."""
        module = cast(nn.Embedding, use.module)
        indices, g = _positions(use)
        for rows in chunks(len(g), module.weight.numel()):
            part = g[rows]
            table = part.new_zeros(len(part), *module.weight.shape)
            where = indices[rows][..., None].expand(-1, -1, part.shape[2])
            yield rows, {"weight": table.scatter_add_(1, where, part)}

    def squared_norms(self, use: Use) -> Estimate:
        """Sum of g g' over pairs of positions with the same index."""
        indices, g = _positions(use)
        positions, width = g.shape[1:]
        same = (indices[:, :, None] == indices[:, None, :]).to(g.dtype)
        gram = torch.bmm(g, g.transpose(1, 2))
        lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
        absolute = torch.bmm(same, lengths[:, :, None])[:, :, 0] * lengths
        tiny = positions**2 * width * 4 * torch.finfo(g.dtype).tiny / torch.finfo(g.dtype).eps
        return Estimate(
            sum_of_pairs(gram, same), absolute.sum(1) + tiny, width + 2 * positions + 8, positions
        )

    def weighted_sum(self, use: Use, factors: Tensor) -> dict[str, Tensor]:
        """Rescaled g added into one table."""
        module = cast(nn.Embedding, use.module)
        indices, g = _positions(use)
        table = g.new_zeros(module.weight.shape)
        scaled = (g * factors[:, None, None]).flatten(0, 1)
        return {"weight": table.index_add_(0, indices.flatten(), scaled)}

    def whole(self, use: Use, own: str, gradient: Tensor) -> Tensor:
        """Nothing was left out."""
        return gradient


def _positions(use: Use) -> tuple[Tensor, Tensor]:
    """Indices (samples, positions) and their g (..., width), zero at the padding index."""
    module, samples = cast(nn.Embedding, use.module), use.samples
    indices = use.a.reshape(samples, -1)
    g = full(use.g).reshape(samples, -1, module.embedding_dim)
    if module.padding_idx is not None:
        g = g.masked_fill((indices == module.padding_idx)[..., None], 0)
    return indices, g
