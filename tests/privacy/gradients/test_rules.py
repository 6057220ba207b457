"""Every rule against plain autograd on one sample at a time, in both of its forms."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import goes_red, refuses
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from fedmed.privacy.gradients import ClippedSum, Loss, Options
from fedmed.privacy.gradients.bookkeeping import BookkeepingEngine
from fedmed.privacy.gradients.bounds import Estimate
from fedmed.privacy.gradients.loop import LoopEngine
from fedmed.privacy.gradients.rules import REGISTRY
from fedmed.privacy.gradients.rules.convolution import ConvolutionRule
from fedmed.privacy.gradients.rules.embedding import EmbeddingRule
from fedmed.privacy.gradients.rules.linear import LinearRule
from fedmed.privacy.gradients.rules.norms import (
    ChannelScaleRule,
    GroupNormRule,
    InstanceNormRule,
    LayerNormRule,
)
from fedmed.privacy.gradients.use import Form, Use

RELATIVE = {torch.float64: 1e-5, torch.float32: 1e-3}  # float32 norms are upper bounds
FORMS: tuple[Form, ...] = ("ghost", "direct")
Pair = tuple[nn.Module, Tensor]


def squares(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss for outputs of any shape: each sample's own sum of smooth terms."""
    rows = outputs.flatten(1)
    slopes = torch.linspace(-1, 1, rows.shape[1], dtype=rows.dtype)
    return ((rows + labels[:, None]).sin() * (1 + slopes)).sum()


OPTIONS = Options(loss=Loss(squares))


def labels_of(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.linspace(0, 1, len(inputs), dtype=dtype)


def assert_equal(found: ClippedSum, expected: ClippedSum) -> None:
    """Equal for every parameter, relative to its own norm (and to rounding of the largest)."""
    assert list(found.gradients) == list(expected.gradients)
    assert (found.samples, found.clipped, found.dropped) == (
        expected.samples,
        expected.clipped,
        expected.dropped,
    )
    largest = max(float(value.norm()) for value in expected.gradients.values())
    assert largest > 0
    for name, value in expected.gradients.items():
        relative = RELATIVE[value.dtype]
        allowed = relative * float(value.norm()) + 0.01 * relative * largest
        assert found.gradients[name].dtype == value.dtype
        assert float((found.gradients[name] - value).norm()) <= allowed, name


def bounds_of(model: nn.Module, inputs: Tensor, labels: Tensor, views: int = 1) -> list[float]:
    """Bounds that clip none, some and all samples."""
    loop = LoopEngine(model, OPTIONS)
    norms = sorted(
        float(
            torch.cat(
                [
                    g.flatten()
                    for g in loop.gradient(inputs[i : i + views], labels[i : i + views]).values()
                ]
            ).norm()
        )
        for i in range(0, len(inputs), views)
    )
    middle = (norms[(len(norms) - 1) // 2] + norms[len(norms) // 2]) / 2
    return [norms[-1] * 2, middle * 1.01, norms[0] / 10]


def check_layer(
    model: nn.Module, inputs: Tensor, dtype: torch.dtype = torch.float64, views: int = 1
) -> None:
    model = copy.deepcopy(model).to(dtype)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    labels = labels_of(inputs, dtype)
    for bound in bounds_of(model, inputs, labels, views):
        expected = LoopEngine(model, OPTIONS).clipped_sum(inputs, labels, bound, views)
        for form in (None, *FORMS):
            engine = BookkeepingEngine(model, 8, OPTIONS, form)
            assert_equal(engine.clipped_sum(inputs, labels, bound, views), expected)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            parameter.data.normal_(std=0.5)
    return model


CONVOLUTIONS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv1d, (9,), {"kernel_size": 3}),
    (nn.Conv1d, (11,), {"kernel_size": 4, "stride": 3, "padding": 2, "dilation": 2}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "padding": 1}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "padding": 1, "bias": False}),
    (nn.Conv2d, (7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
    (nn.Conv2d, (6, 6), {"kernel_size": 1, "stride": 2}),
    (nn.Conv2d, (6, 6), {"kernel_size": 1, "padding": 1}),
    (nn.Conv2d, (9, 8), {"kernel_size": (3, 2), "dilation": (2, 3), "padding": (1, 0)}),
    (nn.Conv2d, (8, 8), {"kernel_size": 7, "stride": 2, "padding": 3}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "padding": 1, "groups": 2}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "groups": 4, "stride": 2}),
    (nn.Conv2d, (5, 5), {"kernel_size": 2, "padding": "same"}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "padding": "valid"}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    (nn.Conv2d, (5, 5), {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular"}),
    # One position: a single tap of the kernel counts; or none of the shapes that look like it.
    (nn.Conv2d, (1, 1), {"kernel_size": 3, "padding": 1}),
    (nn.Conv2d, (1, 1), {"kernel_size": (3, 1), "padding": (1, 0), "groups": 2}),
    (nn.Conv2d, (1, 1), {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": 2}),
    (nn.Conv2d, (1, 1), {"kernel_size": 3, "padding": 2}),
    (nn.Conv2d, (1, 1), {"kernel_size": 3, "padding": 3, "stride": 5}),
    (nn.Conv2d, (2, 2), {"kernel_size": 3, "padding": 1, "stride": 2}),
    (nn.Conv3d, (4, 3, 4), {"kernel_size": 3, "padding": 1}),
    (nn.Conv3d, (5, 4, 4), {"kernel_size": (1, 3, 2), "stride": (2, 1, 2), "groups": 2}),
]


def convolution(number: int) -> Pair:
    kind, size, options = CONVOLUTIONS[number]
    model = seeded(lambda: kind(4, 6 if options.get("groups") != 4 else 8, **options), number)
    return nn.Sequential(model, nn.Tanh()), noise(5, 4, *size, seed=number)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # the reference
@pytest.mark.parametrize("number", range(len(CONVOLUTIONS)))
def test_convolutions(number: int) -> None:
    check_layer(*convolution(number))


@pytest.mark.parametrize("number", [2, 4, 9, 15, 21])
def test_convolutions_in_single_precision(number: int) -> None:
    check_layer(*convolution(number), torch.float32)


@pytest.mark.parametrize("number", [1, 4, 9, 15, 22])
def test_views_of_a_sample_are_averaged_before_clipping(number: int) -> None:
    model, inputs = convolution(number)
    check_layer(model, torch.cat([inputs, noise(*inputs.shape, seed=99)])[:9], views=3)


def with_squares(right: Estimate, wrong: Tensor) -> Estimate:
    return replace(right, squares=wrong)


class WithoutDiagonals(ConvolutionRule):
    """Broken: the squared norm of every position on its own, without the pairs."""

    def squared_norms(self, use: Use) -> Estimate:
        g, a = use.g.flatten(2), use.a.flatten(2)
        return with_squares(
            super().squared_norms(use), (g.square().sum((1, 2))) * a.square().sum((1, 2))
        )


def unchecked(check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """``check`` on an engine that does not look for such faults itself."""
    monkeypatch.setattr("fedmed.privacy.gradients.bookkeeping.check_against_loop", lambda *_: None)
    return check


def test_a_wrong_squared_norm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, nn.Conv2d, WithoutDiagonals())
    refuses(lambda: check_layer(*convolution(2)), "norms of two samples", "'loop'")
    goes_red(unchecked(lambda: check_layer(*convolution(2)), monkeypatch))


def test_many_positions_take_the_sum_along_diagonals_axis_by_axis() -> None:
    model = nn.Sequential(seeded(lambda: nn.Conv2d(2, 3, 3, padding=1, stride=2)), nn.Tanh())
    check_layer(model, noise(3, 2, 13, 12))
    check_layer(nn.Sequential(seeded(lambda: nn.Conv2d(2, 3, 3)), nn.Tanh()), noise(3, 2, 9, 9))


def others() -> Iterator[Any]:
    def case(name: str, make: Callable[[], nn.Module], inputs: Tensor) -> Any:
        return pytest.param(make, inputs, id=name)

    yield case("linear", lambda: nn.Linear(7, 3), noise(5, 7))
    yield case("linear-without-bias", lambda: nn.Linear(7, 3, bias=False), noise(5, 7))
    yield case("linear-sequence", lambda: nn.Linear(7, 3), noise(5, 4, 7))
    yield case("linear-long", lambda: nn.Linear(3, 2), noise(4, 6, 5, 3))
    yield case("group-norm", lambda: nn.GroupNorm(2, 6), noise(4, 6, 5, 3))
    yield case("group-norm-flat", lambda: nn.GroupNorm(2, 6), noise(4, 6))
    yield case("group-norm-3d", lambda: nn.GroupNorm(3, 6), noise(4, 6, 2, 3, 2))
    yield case(
        "group-norm-channels-last",
        lambda: nn.GroupNorm(2, 6),
        noise(4, 6, 5, 3).contiguous(memory_format=torch.channels_last),
    )
    yield case("layer-norm", lambda: nn.LayerNorm(6), noise(4, 5, 6))
    yield case("layer-norm-two", lambda: nn.LayerNorm((5, 6)), noise(4, 5, 6))
    yield case("layer-norm-no-bias", lambda: nn.LayerNorm(6, bias=False), noise(4, 6))
    yield case("instance-1d", lambda: nn.InstanceNorm1d(3, affine=True), noise(4, 3, 7))
    yield case("instance-2d", lambda: nn.InstanceNorm2d(3, affine=True), noise(4, 3, 5, 4))
    yield case("instance-3d", lambda: nn.InstanceNorm3d(3, affine=True), noise(4, 3, 2, 3, 4))
    yield case("embedding", lambda: nn.Embedding(6, 3), torch.arange(20).view(4, 5) % 6)
    yield case(
        "embedding-padding",
        lambda: nn.Embedding(6, 3, padding_idx=2),
        torch.arange(20).view(4, 5) % 4,
    )
    yield case("embedding-long", lambda: nn.Embedding(3, 2), torch.arange(32).view(4, 8) % 3)


@pytest.mark.parametrize(("make", "inputs"), list(others()))
def test_other_layers(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    model = nn.Sequential(seeded(make), nn.Tanh())
    check_layer(model, inputs)
    check_layer(model, torch.cat([inputs, inputs.flip(0)])[: len(inputs) // 2 * 2], views=2)
    check_layer(model, inputs, torch.float32)


class Frozen(nn.Sequential):
    """Statistics that stay as they are, whatever the mode of the whole."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(nn.BatchNorm1d, ()), (nn.BatchNorm2d, (4, 3)), (nn.BatchNorm3d, (2, 3, 2))],
)
def test_frozen_batch_norm(kind: type[nn.Module], size: tuple[int, ...]) -> None:
    norm = seeded(lambda: kind(3))
    norm.running_mean, norm.running_var = noise(3), noise(3, seed=1).square() + 0.1
    model = Frozen(nn.Tanh(), norm, nn.Tanh())
    model.train()
    check_layer(model, noise(4, 3, *size))


def test_instance_norm_with_fixed_statistics() -> None:
    norm = seeded(lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True)).eval()
    norm.running_mean, norm.running_var = noise(3), noise(3, seed=1).square() + 0.1
    check_layer(nn.Sequential(norm, nn.Tanh()).eval(), noise(4, 3, 5, 4))
    refuses(lambda: check_layer(nn.Sequential(norm).train(), noise(4, 3, 5, 4)), "mixes patients")


class SumsOverTheBatch(GroupNormRule):
    """Broken: every row is given the gradient of all rows, as an ordinary backward pass does."""

    def forward(self, use: Use, inputs: Tensor) -> Tensor:
        outputs = super().forward(use, inputs)
        _, leaves = use.tape.leaves[-1]
        for leaf in leaves.values():
            leaf.register_hook(
                lambda g, n=use.tape.rows: g.view(n, -1).mean(0).expand(n, -1).reshape(-1)
            )
        return outputs


def test_group_norm_by_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        check_layer(nn.Sequential(seeded(lambda: nn.GroupNorm(2, 6)), nn.Tanh()), noise(4, 6, 5))

    check()
    monkeypatch.setitem(REGISTRY, nn.GroupNorm, SumsOverTheBatch())
    goes_red(unchecked(check, monkeypatch))


class WithoutPairs(LinearRule):
    """Broken: every position's own product, without those of two positions."""

    def squared_norms(self, use: Use) -> Estimate:
        a, g = use.a.square().sum(-1), use.g.square().sum(-1)
        wrong = (a * g).flatten(1).sum(1) + use.g.flatten(1, -2).sum(1).square().sum(1)
        return with_squares(super().squared_norms(use), wrong)


class AnyIndex(EmbeddingRule):
    """Broken: positions of different rows of the table count as one."""

    def squared_norms(self, use: Use) -> Estimate:
        wrong = use.g.flatten(1, -2).sum(1).square().sum(1)
        return with_squares(super().squared_norms(use), wrong)


def raw(rule: type[Any]) -> type[Any]:
    """Broken: the scale's gradient from the input as it came, not normalised."""

    class Raw(rule):  # type: ignore[misc]  # the rule is a variable
        def sums(self, use: Use) -> dict[str, Tensor]:
            wrong, a = super().sums(use), use.a
            values = use.g * a if a.dim() == 2 else (use.g * a).transpose(1, -1).flatten(1, -2)
            samples, size = use.tape.samples, wrong["bias"].shape[1]
            return wrong | {"weight": values.reshape(samples, -1, size).sum(1)}

    return Raw


@pytest.mark.parametrize(
    ("kind", "broken", "make", "inputs"),
    [
        (nn.Linear, WithoutPairs, lambda: nn.Linear(7, 3), noise(5, 4, 7)),
        (
            nn.Embedding,
            AnyIndex,
            lambda: nn.Embedding(6, 3),
            torch.arange(20).view(4, 5) % 6,
        ),
        (nn.LayerNorm, raw(LayerNormRule), lambda: nn.LayerNorm(6), noise(4, 6)),
    ],
    ids=["linear", "embedding", "layer-norm"],
)
def test_a_wrong_rule_is_found(
    kind: type[nn.Module],
    broken: type[Any],
    make: Callable[[], nn.Module],
    inputs: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the check before the first step, and without it by the comparison with ``loop``."""
    model = nn.Sequential(seeded(make), nn.Tanh())
    check_layer(model, inputs)
    monkeypatch.setitem(REGISTRY, kind, broken())
    refuses(lambda: check_layer(model, inputs), "two samples", "model: ")
    goes_red(unchecked(lambda: check_layer(model, inputs), monkeypatch))


def test_a_wrong_frozen_norm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = seeded(lambda: nn.BatchNorm1d(3))
    norm.running_mean, norm.running_var = noise(3), noise(3, seed=1).square() + 0.1
    model = Frozen(nn.Tanh(), norm, nn.Tanh())
    model.train()
    check_layer(model, noise(4, 3))
    monkeypatch.setitem(REGISTRY, nn.BatchNorm1d, raw(ChannelScaleRule)())
    goes_red(unchecked(lambda: check_layer(model, noise(4, 3)), monkeypatch))


class Standardised(nn.Module):
    """Weight standardisation (Qiao et al. 2019): zero mean and unit spread per output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        spread = (rows.var(dim=1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        result: Tensor = ((rows - rows.mean(dim=1, keepdim=True)) / spread).view_as(weight)
        return result


def test_weights_made_from_others() -> None:
    for kind, size in ((nn.Conv1d, (7,)), (nn.Conv2d, (5, 4)), (nn.Conv3d, (3, 3, 3))):
        layer = seeded(lambda kind=kind: kind(3, 4, 2, padding=1))
        parametrize.register_parametrization(layer, "weight", Standardised())
        check_layer(nn.Sequential(layer, nn.Tanh()), noise(4, 3, *size))
    normalised = weight_norm(seeded(lambda: nn.Linear(5, 3)))
    check_layer(nn.Sequential(normalised, nn.Tanh()), noise(4, 5))
    scale = seeded(lambda: nn.GroupNorm(2, 4))
    parametrize.register_parametrization(scale, "weight", Double())
    check_layer(nn.Sequential(scale, nn.Tanh()), noise(4, 4, 3))


class Double(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * value


def small() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.Tanh(),
            nn.Conv2d(4, 3, 3, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12, 2),
        )
    )


def test_every_frozen_subset() -> None:
    names = [name for name, _ in small().named_parameters()]
    subsets = [*itertools.combinations(names, 1), *itertools.combinations(names, len(names) - 1)]
    for subset in [*subsets, names[:4], names[4:], names[::2], names[1::2]]:
        model = small()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in subset)
        check_layer(model, noise(4, 2, 5, 5))


class Shared(nn.Module):
    """One layer called twice, another that has its weight, and a norm used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight
        self.norm, self.out = nn.GroupNorm(1, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.first):
            x = self.norm(layer(x).tanh())
        return self.out(x.mean((2, 3)))


def test_shared_parameters_are_summed_before_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        check_layer(seeded(Shared), noise(5, 3, 4, 4))

    check()
    # Broken: each use is clipped as if it were a parameter of its own.
    monkeypatch.setattr("fedmed.privacy.gradients.tape.Tape.is_shared", lambda *_: False)
    goes_red(unchecked(check, monkeypatch))


@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_any_number_of_samples(samples: int) -> None:
    check_layer(small(), noise(samples, 2, 5, 5))
    check_layer(small(), noise(samples, 2, 5, 5), torch.float32)


def test_a_channels_last_model() -> None:
    model = small().to(memory_format=torch.channels_last)
    check_layer(model, noise(4, 2, 5, 5).contiguous(memory_format=torch.channels_last))


def test_every_rule_says_its_cost_and_covers_its_layer() -> None:
    assert isinstance(REGISTRY[nn.InstanceNorm2d], InstanceNormRule)
    for rule in REGISTRY.values():
        assert len(rule.cost) > 30
