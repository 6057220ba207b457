"""DP-SGD on a model of one's own: the plan's steps, the plan's noise, one patient one clip."""

from typing import Any

import numpy as np
import pytest
import torch
from support import refuses
from torch import Tensor, nn

from fedmed.privacy import NoiseSource, plan
from fedmed.privacy.gradients import Loss
from fedmed.privacy.plans import GradientPlan
from fedmed.training.own import PrivateTraining

DELTA = 1e-3
PLAN = plan(patients=40, batch=10, epochs=1, noise_multiplier=1.0, delta=DELTA)


def training(model: nn.Module, of: GradientPlan = PLAN, **options: Any) -> PrivateTraining:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return PrivateTraining(model, optimizer, of, **options)


def data(count: int = 40, width: int = 3) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(count, width, generator=draws), torch.arange(count) % 2


def test_it_takes_the_steps_of_the_plan_and_no_more() -> None:
    private = training(nn.Linear(3, 1))
    first = private.fit(*data(), steps=1)
    assert private.taken == 1
    assert first == private.epsilon() == PLAN.epsilon(1)
    assert private.fit(*data()) == PLAN.epsilon() > first
    assert private.taken == PLAN.steps == 4
    refuses(lambda: private.fit(*data()), "steps: 0 of a plan that has 0 of 4 left")
    refuses(lambda: training(nn.Linear(3, 1)).fit(*data(), steps=5), "5 of a plan that has 4 of 4")


def test_no_other_plan_takes_over_the_steps_that_were_taken() -> None:
    """With more noise for those to come, epsilon would forget how little the first had."""
    private = training(nn.Linear(3, 1))
    private.fit(*data(), steps=1)
    with pytest.raises(AttributeError):
        private.plan = plan(  # type: ignore[misc]  # read-only
            patients=40, batch=10, epochs=2, noise_multiplier=9.0, delta=DELTA
        )
    with pytest.raises(AttributeError):
        private.taken = 0  # type: ignore[misc]  # read-only


def test_the_noise_is_that_of_the_plan() -> None:
    """Images of zeros have no gradient but the bias': what the weights move by is noise."""
    of = plan(
        patients=40, batch=8, epochs=0.2, noise_multiplier=3.0, delta=DELTA, clipping_norm=0.5
    )
    model = nn.Linear(4000, 1)
    before = model.weight.detach().clone()
    training(model, of).fit(torch.zeros(40, 4000), data()[1], steps=1)
    moved = (model.weight.detach() - before).numpy()
    assert np.std(moved) == pytest.approx(3.0 * 0.5 / 8, rel=0.06)
    assert abs(np.mean(moved)) < 0.02


@pytest.mark.parametrize("engine", ["fedmed", "loop"])
def test_a_patient_counts_once_however_many_images(engine: str) -> None:
    """All images pull the same way with gradients far above C: four patients move it by C."""
    of = plan(patients=4, batch=4, epochs=1, noise_multiplier=0.2, delta=DELTA)
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    images, labels = torch.full((40, 1), 100.0), torch.ones(40)
    push = Loss(lambda outputs, labels: -(outputs.squeeze(1) * labels).sum())
    patients = np.repeat(["a", "b", "c", "d"], 10)
    training(model, of, loss=push, engine=engine).fit(images, labels, patients, steps=1)
    assert model.weight.item() - before == pytest.approx(1.0, abs=6 * 0.2 / 4)


def test_gradients_from_elsewhere_have_no_part() -> None:
    """Of a parameter that the optimiser holds beside the model's, and of an earlier backward."""
    model, other = nn.Linear(3, 1), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([*model.parameters(), other], lr=1.0)
    private = PrivateTraining(model, optimizer, PLAN)
    before = model.weight.detach().clone()
    for parameter in (*model.parameters(), other):
        parameter.grad = torch.full_like(parameter, 1e6)
    private.fit(*data(), steps=1)
    assert other.item() == 0
    assert (model.weight - before).abs().max() < 10
    assert model.weight.grad is None


def test_draws_and_noise_are_new_each_time_unless_a_seed_is_given() -> None:
    def trained(source: NoiseSource | None) -> list[float]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        training(model, source=source).fit(*data(), steps=2)
        values: list[float] = model.weight.detach().flatten().tolist()
        return values

    assert trained(None) != trained(None)
    assert trained(NoiseSource(seed=1)) == trained(NoiseSource(seed=1))
    assert trained(NoiseSource(seed=1)) != trained(NoiseSource(seed=2))


def test_each_step_has_noise_of_its_own_also_with_a_seed() -> None:
    model = nn.Linear(50, 1, bias=False)
    private = training(model, source=NoiseSource(seed=1))
    images, labels = torch.zeros(40, 50), data()[1]
    places = [model.weight.detach().clone()]
    for _ in range(2):
        private.fit(images, labels, steps=1)
        places.append(model.weight.detach().clone())
    assert (places[1] - places[0] - (places[2] - places[1])).abs().max() > 1e-3


def test_a_crash_over_counts() -> None:
    private = training(nn.Linear(3, 1))

    def fail(*_: object) -> None:
        raise RuntimeError("a full disk, say")

    private._optimizer.step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="disk"):
        private.fit(*data())
    assert private.taken == 1
    assert private.epsilon() == PLAN.epsilon(1)


class Remembers(nn.Module):
    """Centres by a mean of what it saw, kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.seen += images.mean(0)
        found: Tensor = self.last(images)
        return found


def test_a_model_that_keeps_data_in_a_buffer_is_refused_before_it_moves() -> None:
    model = Remembers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refuses(lambda: training(model).fit(*data()), "its buffer 'seen' changes", "evaluation mode")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Keeps(nn.Module):
    """Adds what it saw to everything that no optimiser moves."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)
        self.register_buffer("unknown", torch.full((2,), torch.nan))
        names = ("first", "second")
        for name in names:
            if frozen:
                setattr(self, name, nn.Parameter(torch.zeros(3), requires_grad=False))
            else:
                self.register_buffer(name, torch.zeros(3))
        self.kept = [getattr(self, name) for name in names]

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            for value in self.kept:
                value += images.sum(0)
        found: Tensor = self.last(images)
        return found


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("engine", ["fedmed", "loop"])
def test_everything_that_kept_data_is_put_back(frozen: bool, engine: str) -> None:
    model = Keeps(frozen)
    kind = "frozen parameter" if frozen else "buffer"
    refuses(lambda: training(model, engine=engine).fit(*data()), f"its {kind} 'first' changes")
    assert not any(value.any() for value in model.kept)
    model.kept = []
    training(model).fit(*data())  # the buffer that is NaN stayed as it was


def test_data_that_was_kept_is_put_back_after_an_error_too() -> None:
    model = Keeps(frozen=False)

    def fails(outputs: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("out of memory, say")

    with pytest.raises(RuntimeError, match="memory"):
        training(model, loss=Loss(fails)).fit(*data())
    assert not any(value.any() for value in model.kept)


def test_dropout_masks_are_nobodys_to_foresee() -> None:
    """Who knows torch's seed would see by the others' masks whether one row was drawn."""
    of = plan(patients=8, batch=8, epochs=1, noise_multiplier=1.0, delta=DELTA)

    def masks(source: NoiseSource | None) -> Tensor:
        seen: list[Tensor] = []
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1))
        model[0].register_forward_hook(lambda *given: seen.append(given[2].detach()))
        torch.manual_seed(0)
        after = torch.get_rng_state()
        training(model, of, source=source).fit(torch.ones(8, 64), torch.zeros(8), steps=1)
        assert torch.equal(torch.get_rng_state(), after), "torch's own draws are the user's"
        return seen[-1]

    assert not torch.equal(masks(None), masks(None))
    assert torch.equal(masks(NoiseSource(seed=1)), masks(NoiseSource(seed=1)))


def test_what_is_trained_is_asked_anew_each_time() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    private = training(model)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    private.fit(*data(), steps=2)
    assert torch.equal(model[0].weight, before)
    model[0].requires_grad_(True)
    private.fit(*data(), steps=1)
    assert not torch.equal(model[0].weight, before)


def test_no_gradient_is_left_on_what_the_optimiser_does_not_hold() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    private = PrivateTraining(model, torch.optim.SGD(model[1].parameters(), lr=1.0), PLAN)
    private.fit(*data(), steps=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batch_norm_is_refused_in_training_mode_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    refuses(lambda: training(model).fit(*data()), "mixes patients")
    model.eval()
    private = training(model)
    private.fit(*data())
    assert private.taken == 4
    assert not model.training, "the mode is the user's"


def test_what_does_not_fit_is_refused() -> None:
    images, labels = data()
    private = training(nn.Linear(3, 1))
    refuses(lambda: private.fit(images[:39], labels[:39]), "39 patients", "make a plan with")
    refuses(lambda: private.fit(images, labels[:-1]), "40 images, 39 labels and 40 patients")
    patients = [*map(str, range(39)), None]
    refuses(lambda: private.fit(images, labels, patients), "patients: row 40 has none")
    names = [*map(str, range(39))]
    refuses(lambda: private.fit(images, labels, [*names, float("nan")]), "row 40 has none")
    refuses(lambda: private.fit(images, labels, [" ", *names]), "row 1 has none")
    refuses(lambda: private.fit(images, labels, [*names, 0]), "make all of them texts")
    refuses(lambda: private.fit(images, labels, np.zeros((40, 2))), "one id per image")
    refuses(lambda: private.fit(images.numpy(), labels), "give tensors")  # type: ignore[arg-type]  # a user's mistake
    assert private.taken == 0
    other = torch.optim.SGD(nn.Linear(3, 1).parameters(), lr=1.0)
    refuses(lambda: PrivateTraining(nn.Linear(3, 1), other, PLAN), "no trainable parameter")
    by_image = GradientPlan(
        unit="image",
        units=40,
        expected_batch=8,
        steps_per_round=1,
        rounds=1,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        delta=DELTA,
    )
    refuses(lambda: training(nn.Linear(3, 1), by_image), "its unit is 'image'")


def test_what_no_step_is_made_for_is_refused_before_one() -> None:
    model = nn.Linear(3, 1)
    whole = torch.optim.LBFGS(model.parameters())
    refuses(lambda: PrivateTraining(model, whole, PLAN), "LBFGS")
    refuses(lambda: training(model, physical_batch_size=0), "physical_batch_size: 0")
    refuses(lambda: training(nn.Linear(3, 1).bfloat16(), engine="loop"), "model.float()")

    class Scaled(nn.Linear):
        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]  # nn.Module's takes anything
            return (super().forward(outputs).squeeze(1) * labels).sum()

    refuses(lambda: training(model, loss=Loss(Scaled(1, 1))), "parameters of its own")
    training(model, loss=Loss(Scaled(1, 1).requires_grad_(False)))


def test_several_classes_train_by_a_loss_of_ones_own() -> None:
    """Three classes that a linear model tells apart, with little noise."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    images = nn.functional.one_hot(labels, 3).float() + 0.3 * torch.randn(300, 3, generator=draws)
    model = nn.Linear(3, 3)
    of = plan(patients=300, batch=60, epochs=6, noise_multiplier=0.6, delta=DELTA)
    private = training(model, of, loss=Loss(nn.functional.cross_entropy, "mean"))
    private.fit(images, labels)
    assert (model(images).argmax(1) == labels).float().mean() > 0.9
