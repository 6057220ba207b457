"""The local loop: Poisson batches really drawn, every step noised, the expected batch divides."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import goes_red, gradient_plan, make, refuses, tiny_network, tiny_shard
from support.training import SETTINGS, flat
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.data.shard import Shard
from fedmed.privacy.gradients import ClippedSum, make_engine
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.making import GradientPlan
from fedmed.training import local
from fedmed.training.local import (
    LocalResult,
    data_order,
    poisson_batch,
    to_input,
    train_plain,
    train_private,
)
from fedmed.training.optimiser import make_optimizer

Train = Callable[..., LocalResult]


def change(
    train: Train, plan: GradientPlan, shard: Shard | None = None, source: NoiseSource | None = None
) -> Tensor:
    """Change of all parameters by one round."""
    model = tiny_network()
    before = flat(model)
    train(model, shard or tiny_shard(), SETTINGS, plan, source or NoiseSource(1), ("h", 1, "m"))
    return flat(model) - before


class Recorder:
    """An engine that notes what it is given and finds no gradient."""

    def __init__(self, model: nn.Module, sizes: list[int]) -> None:
        self.model, self.sizes = model, sizes

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        self.sizes.append(len(images))
        zeros = {n: torch.zeros_like(p) for n, p in self.model.named_parameters()}
        return ClippedSum(zeros, clipping_norm, len(images), 0)

    def close(self) -> None:
        pass


def sizes_seen(monkeypatch: pytest.MonkeyPatch, sampler: Callable[..., Any]) -> list[int]:
    sizes: list[int] = []
    monkeypatch.setattr(local, "make_engine", lambda _, model, *__: Recorder(model, sizes))
    monkeypatch.setattr(local, "poisson_batch", sampler)
    plan = gradient_plan(units=40, expected_batch=8, steps_per_round=1500)
    result = train_private(
        tiny_network(), tiny_shard(40), SETTINGS, plan, NoiseSource(2), ("h", 1, "m")
    )
    assert result.steps == 1500
    return sizes


def check_sizes_are_binomial(sizes: list[int]) -> None:
    """40 patients at rate 1/5: mean 8, variance 6.4; five standard errors, false alarm 1e-6."""
    assert len(sizes) == 1500
    assert abs(np.mean(sizes) - 8) < 5 * np.sqrt(6.4 / 1500)
    assert abs(np.var(sizes) / 6.4 - 1) < 5 * np.sqrt(2 / 1500)


def test_a_declared_size_stays_where_the_shard_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40 patients declared, 24 there: rate 8/40 for each of them, and a division by 8 as ever."""

    def check(plan: GradientPlan) -> None:
        sizes: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(local, "make_engine", lambda _, model, *__: Recorder(model, sizes))
            source = NoiseSource(2)
            result = train_private(
                tiny_network(), tiny_shard(24), SETTINGS, plan, source, ("h", 1, "m")
            )
        assert result.steps == plan.steps_per_round == len(sizes)
        # Mean 24/5, variance 3.84; five standard errors, a false alarm once in a million.
        assert abs(np.mean(sizes) - 4.8) < 5 * np.sqrt(3.84 / len(sizes))

    plan = gradient_plan(units=40, expected_batch=8, steps_per_round=600, declared=True)
    check(plan)
    # As if the rate came from what is there.
    goes_red(check, dataclasses.replace(plan, units=24))
    exact = dataclasses.replace(plan, declared=False)
    refuses(lambda: check(exact), "24 patients, the plan 40", error=RunError)


def test_the_noise_and_the_divisor_are_those_of_the_declared_size() -> None:
    """One step of noise 1e4 over an expected 8; five standard errors of 305 draws."""

    def check(expected_batch: int) -> None:
        plan = gradient_plan(
            units=40,
            expected_batch=expected_batch,
            steps_per_round=1,
            noise_multiplier=1e4,
            declared=True,
        )
        found = change(train_private, plan)
        assert abs(float(found.std()) / (1e4 / 8) - 1) < 5 / (2 * len(found)) ** 0.5

    check(8)
    goes_red(check, 5)


def shuffled_batch(
    units: list[NDArray[np.int64]], rate: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Pitfall 4: batches of one fixed size."""
    chosen = rng.choice(len(units), round(rate * len(units)), replace=False)
    return np.array([units[unit][0] for unit in chosen])


def test_the_engine_gets_poisson_batches_not_shuffled_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_sizes_are_binomial(sizes_seen(monkeypatch, poisson_batch))
    goes_red(check_sizes_are_binomial, sizes_seen(monkeypatch, shuffled_batch))


def check_every_unit_is_drawn_alone(sampler: Callable[..., NDArray[np.int64]]) -> None:
    """Pairs of patients meet as often as independence says: 3000 x 0.3^2, five standard errors."""
    units = tiny_shard(20, films=2).patients()
    rng = np.random.default_rng(3)
    seen = np.zeros((3000, 10))
    rows_of_first = []
    for draw in range(3000):
        rows = sampler(units, 0.3, rng)
        np.add.at(seen[draw], rows // 2, 1)  # counts a patient that comes twice
        rows_of_first += [row for row in rows if row < 2]
    assert seen.max() == 1, "a patient gives one image"
    assert abs(seen.mean() - 0.3) < 5 * np.sqrt(0.21 / 30000)
    together = (seen[:, 0] * seen[:, 1]).mean()
    assert abs(together - 0.09) < 5 * np.sqrt(0.09 * 0.91 / 3000)
    variance = seen.sum(axis=1).var()
    assert abs(variance / 2.1 - 1) < 5 * np.sqrt(2 / 3000)
    assert abs(np.mean(rows_of_first) - 0.5) < 5 * 0.5 / np.sqrt(len(rows_of_first))


def test_patients_are_sampled_on_their_own_one_image_each() -> None:
    check_every_unit_is_drawn_alone(poisson_batch)
    goes_red(check_every_unit_is_drawn_alone, shuffled_batch)

    def both_images(
        units: list[NDArray[np.int64]], rate: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Pitfall: a patient's gradient is clipped once for each image."""
        chosen = np.flatnonzero(rng.random(len(units)) < rate)
        return np.concatenate([units[unit] for unit in chosen] or [chosen])

    with pytest.raises(AssertionError, match="a patient gives one image"):
        check_every_unit_is_drawn_alone(both_images)


def test_rate_one_takes_everybody() -> None:
    units = tiny_shard(10).patients()
    assert poisson_batch(units, 1.0, np.random.default_rng(0)).tolist() == list(range(10))


def no_rows(*_: object) -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


def check_noise_alone(changed: Tensor, deviation: float) -> None:
    """Five standard errors of mean and standard deviation over all parameters: 1e-6 each."""
    error = deviation / len(changed) ** 0.5
    assert abs(float(changed.mean())) < 5 * error
    assert abs(float(changed.std()) - deviation) < 5 * error / 2**0.5


def skips_empty_batches(
    model: nn.Module, shard: Shard, settings: object, plan: GradientPlan, *_: object
) -> LocalResult:
    """Pitfall 7: the step of an empty batch is not taken."""
    return LocalResult(plan.steps_per_round, None)


def test_an_empty_batch_still_takes_a_noised_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "poisson_batch", no_rows)
    plan = gradient_plan(steps_per_round=1, clipping_norm=0.5, noise_multiplier=3.0)
    deviation = 3.0 * 0.5 / 6  # noise on the sum, divided by the expected batch
    check_noise_alone(change(train_private, plan), deviation)
    goes_red(check_noise_alone, change(skips_empty_batches, plan), deviation)
    # Pitfall 10: the scale of another number of steps.
    four = gradient_plan(steps_per_round=4, clipping_norm=0.5, noise_multiplier=3.0)
    check_noise_alone(change(train_private, four), deviation * 2)
    goes_red(check_noise_alone, change(train_private, four), deviation)


def check_expected_batch_divides(changed: Tensor, total: Tensor) -> None:
    """Three patients came, six were expected: the sum is divided by six."""
    torch.testing.assert_close(-changed * 6, total, rtol=1e-4, atol=1e-6)


def test_the_expected_batch_divides_not_the_actual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([1, 4, 9])
    monkeypatch.setattr(local, "poisson_batch", lambda *_: rows)
    plan = gradient_plan(steps_per_round=1, clipping_norm=0.2, noise_multiplier=1e-9)
    shard, model = tiny_shard(), tiny_network()
    images = to_input(shard.images[rows], 1, torch.device("cpu"))
    engine = make_engine("loop", model, 32)
    batch = engine.clipped_sum(images, torch.from_numpy(shard.labels[rows]), 0.2)
    total = torch.cat([g.flatten() for g in batch.gradients.values()])
    assert float(total.norm()) > 0.1
    check_expected_batch_divides(change(train_private, plan), total)
    # Pitfall 17: the sensitivity depends on how many came.
    actual = gradient_plan(
        steps_per_round=1, clipping_norm=0.2, noise_multiplier=1e-9, expected_batch=3
    )
    goes_red(check_expected_batch_divides, change(train_private, actual), total)


def test_noise_of_the_planned_scale_is_added_to_real_gradients() -> None:
    """The same batches with and without noise: the difference is the noise."""
    noisy = gradient_plan(steps_per_round=1, clipping_norm=1.0, noise_multiplier=2.0)
    still = gradient_plan(steps_per_round=1, clipping_norm=1.0, noise_multiplier=1e-12)
    difference = change(train_private, noisy) - change(train_private, still)
    check_noise_alone(difference, 2.0 / 6)
    goes_red(check_noise_alone, difference, 1.0 / 6)


def test_exactly_the_planned_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(plan: GradientPlan) -> int:
        taken: list[int] = []
        step = torch.optim.SGD.step
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", lambda *a, **k: (taken.append(1), step(*a, **k)))
            for round_number in range(plan.rounds):
                context = ("h", round_number, "m")
                model = tiny_network()
                train_private(model, tiny_shard(), SETTINGS, plan, NoiseSource(1), context)
        return len(taken)

    def check(taken: int) -> None:
        assert taken == gradient_plan().steps == 8

    check(count(gradient_plan()))
    goes_red(check, count(gradient_plan(steps_per_round=5)))  # pitfall 5


def test_no_loss_is_reported_under_dp_sgd() -> None:
    result = train_private(
        tiny_network(), tiny_shard(), SETTINGS, gradient_plan(), NoiseSource(), ("h", 1, "m")
    )
    assert result == LocalResult(4, None)


def test_each_round_model_and_hospital_has_its_own_batches_and_noise() -> None:
    plan, changes = gradient_plan(), []
    for context in (("a", 1, "m"), ("a", 2, "m"), ("b", 1, "m"), ("a", 1, "n"), ("a", 1, "m")):
        model = tiny_network()
        before = flat(model)
        train_private(model, tiny_shard(), SETTINGS, plan, NoiseSource(1), context)
        changes.append(flat(model) - before)
    assert torch.equal(changes[0], changes[4]), "reproducible where asked"
    for other in changes[1:4]:
        correlation = float(torch.corrcoef(torch.stack([changes[0], other]))[0, 1])
        assert abs(correlation) < 0.5


def test_fresh_noise_differs_between_two_calls() -> None:
    def check(first: Tensor, second: Tensor) -> None:
        assert not torch.equal(first, second)

    plan = gradient_plan()
    check(*(change(train_private, plan, source=NoiseSource()) for _ in range(2)))
    goes_red(check, *(change(train_private, plan, source=NoiseSource(1)) for _ in range(2)))


def test_a_shard_that_was_not_planned_for_is_refused() -> None:
    plan = gradient_plan()
    refuses(lambda: change(train_private, plan, tiny_shard(25)), "25 patients", error=RunError)
    by_image = gradient_plan(unit="image")
    change(train_private, by_image, tiny_shard(24, films=2))
    refuses(
        lambda: change(train_private, plan, tiny_shard(24, films=2)), "12 patients", error=RunError
    )


def test_the_average_of_the_steps_is_handed_on_in_every_arm() -> None:
    """With a decay near 1 it is the mean of the iterates, whose noise is the same."""
    plan, shard = gradient_plan(steps_per_round=3), tiny_shard()
    iterates = []
    for steps in (1, 2, 3):
        fewer = gradient_plan(steps_per_round=steps)
        iterates.append(change(train_private, fewer, shard, NoiseSource(1)))
    mean = torch.stack(iterates).mean(0)

    def check(settings: Settings) -> None:
        model = tiny_network()
        before = flat(model)
        train_private(model, shard, settings, plan, NoiseSource(1), ("h", 1, "m"))
        torch.testing.assert_close(flat(model) - before, mean, rtol=1e-3, atol=1e-3)

    check(SETTINGS.replaced({"train.ema": 0.9999}))
    goes_red(check, SETTINGS)
    settings = make(train={"batch-size": 10, "local-epochs": 1.0, "learning-rate": 0.1})
    plain = []
    for ema in (0.0, 0.9999):
        model = tiny_network()
        train_plain(model, shard, settings.replaced({"train.ema": ema}), ("h", 1))
        plain.append(flat(model))
    start = flat(tiny_network())
    assert 0 < float((plain[1] - start).norm()) < float((plain[0] - start).norm())


@pytest.mark.parametrize("engine", ["fedmed", "opacus", "loop"])
def test_every_engine_takes_the_same_steps(engine: str) -> None:
    settings = SETTINGS.replaced({"privacy.engine": engine, "privacy.clipping": "automatic"})
    changed = []
    for used in (settings, settings.replaced({"privacy.engine": "loop"})):
        model = tiny_network()
        before = flat(model)
        train_private(model, tiny_shard(), used, gradient_plan(), NoiseSource(1), ("h", 1, "m"))
        changed.append(flat(model) - before)
    torch.testing.assert_close(*changed, rtol=1e-3, atol=1e-4)


def test_a_gradient_that_is_not_finite_is_dropped_and_noise_is_sent() -> None:
    shard = tiny_shard()
    shard = Shard(shard.key, shard.images.astype(np.float32) / 255, shard.table)
    shard.images[5] = np.nan
    everybody = gradient_plan(expected_batch=24, steps_per_round=2)
    model = tiny_network()
    result = train_private(model, shard, SETTINGS, everybody, NoiseSource(1), ("h", 1, "m"))
    assert result == LocalResult(2, None, 2)
    assert bool(torch.isfinite(flat(model)).all())


@pytest.mark.parametrize("private", [False, True])
def test_bfloat16_changes_the_forward_pass_alone(private: bool) -> None:
    """The update is near float32's but not it, and parameters stay float32."""
    moved = {}
    for precision in ("float32", "bfloat16"):
        settings = SETTINGS.replaced({"train.precision": precision, "train.optimizer": "sgd"})
        model = tiny_network()
        before = flat(model)
        if private:
            plan = gradient_plan(noise_multiplier=1e-3, steps_per_round=2, expected_batch=24)
            train_private(model, tiny_shard(), settings, plan, NoiseSource(1), ("h", 1, "m"))
        else:
            train_plain(model, tiny_shard(), settings, ("h", 1))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        moved[precision] = flat(model) - before
    apart = float((moved["bfloat16"] - moved["float32"]).norm() / moved["float32"].norm())
    assert 1e-5 < apart < 0.2


def test_a_sensitivity_above_the_plans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(Recorder):
        def clipped_sum(
            self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
        ) -> ClippedSum:
            batch = super().clipped_sum(images, labels, clipping_norm)
            return ClippedSum(batch.gradients, 2 * clipping_norm, batch.samples, 0)

    monkeypatch.setattr(local, "make_engine", lambda _, model, *__: Doubled(model, []))
    refuses(lambda: change(train_private, gradient_plan()), "sensitivity", error=RunError)


def test_the_model_is_left_without_hooks() -> None:
    model = tiny_network()
    train_private(model, tiny_shard(), SETTINGS, gradient_plan(), NoiseSource(), ("h", 1, "m"))
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())


def test_no_class_is_weighted() -> None:
    """Pitfall 15: a weight of positives would come from private labels."""
    shard = tiny_shard(9)
    shard.table["label"] = [1, 0, 0, 0, 0, 0, 0, 0, 0]
    settings = make(train={"batch-size": 9, "learning-rate": 1e-9})
    found = train_plain(tiny_network(), shard, settings, ("h", 1)).loss

    def check(loss: float | None, weight: float) -> None:
        logits = tiny_network()(to_input(shard.images, 1, torch.device("cpu"))).squeeze(1)
        expected = binary_cross_entropy_with_logits(
            logits, torch.from_numpy(shard.labels), pos_weight=torch.tensor(weight)
        )
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)

    check(found, 1.0)
    goes_red(check, found, 8.0)


def test_plain_training_passes_over_every_image() -> None:
    settings = make(train={"batch-size": 10, "local-epochs": 1.5, "learning-rate": 0.1})
    model = tiny_network()
    first = train_plain(model, tiny_shard(), settings, ("h", 1))
    assert first.steps == 4  # 36 images in batches of 10
    later = [train_plain(model, tiny_shard(), settings, ("h", r)).loss for r in range(2, 7)]
    assert first.loss is not None
    assert later[-1] is not None
    assert later[-1] < 0.8 * first.loss


def test_data_order_is_whole_passes_fixed_by_seed_and_context() -> None:
    order = data_order(10, 2.5, 3, ("h", 1))
    assert len(order) == 25
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()
    assert order.tolist() == data_order(10, 2.5, 3, ("h", 1)).tolist()
    for other in (data_order(10, 2.5, 4, ("h", 1)), data_order(10, 2.5, 3, ("h", 2))):
        assert order.tolist() != other.tolist()
    assert len(data_order(10, 0.001, 3, ("h", 1))) == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "nadam"])
def test_optimisers_take_the_settings_rate_and_decay(name: str) -> None:
    train = make(train={"optimizer": name, "learning-rate": 0.02, "weight-decay": 0.1}).train
    optimizer = make_optimizer(tiny_network().parameters(), train)
    assert type(optimizer).__name__.lower() == name
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.1)


@pytest.mark.parametrize("private", [False, True])
def test_the_rate_is_that_of_the_rounds_place_in_the_run(private: bool) -> None:
    settings = SETTINGS.replaced({"train.schedule": "linear", "train.rounds": 2})
    plan = gradient_plan(steps_per_round=1)

    def moved(round_number: int) -> float:
        model, shard = tiny_network(), tiny_shard()
        before = flat(model)
        if private:
            train_private(model, shard, settings, plan, NoiseSource(1), ("h", 1, "m"), round_number)
        else:
            one = settings.replaced({"train.batch-size": 24, "train.local-epochs": 1.0})
            train_plain(model, shard, one, ("h", 1), round_number)
        return float((flat(model) - before).norm())

    assert moved(2) == pytest.approx(moved(1) / 2, rel=1e-4)
