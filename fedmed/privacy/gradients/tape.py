"""What one forward and one backward pass leave behind: the pieces of every sample's gradient.

Layers run with detached parameters, so the backward pass computes gradients of activations alone.
At each layer the input a and the gradient g of the output are caught as they pass. From them come
every sample's squared gradient norm and, once the clipping factors are known, the clipped sum
(book-keeping: Bu et al. 2023, "Differentially private optimization on large model at small cost").
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmed.base.errors import UserError
from fedmed.privacy.gradients.bounds import (
    UNDERFLOW,
    Bound,
    Estimate,
    exact_squares,
    full_products,
    gamma,
    sum_of_squares,
)
from fedmed.privacy.gradients.clipping import square_of
from fedmed.privacy.gradients.use import Form, GhostRule, Layer, Part, Use, WatchedRule, has_ghost


class _Root(torch.autograd.Function):
    """The identity, in place: where no earlier layer is trained, the backward pass ends here."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, outputs: Tensor, _: Tensor) -> Tensor:
        ctx.mark_dirty(outputs)
        return outputs

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *_: Tensor) -> tuple[None, None]:
        return None, None


@dataclass
class Tape:
    """The record of one pass over ``samples`` samples of ``views`` rows each.

    ``most`` samples share a pass at most: error bounds rest on that public number, so that no
    sample's bound depends on how many others there are.
    """

    samples: int
    most: int
    views: int
    form: Form | None  # the same form for every layer that has it; None: the cheaper one
    device: torch.device
    dtype: torch.dtype  # of the sums
    calls: Counter[str] = field(default_factory=Counter)
    squares: list[Tensor] = field(default_factory=list)  # of direct layers, upper bounds
    ghosts: list[tuple[Use, GhostRule, Estimate]] = field(default_factory=list)
    parts: list[tuple[Layer, Part]] = field(default_factory=list)
    leaves: list[tuple[Layer, dict[str, Tensor]]] = field(default_factory=list)
    shared: dict[str, Tensor] = field(default_factory=dict)
    small: dict[str, Tensor] = field(default_factory=dict)
    joined: Tensor | None = None  # all of ``small`` side by side
    loose: Tensor | None = None  # samples (indices) whose ghost layers are summed in float64

    @property
    def rows(self) -> int:
        """Rows of a batch: samples times views."""
        return self.samples * self.views

    def cast(self, inputs: Tensor) -> Tensor:
        """``inputs`` as autocast would give them to a product, so that one copy serves all."""
        device = inputs.device.type
        if not torch.is_autocast_enabled(device):
            return inputs
        return inputs.to(torch.get_autocast_dtype(device))

    def root(self, outputs: Tensor) -> Tensor:
        """``outputs`` as the start of a graph, without the gradient of any input."""
        anchor = torch.zeros((), requires_grad=True)
        started: Tensor = _Root.apply(outputs, anchor)
        return started

    def run(self, layer: Layer, plain: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """The layer's forward pass, recorded; ``plain`` where no gradient is wanted."""
        if not torch.is_grad_enabled():
            return plain(inputs)
        if inputs.shape[:1] != (self.rows,):
            raise UserError(
                f"model: layer '{layer.name}' got {tuple(inputs.shape)} for {self.rows} images; "
                "keep the batch in the first dimension, or set privacy.engine = 'loop'"
            )
        self.calls.update(layer.parameters.values())
        return layer.rule.forward(Use(self, layer), inputs)

    @torch.no_grad()
    def caught(self, use: Use, rule: WatchedRule, gradient: Tensor) -> None:
        """Called by the backward pass with the gradient of a layer's output."""
        use.gradient = gradient
        layer = use.layer
        if use.a._version != use.version:
            raise UserError(
                f"model: the input of layer '{layer.name}' is changed in place after use; "
                "write it out of place"
            )
        if self.is_shared(layer):
            for rows, gradients in rule.per_sample(use):
                self._share(layer, (rows, layer.pulled_back(gradients)))
        elif layer.pull_back or not has_ghost(rule) or (self.form or rule.form(use)) == "direct":
            squares = []
            for rows, own_gradients in rule.per_sample(use):
                gradients = layer.pulled_back(own_gradients)
                self.parts.append((layer, (rows, gradients)))
                squares.append(sum_of_squares(gradients.values()))
            self.squares.append(torch.cat(squares))
        else:
            with full_products(self.device):
                self.ghosts.append((use, rule, rule.squared_norms(use)))
            return
        use.forget()

    def is_shared(self, layer: Layer) -> bool:
        """Whether any of the layer's parameters has been used more than once."""
        return any(self.calls[name] > 1 for name in layer.parameters.values())

    def _share(self, layer: Layer, part: Part) -> None:
        rows, gradients = part
        for own, gradient in gradients.items():
            name = layer.parameters[own]
            if name not in self.shared:
                self.shared[name] = gradient.new_zeros(self.samples, *gradient.shape[1:])
            self.shared[name][rows] += gradient

    @torch.no_grad()
    def norms(self, floor: float) -> Tensor:
        """Upper bound (n,), float64, of what every sample contributes with a factor of 1.

        Call it once the backward pass is over. Where the error bounds are not small beside the
        norm, and beside ``floor``, the sample's ghost layers are computed again in float64. Not
        finite for a sample whose gradient is not.
        """
        self._collect_leaves()
        if self.shared:
            self.squares.append(sum_of_squares(self.shared.values()))
        if not self.squares and not self.ghosts:
            return torch.zeros(self.samples, device=self.device, dtype=torch.float64)
        direct = self.squares or [torch.zeros(self.samples, device=self.device)]
        squares = torch.stack(direct).double().sum(0)
        bound = Bound.of([estimate for _, _, estimate in self.ghosts], self.most, squares)
        loose = bound.loose(floor).nonzero().squeeze(1)
        norms = bound.norms()
        if len(loose):
            self.loose = loose
            norms[loose] = self._again(loose, squares[loose]).norms()
        return norms * (1 + gamma(self.most + 4, self.dtype)) + UNDERFLOW

    def _again(self, samples: Tensor, squares: Tensor) -> Bound:
        """The bound for some ``samples`` (indices) in float64."""
        if not bool(squares.isfinite().all()):
            squares = self._direct_squares(samples)
        with full_products(self.device):
            estimates = [rule.squared_norms(use.exact(samples)) for use, rule, _ in self.ghosts]
        return Bound.of(estimates, self.most, squares)

    def _direct_squares(self, samples: Tensor) -> Tensor:
        """Squares of the direct layers in float64."""
        total = torch.zeros(self.samples, dtype=torch.float64, device=self.device)
        for _, (rows, gradients) in self.parts:
            wanted = samples[(samples >= rows.start) & (samples < rows.stop)]
            if len(wanted):
                total[wanted] += exact_squares([g[wanted - rows.start] for g in gradients.values()])
        whole = [*self.shared.values(), *([] if self.joined is None else [self.joined])]
        if whole:
            total[samples] += exact_squares([gradient[samples] for gradient in whole])
        return total[samples]

    def _collect_leaves(self) -> None:
        """Take the per-sample gradients that the backward pass itself left in leaves."""
        everything = slice(0, self.samples)
        for layer, leaves in self.leaves:
            gradients = {
                own: leaf.grad.view(self.samples, self.views, -1).sum(1)
                if self.views > 1
                else leaf.grad.view(self.samples, -1)
                for own, leaf in leaves.items()
                if leaf.grad is not None
            }
            gradients = layer.pulled_back(gradients)
            if self.is_shared(layer):
                self._share(layer, (everything, gradients))
            elif layer.pull_back:
                self.parts.append((layer, (everything, gradients)))
                self.squares.append(sum_of_squares(gradients.values()))
            else:
                self.small |= {layer.parameters[own]: g for own, g in gradients.items()}
        self.leaves.clear()
        if self.small:
            # Dozens of small tensors: one norm and one sum over all of them.
            self.joined = torch.cat(list(self.small.values()), dim=1)
            self.squares.append(sum_of_squares([self.joined]))

    @torch.no_grad()
    def weighted_sum(
        self, factors: Tensor, finite: Tensor | None
    ) -> tuple[dict[str, Tensor], float]:
        """Sum of all samples' gradients weighted by ``factors`` (n,), by name; empties the tape.

        And its squared norm. Samples outside the mask ``finite`` (None: there are none) hold
        numbers that are not, and no weight of 0 would keep them out: they are overwritten.
        """
        total: dict[str, Tensor] = {}
        for layer, (rows, gradients) in self.parts:
            for own, gradient in gradients.items():
                name = layer.parameters[own]
                part = _weighted(gradient, factors[rows], None if finite is None else finite[rows])
                total[name] = total[name].add_(part) if name in total else part
        self.parts.clear()
        for name, gradient in self.shared.items():
            total[name] = _weighted(gradient, factors, finite)
        self.shared.clear()
        square = sum(map(square_of, total.values()))
        if self.joined is not None:
            sums = _weighted(self.joined, factors, finite)
            widths = [gradient.shape[1] for gradient in self.small.values()]
            total |= zip(self.small, torch.split(sums, widths), strict=True)
            self.small, self.joined = {}, None
            square += square_of(sums)
        again, left_out = self._apart(finite)
        while self.ghosts:
            use, rule, _ = self.ghosts.pop()
            with full_products(self.device):
                layer_sums = _ghost_sum(use, rule, factors, again, left_out)
            for own, gradient in layer_sums.items():
                square += square_of(gradient)
                total[use.layer.parameters[own]] = rule.whole(use, own, gradient)
        return total, square

    def _apart(self, finite: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Samples (indices) that are summed in float64, and a mask of those not in float32."""
        if self.loose is None:
            return None, None if finite is None else ~finite
        everything = torch.ones(self.samples, dtype=torch.bool, device=self.device)
        left_out = ~(everything if finite is None else finite)
        again = self.loose[~left_out[self.loose]]
        left_out[again] = True
        return again, left_out


def _ghost_sum(
    use: Use, rule: GhostRule, factors: Tensor, again: Tensor | None, left_out: Tensor | None
) -> dict[str, Tensor]:
    """One layer's weighted sum: the samples ``again`` in float64, all but ``left_out`` as usual."""
    exact: dict[str, Tensor] = {}
    if again is not None and len(again):
        exact = rule.weighted_sum(use.exact(again), factors[again].double())
    if left_out is not None:
        bad = left_out.repeat_interleave(use.tape.views)
        use.inputs, use.gradient = _blank(use.a, bad), _blank(use.g, bad)
    sums = rule.weighted_sum(use, factors)
    return {own: value.add_(exact[own]) if own in exact else value for own, value in sums.items()}


def _weighted(gradient: Tensor, factors: Tensor, finite: Tensor | None) -> Tensor:
    if finite is not None:
        gradient = _blank(gradient, ~finite)
    return torch.mv(gradient.flatten(1).t(), factors).view(gradient.shape[1:])


def _blank(values: Tensor, bad: Tensor) -> Tensor:
    """``values`` (rows, ...) with zeros in the ``bad`` rows (rows,)."""
    return values.masked_fill(bad.view(-1, *[1] * (values.dim() - 1)), 0)
