"""Clipped sums of per-sample gradients, against plain autograd one sample at a time."""

from collections.abc import Callable

import pytest
import torch
from support import SIZE, goes_red, refuses, tiny_network
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.privacy.gradients import ClippedSum, Engine, check_model, make_engine

Sum = Callable[[Tensor, Tensor, float], ClippedSum]
GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(8, 1, SIZE, SIZE, generator=GENERATOR)
LABELS = torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1])


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = binary_cross_entropy_with_logits(model(images).squeeze(1), labels)
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def length(gradient: dict[str, Tensor]) -> float:
    return float(torch.cat([g.flatten() for g in gradient.values()]).norm())


def one_by_one(
    model: nn.Module, images: Tensor, labels: Tensor, bound: float, group: int = 1
) -> dict[str, Tensor]:
    """The reference: plain autograd on every sample (or, broken, on groups of them)."""
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for start in range(0, len(images), group):
        part = slice(start, start + group)
        gradient = gradients(model, images[part], labels[part])
        factor = min(1.0, bound / length(gradient))
        for name in total:
            total[name] += factor * len(images[part]) * gradient[name]
    return total


@pytest.fixture(params=["fedmed", "opacus", "loop"], autouse=True)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test of this file runs on every engine."""
    monkeypatch.setitem(CHOSEN, "engine", request.param)
    return str(request.param)


CHOSEN = {"engine": "fedmed"}


def engine(model: nn.Module, physical: int = 32) -> Engine:
    return make_engine(CHOSEN["engine"], model, physical)


class MicroBatches:
    """Pitfall 13: the mean gradient of four samples is clipped."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def clipped_sum(self, images: Tensor, labels: Tensor, clipping_norm: float) -> ClippedSum:
        total = one_by_one(self.model, images, labels, clipping_norm, group=4)
        return ClippedSum(total, clipping_norm, len(images), 0)


def check_every_sample_is_clipped(clipped_sum: Sum) -> None:
    model = tiny_network()
    lengths = [length(gradients(model, IMAGES[i : i + 1], LABELS[i : i + 1])) for i in range(8)]
    for bound in (sorted(lengths)[4] * 1.001, 100.0, 1e-3):  # some, none and all are clipped
        result = clipped_sum(IMAGES, LABELS, bound)
        reference = one_by_one(model, IMAGES, LABELS, bound)
        assert result.gradients.keys() == reference.keys()
        for name, expected in reference.items():
            scale = max(1.0, float(expected.abs().max()))
            assert float((result.gradients[name] - expected).abs().max()) < 1e-4 * scale
        assert length(result.gradients) <= 8 * bound * (1 + 1e-5)


def test_samples_are_clipped_not_micro_batches() -> None:
    check_every_sample_is_clipped(engine(tiny_network()).clipped_sum)
    goes_red(check_every_sample_is_clipped, MicroBatches(tiny_network()).clipped_sum)


def check_one_sample_moves_the_sum_by_at_most_c(clipped_sum: Sum) -> None:
    """Add-or-remove one (pitfall 18): the relation that the accountant composes."""
    bound = 0.5
    whole = clipped_sum(IMAGES, LABELS, bound).gradients
    for left_out in range(8):
        rest = [i for i in range(8) if i != left_out]
        without = clipped_sum(IMAGES[rest], LABELS[rest], bound).gradients
        assert length({n: whole[n] - without[n] for n in whole}) <= bound * (1 + 1e-4)


def test_removing_one_sample_moves_the_sum_by_at_most_the_clipping_norm() -> None:
    check_one_sample_moves_the_sum_by_at_most_c(engine(tiny_network()).clipped_sum)
    goes_red(check_one_sample_moves_the_sum_by_at_most_c, MicroBatches(tiny_network()).clipped_sum)


@pytest.mark.parametrize("physical", [1, 3, 8])
def test_the_physical_batch_changes_memory_and_nothing_else(physical: int) -> None:
    whole = engine(tiny_network()).clipped_sum(IMAGES, LABELS, 0.5)
    parts = engine(tiny_network(), physical).clipped_sum(IMAGES, LABELS, 0.5)
    assert (parts.samples, parts.clipped) == (whole.samples, whole.clipped)
    for name, expected in whole.gradients.items():
        torch.testing.assert_close(parts.gradients[name], expected, rtol=1e-4, atol=1e-6)


def test_clipped_counts_those_above_the_norm() -> None:
    model = tiny_network()
    lengths = sorted(
        length(gradients(model, IMAGES[i : i + 1], LABELS[i : i + 1])) for i in range(8)
    )
    result = engine(model).clipped_sum(IMAGES, LABELS, (lengths[4] + lengths[5]) / 2)
    assert (result.samples, result.clipped) == (8, 3)


def test_an_empty_batch_sums_to_zero_in_every_parameter() -> None:
    model = tiny_network()
    result = engine(model).clipped_sum(IMAGES[:0], LABELS[:0], 1.0)
    assert result.samples == 0
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: g.shape for n, g in result.gradients.items()
    }
    assert length(result.gradients) == 0


def test_frozen_parameters_are_left_out() -> None:
    model, plain = tiny_network(), tiny_network()
    for network in (model, plain):
        network[0].weight.requires_grad_(False)
    result = engine(model).clipped_sum(IMAGES, LABELS, 0.5)
    assert "0.weight" not in result.gradients
    reference = one_by_one(plain, IMAGES, LABELS, 0.5)
    assert result.gradients.keys() == reference.keys()
    for name, expected in reference.items():
        torch.testing.assert_close(result.gradients[name], expected, rtol=1e-4, atol=1e-5)


def test_close_leaves_the_model_as_it_was() -> None:
    model, fresh = tiny_network(), tiny_network()
    for _ in range(2):  # the next round makes another engine on the same model
        used = engine(model)
        used.clipped_sum(IMAGES, LABELS, 0.5)
        used.close()
    assert model.state_dict().keys() == fresh.state_dict().keys()
    for parameter in model.parameters():
        assert not hasattr(parameter, "grad_sample")
        assert parameter.grad is None
    expected = gradients(fresh, IMAGES, LABELS)
    for name, gradient in gradients(model, IMAGES, LABELS).items():
        assert torch.equal(gradient, expected[name])


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 1))


def check_mixing_is_refused(check: Callable[[nn.Module], object]) -> None:
    refuses(lambda: check(with_batch_norm()), "layer '1'", "BatchNorm2d", "model.norm = 'group'")


def test_batch_norm_is_refused_with_the_remedy() -> None:
    check_mixing_is_refused(check_model)
    check_mixing_is_refused(engine)
    goes_red(check_mixing_is_refused, lambda model: None)  # pitfall 14


def test_norms_that_mix_no_samples_are_allowed() -> None:
    check_model(tiny_network())
    check_model(nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)))
    check_model(with_batch_norm().eval())
    refuses(lambda: check_model(nn.InstanceNorm2d(4, track_running_stats=True)), "mixes patients")
    refuses(lambda: check_model(nn.BatchNorm1d(4, track_running_stats=False).eval()), "mixes")


def test_batch_norm_that_leaves_evaluation_is_refused_at_the_next_batch() -> None:
    model = with_batch_norm().eval()
    if CHOSEN["engine"] == "opacus":  # takes no trained batch norm in any mode
        return refuses(lambda: engine(model), "'opacus'", "set privacy.engine = 'fedmed'")
    used = engine(model)
    used.clipped_sum(IMAGES, LABELS, 0.5)
    model.train()
    refuses(lambda: used.clipped_sum(IMAGES, LABELS, 0.5), "layer '1'", "mixes patients")
    return used.close()


def test_an_unknown_engine_names_the_key() -> None:
    refuses(
        lambda: make_engine("fast", tiny_network(), 1),
        "privacy.engine",
        "'fast'",
        "'fedmed', 'opacus' or 'loop'",
    )


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refuses(
        lambda: make_engine("opacus", tiny_network(), 1),
        *("privacy.engine", "fedmed[opacus]", "or use 'fedmed'"),
    )
    make_engine("fedmed", tiny_network(), 1).close()
