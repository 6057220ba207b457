"""The fast exact engine: every sample clipped, in one forward and one backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.alike import pass_size, passes
from fedmed.privacy.gradients.clipping import holds
from fedmed.privacy.gradients.engine import (
    ClippedSum,
    Options,
    check_model,
    count_samples,
    filled,
    zeros,
)
from fedmed.privacy.gradients.layers import find_layers
from fedmed.privacy.gradients.preflight import check_against_loop
from fedmed.privacy.gradients.tape import Tape
from fedmed.privacy.gradients.use import Form, Layer


class BookkeepingEngine:
    """Clipped sums by book-keeping (Bu et al. 2023), ``physical_batch_size`` samples at a time.

    The result is that of clipping every sample's gradient, to rounding. Before the first batch the
    model, its loss and the rules are checked on two made-up samples against the loop engine.
    ``form`` forces one form on all layers that have two; for tests and timings.
    """

    def __init__(
        self,
        model: nn.Module,
        physical_batch_size: int,
        options: Options | None = None,
        form: Form | None = None,
    ) -> None:
        if hasattr(model, "_orig_mod"):
            raise UserError(
                "model: it is compiled, and a compiled graph hides the layers whose gradients are "
                "clipped; give the engine the model before torch.compile"
            )
        self._model = model
        self._physical = physical_batch_size
        self._options = options or Options()
        self._form = form
        self._layers = find_layers(model)
        self._checked = False
        kinds = [p.dtype for p in model.parameters() if p.requires_grad]
        self._about = (form, self._options.autocast)
        self._dtype = max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        """See :class:`fedmed.privacy.gradients.Engine`."""
        options = self._options
        sensitivity = options.clipping.sensitivity(clipping_norm)
        samples = count_samples(images, labels, views)
        check_model(self._model)
        if not self._checked:  # an empty batch too: the outcome must not tell of it
            check_against_loop(self._model, self.unclipped, images, labels, options)
            self._checked = True
        size = pass_size(
            self._model, self._alone, images, labels, views, self._physical, self._about
        )
        floor = options.clipping.floor(clipping_norm)
        total: dict[str, Tensor] = {}
        clipped = dropped = start = 0
        for count, whole in passes(samples, size):
            part = slice(start, start + count * views)
            start = part.stop
            given = filled(images[part], labels[part], views, whole)
            tape, norms = self._record(*given, views, floor)
            finite = norms.isfinite()
            factors = options.clipping.factors(norms, clipping_norm, tape.dtype)
            factors[count:] = 0
            sums, square = tape.weighted_sum(factors, None if bool(finite.all()) else finite)
            if not holds(square, sensitivity, count):
                dropped += count
                continue
            dropped += count - int(finite[:count].sum())
            clipped += int((norms > clipping_norm)[:count][finite[:count]].sum())
            _add(total, sums)
        return ClippedSum(_complete(self._model, total), sensitivity, samples, clipped, dropped)

    def unclipped(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Sum of gradients as they are, by name, and the norm (n,) of each."""
        tape, norms = self._record(images, labels, 1, 0.0)
        ones = torch.ones_like(norms, dtype=tape.dtype)
        return _complete(self._model, tape.weighted_sum(ones, None)[0]), norms

    def _alone(self, model: nn.Module, images: Tensor, labels: Tensor, views: int) -> Tensor:
        """Norms (n,) of samples of a copy of the model, in one pass."""
        twin = BookkeepingEngine(model, self._physical, self._options, self._form)
        return twin._record(images, labels, views, 0.0)[1]

    def close(self) -> None:
        """Nothing stays on the model between two calls."""

    def _record(
        self, images: Tensor, labels: Tensor, views: int, floor: float
    ) -> tuple[Tape, Tensor]:
        """One forward and one backward pass; the record and the norms (n,) of its samples."""
        options = self._options
        samples = len(images) // views
        most = max(samples, self._physical)  # more than physical in a check of made-up samples only
        tape = Tape(samples, most, views, self._form, images.device, self._dtype)
        with _recording(self._layers, tape), _own_gradients(self._model):
            with _autocast(options.autocast, images.device):
                outputs = self._model(images)
                loss = options.loss.total(outputs, labels, len(images)) / views
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            for name, parameter in self._model.named_parameters():
                if parameter.requires_grad and parameter.grad is not None:
                    raise UserError(
                        f"model: parameter '{name}' is used outside its layer's own call, so its "
                        "gradient cannot be clipped by sample; call the layer, or set "
                        "privacy.engine = 'loop'"
                    )
        return tape, tape.norms(floor)


@contextmanager
def _recording(layers: list[Layer], tape: Tape) -> Iterator[None]:
    """Let the layers run under their rules for as long as one pass takes."""
    try:
        for layer in layers:
            plain: Callable[[Tensor], Tensor] = layer.module.forward
            layer.module.forward = partial(tape.run, layer, plain)
        yield
    finally:
        for layer in layers:
            vars(layer.module).pop("forward", None)


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    """Empty ``grad`` of all parameters, put back afterwards: what comes into it was not caught."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _autocast(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _add(total: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    for name, gradient in part.items():
        if name in total:
            total[name] += gradient
        else:
            total[name] = gradient


def _complete(model: nn.Module, total: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the model's order, with zeros for parameters that no sample used."""
    if not total:
        return zeros(model)
    return {
        name: total[name] if name in total else torch.zeros_like(parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
