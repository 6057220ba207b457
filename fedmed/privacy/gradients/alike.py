"""How many samples share a pass, so that none of them changes how another's numbers are rounded.

Kernels choose their order of additions by the shape that they are given, and some by the place of a
row in it. Weights that magnify rounding errors (by 1e9, say) would then let one sample change the
gradients of all others, and no clipping of each would bound what it changes. So a sample must meet
the same kernels in every batch that it can be in. Which shapes do that is asked of the machine.
"""

import copy
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from fedmed.privacy.gradients.preflight import made_up, without_dropout

log = logging.getLogger("fedmed.privacy")
Norms = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
_LEAST: Final = 4  # samples of the smallest pass that is tried
_known: dict[tuple[object, ...], tuple[int, ...]] = {}


def pass_sizes(
    model: nn.Module,
    norms: Norms,
    images: Tensor,
    labels: Tensor,
    views: int,
    most: int,
    way: tuple[object, ...] = (),
) -> tuple[int, ...]:
    """Samples that a pass may have, ascending, ``most`` the last; (1,) where each must be alone.

    ``norms(model, images, labels, views)`` gives every sample's norm (n,) in one pass; ``way``
    tells apart the ways in which it does. A copy of the model, with weights and samples from the
    operating system's entropy, is run on one sample, repeated, at a quarter, half, three quarters
    and the whole of ``most``: norms must be equal to the last bit, in every place and at every size
    that is used. Odd sizes are not tried: for some, norms of one sample were equal and weights that
    magnify rounding still told them apart (3.26 C). Of ``images`` and ``labels`` only shapes and
    types are read, and of the model its form alone: neither a patient nor the server's weights have
    a say. Asked once per form, shape and number of threads.
    """
    shapes = tuple((tuple(p.shape), p.requires_grad, p.dtype) for p in model.parameters())
    about = (tuple(images.shape[1:]), images.dtype, tuple(labels.shape[1:]), images.device.type)
    key = (str(model), shapes, *about, views, most, torch.get_num_threads(), *way)
    if key not in _known:
        _known[key] = _asked(model, norms, images, labels, views, most)
    return _known[key]


def passes(samples: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """How many of ``samples`` share each pass, and the size of ``sizes`` that it is filled to.

    >>> passes(34, (4, 8, 12, 16))
    [(16, 16), (16, 16), (2, 4)]
    """
    found = []
    for start in range(0, samples, sizes[-1]):
        count = min(sizes[-1], samples - start)
        found.append((count, next(size for size in sizes if size >= count)))
    return found


def _asked(
    model: nn.Module, norms: Norms, images: Tensor, labels: Tensor, views: int, most: int
) -> tuple[int, ...]:
    probe = _with_random_weights(model)
    one, answer = made_up(images)[:1], made_up(labels, normal=False)[:1]

    def norms_of(size: int) -> Tensor:
        rows = size * views
        image = one.expand(rows, *one.shape[1:]).contiguous()
        return norms(probe, image, answer.expand(rows, *answer.shape[1:]).contiguous(), views)

    with without_dropout(probe):
        whole = norms_of(most)
        if not bool((whole == whole[0]).all()):
            log.warning("samples that share a pass are not rounded alike here: each goes alone")
            return (1,)
        parts = [most // 4, most // 2] if most % 4 == 0 else [most // 2] if most % 2 == 0 else []
        for part in parts:
            smaller = range(part, most, part)
            if part >= _LEAST and all(bool((norms_of(n) == whole[0]).all()) for n in smaller):
                return (*smaller, most)
    return (most,)


@torch.no_grad()
def _with_random_weights(model: nn.Module) -> nn.Module:
    """A copy whose activations are of ordinary size, whatever the weights were.

    Its draws are its own: torch's global generator, which dropout uses, stays where it was.
    """
    probe = copy.deepcopy(model)
    seed = secrets.randbits(63)
    generators: dict[torch.device, torch.Generator] = {}
    for value in [*probe.parameters(), *probe.buffers()]:
        if not value.is_floating_point():
            continue
        if value.device not in generators:
            generators[value.device] = torch.Generator(value.device).manual_seed(seed)
        draws = generators[value.device]
        if value.dim() > 1:
            value.normal_(0, (value[0].numel() or 1) ** -0.5, generator=draws)
        else:
            value.uniform_(0.5, 1.5, generator=draws)
    return probe
