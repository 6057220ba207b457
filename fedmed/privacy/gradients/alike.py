"""How many samples share a pass, so that none of them changes how another's numbers are rounded.

Kernels choose their order of additions by the shape that they are given, and some by the place of a
row in it. Weights that magnify rounding errors (by 1e9, say) would then let one sample change the
gradients of all others, and no clipping of each would bound what it changes. So a sample must meet
the same kernels in every batch that it can be in: all passes have one shape, and the machine is
asked whether the places in it are alike.
"""

import copy
import logging
import secrets
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from fedmed.privacy.gradients.preflight import made_up, without_dropout

log = logging.getLogger("fedmed.privacy")
Norms = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
_DRAWS: Final = 3  # models and samples that are asked
_known: dict[tuple[object, ...], int] = {}


def pass_size(
    model: nn.Module,
    norms: Norms,
    images: Tensor,
    labels: Tensor,
    views: int,
    most: int,
    way: tuple[object, ...] = (),
) -> int:
    """Samples that every pass has: ``most``, or 1 where each must be alone.

    ``norms(model, images, labels, views)`` gives every sample's norm (n,) in one pass; ``way``
    tells apart the ways in which it does. A copy of the model, with weights and samples from the
    operating system's entropy, is run on one sample that fills the pass, three times with other
    draws: norms, outputs and the gradient at the images must be equal to the last bit in every
    place. Smaller passes are not used: whatever was asked of samples that were drawn, on some
    processor another sample was rounded differently in a pass of another size, and weights that
    magnify rounding told the two apart (3.26 C in odd sizes). Of ``images`` and ``labels`` only
    shapes and types are read, and of the model its form alone: neither a patient nor the server's
    weights have a say. Asked once per form, shape and number of threads.
    """
    shapes = tuple((tuple(p.shape), p.requires_grad, p.dtype) for p in model.parameters())
    about = (tuple(images.shape[1:]), images.dtype, tuple(labels.shape[1:]), images.device.type)
    key = (str(model), shapes, *about, views, most, torch.get_num_threads(), *way)
    if key not in _known:
        _known[key] = _asked(model, norms, images, labels, views, most)
    return _known[key]


def passes(samples: int, size: int) -> list[tuple[int, int]]:
    """How many of ``samples`` share each pass, and the size that it is filled to.

    >>> passes(34, 16)
    [(16, 16), (16, 16), (2, 16)]
    """
    return [(min(size, samples - start), size) for start in range(0, samples, size)]


def _asked(
    model: nn.Module, norms: Norms, images: Tensor, labels: Tensor, views: int, most: int
) -> int:
    for _ in range(_DRAWS):
        rows = _Probe(model, images, labels, views).told(norms, most)
        if not bool((rows == rows[0]).all()):
            log.warning("samples that share a pass are not rounded alike here: each goes alone")
            return 1
    return most


class _Probe:
    """A copy of a model with weights of its own, and one sample for it."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, views: int) -> None:
        self._model = _with_random_weights(model)
        self._image = made_up(images)[:1]
        self._answer = made_up(labels, normal=False)[:1]
        self._views = views

    def told(self, norms: Norms, size: int) -> Tensor:
        """What a pass of ``size`` times that sample gives each of them, (size, n) float64.

        Its norm, and every number of the gradient at its images: a norm alone is one number, which
        two ways of rounding may leave the same.
        """
        views = self._views
        image = self._image.expand(size * views, *self._image.shape[1:]).contiguous()
        answer = self._answer.expand(size * views, *self._answer.shape[1:]).contiguous()
        with without_dropout(self._model):
            rows = [norms(self._model, image, answer, views).reshape(size, 1)]
            rows += [values.reshape(size, -1) for values in _through(self._model, image)]
        return torch.cat([values.double() for values in rows], dim=1)


def _through(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Outputs of a pass and, where images are no indices, the gradient that comes out at them."""
    given = images.detach().clone()
    if not given.is_floating_point():
        with torch.no_grad():
            return [model(given)]
    with torch.enable_grad():
        outputs = model(given.requires_grad_())
        (back,) = torch.autograd.grad(outputs.float().sum(), given)
    return [outputs.detach(), back]


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
