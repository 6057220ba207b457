"""The noise of what is really released: its scale, its shape, and that no two draws share it.

Every release is turned into standard normal scores: noise over the standard deviation that the plan
prints, Laplace noise through its distribution function. Three kinds of check look at them, each
with a false-alarm rate of 1e-6 on true noise; noise comes from the operating system, so a test of
a dozen checks is red by chance once in some 80,000 runs. Every test also sees broken noise fail:
what is broken differs by at least five standard errors more than the checks allow.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, kstest, laplace, norm
from support import SIZE, goes_red, gradient_plan, make, tiny_shard, update_plan
from support.pitfalls import (
    LedgerInMemory,
    flat,
    keyed_by,
    model,
    settings_of,
    tiny_hospital,
)
from torch import Tensor

from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.strategies import Start
from fedmed.data.released import released_shard
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.privacy.mechanisms.images import BrightnessShift, DPPix, ImageMechanism, PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.normals import Normals
from fedmed.privacy.mechanisms.updates import GaussianNoise
from fedmed.privacy.plans import AdaptiveClipping, GradientPlan, UpdatePlan

ALARM = 1e-6
STILL = 1e-12  # the smallest learning rate: an update is noise alone
MEMBERS = {2: "hospital-1", 3: "hospital-2", 4: "hospital-3"}
Scores = NDArray[np.float64]


pytestmark = pytest.mark.usefixtures("tiny_hospitals_on_one_thread")


def check_scale(scores: Scores) -> None:
    """Chi-square test of the variance."""
    total, n = float((scores**2).sum()), scores.size
    assert chi2.ppf(ALARM / 2, n) < total < chi2.isf(ALARM / 2, n)


def check_distribution(scores: Scores) -> None:
    """Kolmogorov-Smirnov test against the standard normal distribution."""
    assert kstest(scores.ravel(), "norm").pvalue > ALARM


def check_independence(scores: Scores) -> None:
    """Along every axis: neighbours are uncorrelated, and sums scatter as those of unequal draws.

    Scores are standard normal, so a mean of products is normal with variance 1/n (its fourth moment
    exceeds the normal's by 6/n). Noise that is shared along an axis makes the sums larger.
    """
    for axis in range(scores.ndim):
        moved = np.moveaxis(scores, axis, 0)
        products = moved[:-1] * moved[1:]
        assert abs(products.mean()) < norm.isf(ALARM / 2) / math.sqrt(products.size)
        check_scale(moved.sum(axis=0) / math.sqrt(len(moved)))


def check_noise(scores: Scores) -> None:
    for part in (scores, *scores):  # all of them, and each hospital's or run's
        check_scale(part)
    check_distribution(scores)
    check_independence(scores)


Patch = pytest.MonkeyPatch
Break = Callable[[Patch], None]


def check_only_true_noise_passes(
    released: Callable[[], Scores], broken: dict[str, Break], monkeypatch: Patch
) -> None:
    """``released`` passes as the code is, and fails under every way to break it."""
    check_noise(released())
    for name, sabotage in broken.items():
        with monkeypatch.context() as patch:
            sabotage(patch)
            try:
                goes_red(check_noise, released())
            except pytest.fail.Exception as error:
                raise AssertionError(f"{name}: not noticed") from error


def scaled_noise(factor: float) -> Break:
    """Gaussian noise of another scale; 0 removes it."""
    add = GaussianNoise.add

    def other(self: GaussianNoise, update: Any, normals: Normals) -> dict[str, Tensor]:
        if not factor:
            return dict(update)
        return add(GaussianNoise(self.standard_deviation * factor), update, normals)

    return lambda patch: patch.setattr(GaussianNoise, "add", other)


def uniform_noise(patch: Patch) -> None:
    """The right variance, another shape."""

    def add(self: GaussianNoise, update: Any, normals: Normals) -> dict[str, Tensor]:
        width = self.standard_deviation * math.sqrt(12)
        return {n: v + (torch.rand(v.shape) - 0.5) * width for n, v in update.items()}

    patch.setattr(GaussianNoise, "add", add)


def one_draw_per_array(patch: Patch) -> None:
    """Every array is shifted as a whole."""

    def add(self: GaussianNoise, update: Any, normals: Normals) -> dict[str, Tensor]:
        return {
            n: v + float(normals.draw(1)[0]) * self.standard_deviation for n, v in update.items()
        }

    patch.setattr(GaussianNoise, "add", add)


def key_without(*positions: int) -> Break:
    """Noise that does not depend on some words of its context."""

    def choose(context: tuple[str | int, ...]) -> object:
        return [part for i, part in enumerate(context) if i not in positions]

    return lambda patch: patch.setattr(NoiseSource, "_key", keyed_by(choose))


# Updates of hospitals: context ("update", hospital, round, model).


@pytest.mark.parametrize("source", [NoiseSource(), NoiseSource(5)])
def test_noise_on_updates_of_hospitals(source: NoiseSource, monkeypatch: Patch) -> None:
    """4 hospitals x 8 rounds x 305 numbers; noise multiplier 8, clipping norm 1/2."""
    settings = settings_of("local-update", learning_rate=STILL, rounds=8)
    parameters = model()

    def released() -> Scores:
        plan = update_plan("hospital", rounds=8, clipping_norm=0.5, noise_multiplier=8.0)
        rows = []
        for number in range(4):
            one = tiny_hospital(
                "local-update",
                name=f"hospital-{number}",
                plan=plan,
                settings=settings,
                source=source,
            )
            updates = [one.train("run", r, parameters, {}).update for r in range(1, 9)]
            rows.append([flat(update).double().numpy() for update in updates])
        return np.array(rows) / (8.0 * 2 * 0.5)

    check_only_true_noise_passes(
        released,
        {
            "noise removed": scaled_noise(0),
            "noise of 9/10": scaled_noise(0.9),
            "sensitivity C": lambda patch: patch.setattr(
                UpdatePlan, "sensitivity_at", lambda self, clipping_norm: clipping_norm
            ),
            "another shape": uniform_noise,
            "one draw for an array": one_draw_per_array,
            "hospitals share a seed": key_without(1),
            "rounds share a seed": key_without(2),
        },
        monkeypatch,
    )


# DP-SGD: context ("gradient", hospital, round, model, step).


class Steps(torch.optim.SGD):
    """Notes the gradient that each step really takes."""

    taken: list[NDArray[np.float64]] = []

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        self.taken.append(torch.cat(gradients).double().numpy())
        return super().step(closure)


def test_noise_of_every_dp_sgd_step(monkeypatch: Patch) -> None:
    """2 hospitals x 3 rounds x 6 steps x 305 numbers; noise multiplier 1e6.

    All gradients together are at most 24/1e6 of the noise: as good as none.
    """
    monkeypatch.setattr(torch.optim, "SGD", Steps)
    settings, parameters = settings_of("dp-sgd", rounds=3), model()

    def released() -> Scores:
        plan = gradient_plan(
            rounds=3, steps_per_round=6, clipping_norm=1e-5, noise_multiplier=1e6, expected_batch=8
        )
        Steps.taken = []
        for number in range(2):
            name = f"hospital-{number}"
            one = tiny_hospital("dp-sgd", name=name, plan=plan, settings=settings)
            for round_number in (1, 2, 3):
                update = flat(one.train("run", round_number, parameters, {}).update)
                # What leaves is these steps and nothing else.
                total = -0.1 * np.sum(Steps.taken[-6:], axis=0)
                sizes = [value.numel() for value in parameters.values()]
                ordered = torch.from_numpy(total).float().split(sizes)
                named = dict(zip(parameters, ordered, strict=True))
                torch.testing.assert_close(update, flat(named), rtol=1e-3, atol=1e-5)
        return np.array(Steps.taken).reshape(2, 3, 6, 305) * 8 / (1e6 * 1e-5)

    def deviation(factor: float) -> Break:
        wrong = property(lambda self: factor * self.noise_multiplier * self.clipping_norm)
        return lambda patch: patch.setattr(GradientPlan, "noise_standard_deviation", wrong)

    def on_the_final_weights(patch: Patch) -> None:
        """Five steps without noise and one with that of all six."""
        arrays = len(parameters)  # the deviation is asked for once for each
        deviations = itertools.cycle([1e-6] * 5 * arrays + [math.sqrt(6)] * arrays)
        wrong = property(lambda self: next(deviations) * 1e6 * self.clipping_norm)
        patch.setattr(GradientPlan, "noise_standard_deviation", wrong)

    check_only_true_noise_passes(
        released,
        {
            "noise removed": deviation(1e-6),
            "noise of 9/10": deviation(0.9),
            "noise at the end": on_the_final_weights,
            "hospitals share a seed": key_without(1),
            "rounds share a seed": key_without(2),
            "steps share a seed": key_without(4),
        },
        monkeypatch,
    )


# Central noise: context ("central", round, model); the clip estimate's: ("clip", round, model).


def server(plan: UpdatePlan, size: int) -> CentralGaussian:
    settings = make(data={"hospitals": 3})
    start = {"w": torch.zeros(size // 2), "b": torch.zeros(size - size // 2)}
    empty = messages.encode_arrays({})
    return CentralGaussian(
        Start(settings.train, MEMBERS, empty), start, plan, LedgerInMemory(), NoiseSource()
    )


def silent_round(strategy: CentralGaussian, number: int) -> Tensor:
    """One round of zero updates: the change of the model is noise."""
    before = flat(strategy.parameters)
    zeros = {name: torch.zeros_like(v) for name, v in strategy.parameters.items()}
    strategy.combine(number, [Reply(name, zeros) for name in MEMBERS.values()])
    return flat(strategy.parameters) - before


def test_central_noise(monkeypatch: Patch) -> None:
    """2 runs x 4 rounds x 8000 numbers; noise multiplier 4 on the sum, divided by three."""

    def released() -> Scores:
        plan = update_plan("server", rounds=4, clipping_norm=0.5, noise_multiplier=4.0)
        rows = []
        for _ in range(2):
            strategy = server(plan, 8000)
            rows.append([silent_round(strategy, r).double().numpy() for r in (1, 2, 3, 4)])
        return np.array(rows) * 3 / (4.0 * 0.5)

    check_only_true_noise_passes(
        released,
        {
            "noise removed": scaled_noise(0),
            "noise of 19/20": scaled_noise(0.95),
            "noise of a mean": scaled_noise(1 / 3),
            "another shape": uniform_noise,
            "one draw for an array": one_draw_per_array,
            "rounds share a seed": key_without(1, 2),
            "runs share a seed": key_without(),
        },
        monkeypatch,
    )


def test_noise_of_the_clip_estimate(monkeypatch: Patch) -> None:
    """2 numbers x 1000 rounds: the model's noise and that of the count, noise multiplier 2."""
    adaptive = AdaptiveClipping(quantile=0.5, rate=0.01, share_of_budget=0.4)

    def released() -> Scores:
        plan = update_plan("server", rounds=1000, noise_multiplier=2.0, adaptive=adaptive)
        strategy = server(plan, 2)
        counts, numbers = [], []
        for number in range(1000):
            bound = strategy.clipping_norm
            numbers.append(float(silent_round(strategy, number)[-1]) * 3 / bound)
            share = -math.log(strategy.clipping_norm / bound) / 0.01 + 0.5
            # All three are within the norm: each adds 1/2 to the count.
            counts.append((share - 0.5) * 3 - 1.5)
        # 1/2^2 of a round in parts of 3/5 and 2/5; zeroing out moves the count by 1/2.
        update, count = 2.0 / math.sqrt(0.6), 2.0 / math.sqrt(0.4) * 0.5
        return np.array([np.array(numbers) / update, np.array(counts) / count])

    def multiplier(name: str, factor: float) -> Break:
        wrong = property(lambda self: factor * self.noise_multiplier)
        return lambda patch: patch.setattr(UpdatePlan, name, wrong)

    check_only_true_noise_passes(
        released,
        {
            "the estimate without noise": multiplier("count_multiplier", 1e-9),
            "the estimate not paid for": multiplier("update_multiplier", 1.0),
            "the estimate at the cost of a round": multiplier("count_multiplier", 1.0),
            "one seed for both": key_without(0),
            "rounds share a seed": key_without(1, 2),
        },
        monkeypatch,
    )


# Images: context (mechanism, image).


def normal_scores(noise: NDArray[np.float64], scale: float) -> Scores:
    """Laplace noise through its distribution function, by the nearer tail."""
    tail = norm.isf(laplace.sf(np.abs(noise) / scale))
    return np.asarray(np.sign(noise) * tail)


def noise_of(released: ImageMechanism, images: int, folder: Path) -> NDArray[np.float64]:
    """Noise on the images of two hospitals, in a home where nothing was released before."""
    home = folder / f"home-{len(list(folder.iterdir()))}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMED_HOME", str(home))
        noise = []
        for seed in (0, 1):
            shard = tiny_shard(images, seed=seed)
            noised = released_shard(shard, released, NoiseSource()).images
            noise.append(np.asarray(noised, dtype=np.float64) - shard.images / 255)
    return np.array(noise)


def gaussian_pixels(self: PixelLaplace, images: Any, rng: np.random.Generator) -> Any:
    noise = rng.normal(0.0, self.scale * math.sqrt(2), size=images.shape)
    return np.asarray(images / 255 + noise, dtype=np.float32)


def test_laplace_noise_on_pixels(tmp_path: Path, monkeypatch: Patch) -> None:
    """2 hospitals x 40 images x 16 x 16 pixels; scale 0.7."""

    def released() -> Scores:
        return normal_scores(noise_of(PixelLaplace(0.7, SIZE**2), 40, tmp_path), 0.7)

    apply = PixelLaplace.apply

    def of_scale(factor: float) -> Break:
        def wrong(self: PixelLaplace, images: Any, rng: np.random.Generator) -> Any:
            return apply(replace(self, scale=self.scale * factor), images, rng)

        return lambda patch: patch.setattr(PixelLaplace, "apply", wrong)

    check_only_true_noise_passes(
        released,
        {
            "noise of 9/10": of_scale(0.9),
            "noise removed": of_scale(1e-9),
            "another shape": lambda p: p.setattr(PixelLaplace, "apply", gaussian_pixels),
            "one draw for an image": lambda p: p.setattr(
                PixelLaplace, "apply", lambda self, *a: BrightnessShift(self.scale).apply(*a)
            ),
            "images share a seed": key_without(1),
        },
        monkeypatch,
    )


def test_laplace_noise_on_cells(tmp_path: Path, monkeypatch: Patch) -> None:
    """2 hospitals x 200 images x 4 x 4 cells of 4 x 4 pixels; 16 pixels at epsilon 2: scale 1/2."""
    cells = DPPix.for_epsilon(2.0, cell=4, neighbourhood=16, size=SIZE)
    assert cells.scale == 0.5

    def released() -> Scores:
        noise = noise_of(cells, 200, tmp_path).reshape(2, 200, 4, 4, 4, 4)
        return normal_scores(noise.mean(axis=(3, 5)), 0.5)

    apply = DPPix.apply

    def of_scale(factor: float) -> Break:
        def wrong(self: DPPix, images: Any, rng: np.random.Generator) -> Any:
            return apply(replace(self, scale=self.scale * factor), images, rng)

        return lambda patch: patch.setattr(DPPix, "apply", wrong)

    check_only_true_noise_passes(
        released,
        {
            "noise of 4/5": of_scale(0.8),
            "the scale of one pixel": of_scale(1 / 16),
            "a draw for every pixel, averaged away": lambda p: p.setattr(
                DPPix, "apply", lambda self, *a: PixelLaplace(self.scale, SIZE**2).apply(*a)
            ),
            "one draw for an image": lambda p: p.setattr(
                DPPix, "apply", lambda self, *a: BrightnessShift(self.scale).apply(*a)
            ),
            "images share a seed": key_without(1),
        },
        monkeypatch,
    )
