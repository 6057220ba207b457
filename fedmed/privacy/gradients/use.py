"""One call of one layer, and what a rule is asked about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fedmed.privacy.gradients.bounds import Estimate

if TYPE_CHECKING:
    from fedmed.privacy.gradients.tape import Tape

Form = Literal["ghost", "direct"]
PullBack = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Part = tuple[slice, dict[str, Tensor]]  # samples, and their gradients (rows, *shape) by own name


class Rule(Protocol):
    """How one type of layer gives its samples' gradients."""

    cost: str  # multiply-adds per sample of either form, which is picked, and why

    def forward(self, use: "Use", inputs: Tensor) -> Tensor:
        """Run the layer with detached parameters; hand its output to ``use.watch``.

        Or leave per-sample copies of the parameters in ``use.tape.leaves``.
        """
        ...


class WatchedRule(Rule, Protocol):
    """A rule for a layer whose input and output gradient are caught.

    *Direct*: every sample's gradient is computed and kept; its weighted sum is then cheap.
    """

    def per_sample(self, use: "Use") -> Iterator[Part]:
        """Direct form: gradients of all samples, some at a time."""
        ...


@runtime_checkable
class GhostRule(WatchedRule, Protocol):
    """A rule that has two forms.

    *Ghost*: only the squared norm is computed, from inner products of positions, and the weighted
    sum is one ordinary gradient with rescaled g. In the precision of a and g, at least float32.
    """

    def form(self, use: "Use") -> Form:
        """The cheaper form for the shapes that were caught."""
        ...

    def squared_norms(self, use: "Use") -> Estimate:
        """Ghost form: squared gradient norms (n,)."""
        ...

    def weighted_sum(self, use: "Use", factors: Tensor) -> dict[str, Tensor]:
        """Ghost form: sum of gradients weighted by ``factors`` (n,), by own name.

        What no input reaches may be left out.
        """
        ...

    def whole(self, use: "Use", own: str, gradient: Tensor) -> Tensor:
        """A gradient of :meth:`weighted_sum` with zeros for what was left out."""
        ...


_TWO_FORMS: dict[type, bool] = {}


def has_ghost(rule: WatchedRule) -> TypeGuard[GhostRule]:
    """Whether the rule has both forms; asked once per type, for the question takes 50 us."""
    kind = type(rule)
    if kind not in _TWO_FORMS:
        _TWO_FORMS[kind] = isinstance(rule, GhostRule)
    return _TWO_FORMS[kind]


@dataclass(frozen=True)
class Layer:
    """A module whose own parameters are trained, and the rule for it."""

    name: str
    module: nn.Module
    rule: Rule
    parameters: dict[str, str]  # own name of a trained parameter: its name in the model
    # Where parameters are made from others (weight standardisation), the rule sees the made ones:
    # their own names, and how their gradients (rows, *shape) lead to those of ``parameters``.
    made: frozenset[str] = frozenset()
    pull_back: PullBack | None = None

    def trains(self, own_name: str) -> bool:
        """Whether the parameter that the rule knows by that name is trained."""
        return own_name in self.made or own_name in self.parameters

    def pulled_back(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per-sample gradients by the own names of ``parameters``."""
        return gradients if self.pull_back is None else self.pull_back(gradients)


@dataclass
class Use:
    """One call of one layer within a pass."""

    tape: "Tape"
    layer: Layer
    inputs: Tensor | None = None
    version: int = 0
    notes: Any = None  # what the rule found out in the forward pass
    gradient: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """The layer's module."""
        return self.layer.module

    def trains(self, own_name: str) -> bool:
        """Whether the layer's parameter of that name is trained."""
        return self.layer.trains(own_name)

    @property
    def samples(self) -> int:
        """How many samples were caught."""
        return len(self.g) // self.tape.views

    @property
    def a(self) -> Tensor:
        """The input that was caught, (rows, ...)."""
        return cast(Tensor, self.inputs)

    @property
    def g(self) -> Tensor:
        """The gradient of the output that was caught, (rows, ...)."""
        return cast(Tensor, self.gradient)

    def watch(self, rule: WatchedRule, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Catch the gradient of ``outputs``; ``inputs`` are kept until it comes."""
        self.inputs, self.version = inputs, inputs._version
        if not outputs.requires_grad:
            outputs = self.tape.root(outputs)
        outputs.register_hook(partial(self.tape.caught, self, rule))  # type: ignore[no-untyped-call]
        return outputs

    def exact(self, samples: Tensor) -> "Use":
        """The ``samples`` of this call (indices) in float64, which holds their numbers exactly."""
        views = self.tape.views
        rows = (samples[:, None] * views + torch.arange(views, device=samples.device)).flatten()
        a = self.a[rows]
        return replace(
            self, inputs=a.double() if a.is_floating_point() else a, gradient=self.g[rows].double()
        )

    def forget(self) -> None:
        """Release the activations."""
        self.inputs = self.gradient = None
