"""The fast engine as a whole: real networks, batches of any kind, and what it must refuse."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import goes_red, refuses, tiny_network
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import conv2d, normalize
from torchvision.models.video import r3d_18

from fedmed.config import Model
from fedmed.models import build
from fedmed.models.resnet import group_norm
from fedmed.privacy.gradients import Clipping, Loss, Options, make_engine
from fedmed.privacy.gradients import bookkeeping as engine_module
from fedmed.privacy.gradients.bookkeeping import BookkeepingEngine
from fedmed.privacy.gradients.loop import LoopEngine

RELATIVE = {torch.float64: 1e-5, torch.float32: 1e-3}  # float32 norms are upper bounds


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def labels(count: int) -> Tensor:
    return (torch.arange(count) % 3 == 0).float()


def resnet18_3d() -> nn.Module:
    network = r3d_18(num_classes=1)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, group_norm(child.num_features))
            elif type(child).__name__ == "Conv3DSimple":
                plain = nn.Conv3d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    child.padding,
                    bias=False,
                )
                setattr(module, name, plain)
    return network


def standardised(dimensions: int) -> nn.Module:
    """Weights as the convolutions use them are made in every pass, not kept."""
    model = Model(name="resnet9", activation="mish", weight_standardisation=True)
    return build(model, 16, 0, dimensions)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18-2d": (lambda: build(Model(), 32, 0), (1, 32, 32)),
    "resnet18-2d-imagenet-stem": (lambda: build(Model(stem="imagenet"), 32, 0), (1, 32, 32)),
    "resnet18-3d": (resnet18_3d, (3, 4, 16, 16)),
    "resnet9": (lambda: build(Model(name="resnet9", activation="mish"), 16, 0), (1, 16, 16)),
    "squeezenet": (lambda: build(Model(name="squeezenet1_1", hidden=4), 32, 0), (1, 32, 32)),
    "resnet9-standardised": (lambda: standardised(2), (1, 20, 20)),
    "resnet9-3d-standardised": (lambda: standardised(3), (1, 12, 12, 12)),
}


def smooth(model: nn.Module) -> nn.Module:
    """ReLU has two gradients at 0, and rounding chooses: compared where there is one."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU(inplace=child.inplace))
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_one_sample_at_a_time(name: str, dtype: torch.dtype) -> None:
    make, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = smooth(make()).to(dtype)
    given, answers = images(5, *shape).to(dtype), labels(5).to(dtype)
    loop = LoopEngine(model)
    for bound in (1e-3, 1e6):
        expected = loop.clipped_sum(given, answers, bound)
        found = BookkeepingEngine(model, 3).clipped_sum(given, answers, bound)
        assert list(found.gradients) == [n for n, _ in model.named_parameters()]
        assert (found.samples, found.clipped) == (expected.samples, expected.clipped)
        for parameter, value in expected.gradients.items():
            error = float((found.gradients[parameter] - value).norm() / value.norm())
            assert error < RELATIVE[dtype], parameter


def test_equals_opacus() -> None:
    model = build(Model(), 32, 0)
    given, answers = images(6, 1, 32, 32), labels(6)
    found = make_engine("fedmed", model, 4).clipped_sum(given, answers, 0.5)
    reference = make_engine("opacus", model, 4)
    expected = reference.clipped_sum(given, answers, 0.5)
    reference.close()
    assert (found.samples, found.clipped) == (expected.samples, expected.clipped)
    for name, value in expected.gradients.items():
        assert float((found.gradients[name] - value).norm() / value.norm()) < 1e-3, name


@pytest.mark.parametrize("engine", ["fedmed", "opacus", "loop"])
def test_a_bad_sample_is_dropped_and_counted(engine: str) -> None:
    given, answers = images(6, 1, 16, 16), labels(6)
    bad = given.clone()
    bad[1, 0, 3, 3], bad[4, 0, 0, 0] = float("nan"), float("inf")
    good = [0, 2, 3, 5]
    expected = LoopEngine(tiny_network()).clipped_sum(given[good], answers[good], 0.5)
    found = make_engine(engine, tiny_network(), 4).clipped_sum(bad, answers, 0.5)
    assert (found.samples, found.dropped, found.clipped) == (6, 2, expected.clipped)
    for name, value in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["ghost", "direct"])
def test_a_bad_sample_is_dropped_in_either_form(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, answers = images(6, 1, 16, 16), labels(6)
    bad = given.clone()
    bad[1] = float("inf")

    def check() -> None:
        engine = BookkeepingEngine(tiny_network(), 8, form=form)
        found = engine.clipped_sum(bad, answers, 0.5)
        assert found.dropped == 1
        rest = [0, 2, 3, 4, 5]
        expected = LoopEngine(tiny_network()).clipped_sum(given[rest], answers[rest], 0.5)
        for name, value in expected.gradients.items():
            assert bool((found.gradients[name] - value).abs().max() < 1e-4), name

    check()
    # Broken: a weight of zero keeps nothing out, as 0 times infinity is not 0.
    monkeypatch.setattr("fedmed.privacy.gradients.tape._blank", lambda values, _: values)
    goes_red(check)


def test_a_batch_of_bad_samples_alone_sums_to_zero() -> None:
    bad = torch.full((3, 1, 16, 16), float("nan"))
    engine = make_engine("fedmed", tiny_network(), 8)
    found = engine.clipped_sum(bad, labels(3), 1.0)
    assert (found.samples, found.dropped, found.clipped) == (3, 3, 0)
    assert all(float(value.abs().max()) == 0 for value in found.gradients.values())


def test_a_model_that_is_not_finite_is_said_to_be() -> None:
    model = tiny_network()
    model[0].bias.data.fill_(float("nan"))
    for count in (3, 0):  # an empty batch gets the same answer: nothing of it depends on images
        refuses(
            lambda count=count: make_engine("fedmed", model, 8).clipped_sum(
                images(count, 1, 16, 16), labels(count), 1.0
            ),
            "not finite for made-up images",
        )


def refuses_model(model: nn.Module, *words: str, loss: Loss | None = None) -> None:
    options = Options(loss=loss) if loss else Options()
    refuses(
        lambda: make_engine("fedmed", model, 8, options).clipped_sum(
            images(4, 1, 16, 16), labels(4), 1.0
        ),
        *words,
    )


class Wrapped(nn.Module):
    """Flattened pixels through ``self.layer``, in one of several wrong ways."""

    def __init__(self, way: Callable[["Wrapped", Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(256, 1)
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def test_a_layer_without_a_rule_is_named_with_the_way_out() -> None:
    attention = nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(256, 2, batch_first=True))
    refuses_model(attention, "layer '1.self_attn'", "MultiheadAttention", "'opacus' or 'loop'")

    class Mine(nn.Linear):
        pass

    refuses_model(nn.Sequential(nn.Flatten(), Mine(256, 1)), "layer '1' is Mine")

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    refuses_model(nn.Sequential(nn.Flatten(), Raw()), "layer '1' is Raw")


def test_parameters_used_outside_their_layer_are_refused() -> None:
    functional = Wrapped(lambda m, x: m.layer(conv2d(x, m.conv.weight).flatten(1)))
    refuses_model(functional, "'conv.weight' is used outside", "'loop'")
    both = Wrapped(lambda m, x: m.layer(m.conv(x).flatten(1)) * m.layer.weight.mean())
    refuses_model(both, "'layer.weight' is used outside")


def test_a_model_that_mixes_samples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    centred = Wrapped(lambda m, x: m.layer(m.conv(x - x.mean(0)).flatten(1)))

    def check() -> None:
        refuses_model(centred, "mixes samples")

    check()
    monkeypatch.setattr(engine_module, "check_against_loop", lambda *_: None)
    goes_red(check)


def test_a_batch_that_leaves_the_first_dimension_is_refused() -> None:
    rows = Wrapped(lambda m, x: m.layer(x.flatten(1).repeat_interleave(2, 0))[::2])
    refuses_model(rows, "layer 'layer'", "first dimension")


def test_an_input_changed_in_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "check_against_loop", lambda *_: None)  # torch finds it
    changed = Wrapped(lambda m, x: m.conv(x).flatten(1).sum(1, keepdim=True) + 0 * x.add_(1).mean())
    refuses_model(changed, "layer 'conv'", "in place")


def test_losses() -> None:
    def network() -> nn.Module:
        return tiny_network()

    def contrastive(outputs: Tensor, answers: Tensor) -> Tensor:
        near = normalize(torch.cat([outputs, outputs**2], 1), dim=1)
        return (near @ near.T).logsumexp(1).sum()

    refuses_model(network(), "mixes samples", loss=Loss(contrastive))
    refuses_model(
        network(), "another reduction", loss=Loss(lambda o, y: bce(o.squeeze(1), y), "sum")
    )
    refuses_model(
        network(),
        "mixes samples",  # a focal loss over how many are ill, say
        loss=Loss(lambda o, y: bce(o.squeeze(1), y, reduction="sum") / y.sum().clamp(min=1)),
    )
    refuses_model(
        network(), "not one number", loss=Loss(lambda o, y: bce(o.squeeze(1), y, reduction="none"))
    )
    given, answers = images(5, 1, 16, 16), labels(5)
    mean = Options(loss=Loss(lambda o, y: bce(o.squeeze(1), y), "mean"))
    found = make_engine("fedmed", network(), 2, mean).clipped_sum(given, answers, 0.5)
    expected = make_engine("loop", network(), 2).clipped_sum(given, answers, 0.5)
    for name, value in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0, 10.0, 10.0], [1.0, 1.0, 10.0]])
@pytest.mark.parametrize("engine", ["fedmed", "opacus"])
def test_class_weights_under_mean_are_refused_whatever_was_drawn(
    engine: str, weights: list[float]
) -> None:
    """They divide every term by the weights of the batch: one sample changed the others by 7 C."""
    if engine == "opacus":
        pytest.importorskip("opacus")
    loss = Loss(nn.CrossEntropyLoss(weight=torch.tensor(weights)), "mean")
    for _ in range(5):
        made = make_engine(engine, nn.Linear(3, 3), 8, Options(loss=loss))
        refuses(
            lambda made=made: made.clipped_sum(
                torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), 1.0
            ),
            "mixes samples",
            "reduction='sum'",
        )
    sums = Loss(nn.CrossEntropyLoss(weight=torch.tensor(weights), reduction="sum"))
    found = make_engine(engine, nn.Linear(3, 3), 8, Options(loss=sums)).clipped_sum(
        torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), 1.0
    )
    assert found.samples == 2


@pytest.mark.parametrize("engine", ["fedmed", "loop", "opacus"])
def test_a_label_that_is_ignored_leaves_the_others_terms(engine: str) -> None:
    """Cross entropy's mean is over labels that count; no made-up label shows that."""
    if engine == "opacus":
        pytest.importorskip("opacus")
    model = nn.Linear(3, 2)
    made = make_engine(engine, model, 8, Options(loss=Loss(nn.functional.cross_entropy, "mean")))
    given, answers = torch.full((8, 3), 0.1), torch.zeros(8, dtype=torch.int64)
    few = made.clipped_sum(given[:2], answers[:2], 100.0)
    answers[2:] = -100
    many = made.clipped_sum(given, answers, 100.0)
    for name, value in few.gradients.items():
        torch.testing.assert_close(many.gradients[name], value)


def test_a_model_that_mixes_samples_is_refused_by_opacus_too() -> None:
    pytest.importorskip("opacus")

    class Centred(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input - input.mean(0))

    model = nn.Sequential(nn.Linear(3, 3), Centred(3, 1))
    refuses(
        lambda: make_engine("opacus", model, 8).clipped_sum(torch.ones(2, 3), torch.zeros(2), 1.0),
        "mixes samples",
    )


def test_outputs_that_do_not_fit_the_labels_are_refused_in_a_line() -> None:
    given, answers = torch.ones(2, 3), torch.zeros(2)
    for model in (nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))):
        refuses(
            lambda model=model: make_engine("fedmed", model, 8).clipped_sum(given, answers, 1.0),
            "needs one output per label",
        )


def test_a_compiled_model_is_refused_with_the_reason() -> None:
    class Compiled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    refuses(lambda: make_engine("fedmed", Compiled(tiny_network()), 8), "before torch.compile")


def test_dropout_and_in_place_layers_are_allowed() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(784, 1),
    )
    engine = make_engine("fedmed", model, 8)
    found = engine.clipped_sum(images(4, 1, 16, 16), labels(4), 1e-3)
    assert found.clipped == 4
    assert model[4].training
    assert float(torch.stack([g.norm() for g in found.gradients.values()]).norm()) <= 4.01e-3


def test_automatic_clipping_normalises_every_sample() -> None:
    given, answers = images(6, 1, 16, 16), labels(6)
    automatic = Options(clipping=Clipping("automatic"))

    def check(options: Options, bound: float) -> None:
        """Each sample alone has norm C n / (n + 0.01), whether n is above or below C."""
        for sample in range(6):
            row = slice(sample, sample + 1)
            plain = LoopEngine(tiny_network()).gradient(given[row], answers[row])
            norm = float(torch.cat([g.flatten() for g in plain.values()]).norm())
            engine = make_engine("fedmed", tiny_network(), 8, options)
            result = engine.clipped_sum(given[row], answers[row], bound)
            length = float(torch.cat([g.flatten() for g in result.gradients.values()]).norm())
            assert abs(length / (bound * norm / (norm + 0.01)) - 1) < 1e-4
            assert length <= result.sensitivity == bound

    check(automatic, 0.1)
    check(automatic, 100.0)
    goes_red(check, Options(), 100.0)
    refuses(lambda: Clipping("layerwise"), "privacy.clipping", "'automatic'")  # type: ignore[arg-type]  # what is refused


@pytest.mark.parametrize("engine", ["fedmed", "opacus", "loop"])
def test_engines_agree_on_automatic_clipping_and_views(engine: str) -> None:
    given, answers = images(6, 1, 16, 16), labels(2).repeat_interleave(3)
    options = Options(clipping=Clipping("automatic"))
    found = make_engine(engine, tiny_network(), 1, options).clipped_sum(given, answers, 0.5, 3)
    expected = LoopEngine(tiny_network(), options).clipped_sum(given, answers, 0.5, 3)
    assert found.samples == 2
    for name, value in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], value, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="do not fit"):
        make_engine(engine, tiny_network(), 1).clipped_sum(given, answers, 0.5, 4)


def test_a_bound_that_bounds_nothing_is_refused() -> None:
    for bound in (0.0, -1.0, float("inf"), float("nan")):
        for name in ("fedmed", "opacus", "loop"):
            engine = make_engine(name, tiny_network(), 8)
            refuses(
                lambda engine=engine, bound=bound: engine.clipped_sum(
                    images(2, 1, 16, 16), labels(2), bound
                ),
                "privacy.clipping-norm",
            )


def test_gradients_that_were_there_stay_and_no_pass_is_left_behind() -> None:
    model = tiny_network()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    engine = make_engine("fedmed", model, 8)
    engine.clipped_sum(images(3, 1, 16, 16), labels(3), 1.0)
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[0].bias.grad is None
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bfloat16_autocast_keeps_norms_and_sums_in_float32() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(784, 1)
    )
    given, answers = images(6, 1, 16, 16), labels(6)
    for form in ("ghost", "direct"):
        low = Options(autocast=torch.bfloat16)
        found = BookkeepingEngine(model, 8, low, form).clipped_sum(given, answers, 0.5)
        expected = LoopEngine(model).clipped_sum(given, answers, 0.5)
        for name, value in expected.gradients.items():
            assert found.gradients[name].dtype == torch.float32
            assert float((found.gradients[name] - value).norm() / value.norm()) < 0.05
        for row in range(6):  # never above C, and below it by a float32's error bound alone
            one = slice(row, row + 1)
            alone = BookkeepingEngine(model, 8, low, form).clipped_sum(
                given[one], answers[one], 1e-3
            )
            length = torch.cat([g.flatten() for g in alone.gradients.values()]).norm()
            assert -5e-4 < float(length) / 1e-3 - 1 < 1e-6
    refuses(lambda: make_engine("opacus", model, 8, low), "'fedmed'")


def test_it_needs_torch_alone() -> None:
    code = (
        "import sys, fedmed.privacy.gradients\n"
        "print([m for m in ('flwr', 'ray', 'opacus', 'pydantic', 'torchvision', 'pandas')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
