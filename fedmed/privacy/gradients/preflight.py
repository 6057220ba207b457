"""A check before the first step: does the engine see all that a sample does, and no other's?"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.engine import BINARY, Loss, Options
from fedmed.privacy.gradients.loop import LoopEngine, norm_of

Unclipped = Callable[[Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-2}  # of the largest entry; rounding is smaller
_LOW_PRECISION = 0.2
ATTEMPTS = 6
"""Pairs that are tried before a model is refused. In float32 a ReLU whose input rounding puts on
either side of 0 lets about one pair of noise images in thirty differ; a model that mixes samples
differs for all."""


def check_against_loop(
    model: nn.Module, unclipped: Unclipped, images: Tensor, labels: Tensor, options: Options
) -> None:
    """Compare ``unclipped`` with :class:`LoopEngine` on two samples in one batch.

    The samples are made up from the operating system's entropy: of ``images`` and ``labels`` only
    shapes and types are read, so that the outcome says nothing about a patient, and no weights can
    be made for the samples of the check: noise for images, 0 or 1 for labels and indices.
    Finds a model or a loss that mixes samples, a loss whose reduction is not the declared one, and
    a rule that does not fit a layer. What it cannot find is a mixing that shows only for other
    inputs. Dropout is off for the check, as its masks would differ. Raises :class:`UserError`
    naming the parameter that differs most, or where the model's gradient is not finite for made-up
    images either.
    """
    _check_loss(model, made_up(images), labels, options)
    problem = ""
    for _ in range(ATTEMPTS):
        pair, answers = made_up(images), made_up(labels, normal=False)
        if options.loss == BINARY:
            # A model that is sure of an answer has a gradient of nothing but rounding for it; of
            # targets -1 and 2 nobody is sure, and the loss is as smooth there.
            answers = 3 * answers - 1
        problem = _problem(model, unclipped, pair, answers, options)
        if not problem:
            return
    raise UserError(problem)


def made_up(like: Tensor, normal: bool = True) -> Tensor:
    """Two rows of that shape and type, from the operating system's entropy: noise, or 0 and 1."""
    draws = torch.Generator(device=like.device).manual_seed(secrets.randbits(63))
    pair = torch.empty(2, *like.shape[1:], dtype=like.dtype, device=like.device)
    if normal and like.is_floating_point():
        return pair.normal_(generator=draws)
    return pair.random_(0, 2, generator=draws)


def _check_loss(model: nn.Module, pair: Tensor, labels: Tensor, options: Options) -> None:
    """Ask a loss of one's own for two samples together, and for each alone.

    The labels are 0 and 1, and where outputs (n, k) have a class each, 0 and every other class:
    two of the same class would not show a division by the weights of the batch, and only two of
    the same class show one by how many there are of it.
    """
    loss = options.loss
    if loss == BINARY:
        return
    with torch.no_grad(), without_dropout(model):
        outputs = model(pair)
        classes = 2
        if labels.dim() == 1 and not labels.is_floating_point() and outputs.dim() == 2:
            classes = max(2, outputs.shape[1])
        for other in range(1, classes):
            for first, second in ((0, other), (other, 0), (other, other)):
                answers = labels.new_zeros(2, *labels.shape[1:])
                answers[0], answers[1] = first, second
                _check_sum(loss, outputs, answers)


def _check_sum(loss: Loss, outputs: Tensor, answers: Tensor) -> None:
    """Raise :class:`UserError` where the loss of two samples is not the sum of theirs alone."""
    allowed = 1e-4 if outputs.dtype in (torch.float32, torch.float64) else 2e-2  # rounding
    terms = [
        float(loss.total(outputs[row : row + 1], answers[row : row + 1], 1)) for row in range(2)
    ]
    error = abs(float(loss.together(outputs, answers, 2)) - sum(terms))
    # A loss may cancel to nothing, as where a norm's outputs are summed: what is left is rounding.
    least = 1e-6 * float(outputs.double().abs().sum())
    if error > allowed * sum(map(abs, terms)) + least:  # not where one is NaN
        raise UserError(
            "loss: of two samples together it is not the sum of theirs alone: it mixes samples, "
            "as class weights under 'mean' do, or another reduction was declared; give one that "
            "is a sum over samples (reduction='sum')"
        )


def _problem(
    model: nn.Module, unclipped: Unclipped, pair: Tensor, answers: Tensor, options: Options
) -> str:
    """What differs for one made-up pair; empty where nothing does."""
    with without_dropout(model):
        loop = LoopEngine(model, options)
        expected = loop.gradient(pair[:1], answers[:1])
        first = norm_of(expected)
        other = loop.gradient(pair[1:], answers[1:])
        true = torch.stack([first, norm_of(other)])
        for name in list(other):  # no more copies of the model at once than needed
            expected[name] += other.pop(name)
        sums, norms = unclipped(pair, answers)
    largest = max(float(value.abs().max()) for value in expected.values() if value.numel())
    if not largest < float("inf"):
        return "model: its gradient is not finite for made-up images; lower train.learning-rate"
    dtype = next(iter(expected.values())).dtype
    allowed = _LOW_PRECISION if options.autocast else TOLERANCE.get(dtype, _LOW_PRECISION)
    errors = {
        name: float((sums[name] - value).abs().max())
        / max(float(value.abs().max()) + largest * 1e-2, 1e-30)  # all gradients may be zero
        for name, value in expected.items()
        if value.numel()
    }
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= allowed:
        return (
            f"model: the gradient of '{worst}' for two samples together is not the sum of theirs "
            "alone; the model mixes samples, so no epsilon holds: remove what mixes them"
        )
    if not bool(((norms - true).abs() <= allowed * true.clamp(min=1e-12)).all()):
        return (
            "model: the gradient norms of two samples together are not theirs alone; a layer "
            "mixes samples or differs from its type: set privacy.engine = 'loop'"
        )
    return ""


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout off, as it was afterwards."""
    active = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training
    ]
    try:
        for module in active:
            module.eval()
        yield
    finally:
        for module in active:
            module.train()
