"""Mistakes of noise itself: each test is named after one, and fails where it is made."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import chi2, laplace, norm
from support import goes_red, gradient_plan, refuses, tiny_network, tiny_shard, update_plan
from support.guard import code, guard, request
from support.pitfalls import (
    STILL,
    LedgerInMemory,
    flat,
    model,
    settings_of,
    tiny_hospital,
)
from torch import Tensor, nn

from fedmed.config import Section, Settings, from_flat
from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.strategies import Start
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.privacy.gradients import ClippedSum
from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.normals import Normals
from fedmed.privacy.mechanisms.updates import GaussianNoise
from fedmed.privacy.plans import evaluation, gradient, update
from fedmed.privacy.plans.making import make_plan
from fedmed.site.settings import site_settings
from fedmed.training import local
from fedmed.training.augmentation import seeded
from fedmed.training.local import train_private

Patch = pytest.MonkeyPatch
pytestmark = pytest.mark.usefixtures("tiny_hospitals_on_one_thread")

ATTACK: dict[str, Any] = {"privacy.clipping-norm": 4.4e-45, "train.learning-rate": 3e38}
"""Noise in float32 underflows to 0, and the learning rate makes a count of what is left."""
WILD = (math.nan, math.inf, -math.inf, 1e300, -1e300, 10**400, 4.4e-45)


def numbers_of(section: type[Section], prefix: str = "") -> dict[str, list[Any]]:
    """Every number of a section and of those in it, with what limits it."""
    found: dict[str, list[Any]] = {}
    for name, field in section.model_fields.items():
        key = prefix + name.replace("_", "-")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= numbers_of(kind, f"{key}.")
        elif kind in (int, float):
            found[key] = field.metadata
    return found


def check_every_number_has_two_ends(section: type[Section]) -> None:
    """Whole numbers may say "below"; fractions must not: 1 - 1e-17 is 1."""
    for key, limits in numbers_of(section).items():
        low = any(isinstance(limit, Ge) for limit in limits)
        high = any(isinstance(limit, Le) or getattr(limit, "lt", None) for limit in limits)
        assert low, f"{key} has no lower end"
        assert high, f"{key} has no upper end"


def check_wild_numbers_are_refused(make: Callable[[dict[str, Any]], object]) -> None:
    for key in numbers_of(Settings):
        for wild in WILD:
            if wild == 4.4e-45 and key != "privacy.clipping-norm":
                continue
            refuses(lambda k=key, w=wild: make({k: w}), key, "must be")


class Unlimited(Section):
    """A number without an upper end."""

    clipping_norm: Annotated[float, Field(ge=0)] = 1.0


def noise_alone(deviation: float, batch: float) -> Tensor:
    sums = {"w": torch.zeros(2000)}
    return SumNoise(NoiseSource().normals()).noised_mean(sums, deviation, batch)["w"]


def noise_unchecked(deviation: float, batch: float) -> Tensor:
    sums = torch.zeros(2000)
    Normals(1).add_(sums, deviation)
    return sums / batch


def check_noise_is_a_normal_number(moved: Tensor) -> None:
    """Of 2000 draws none is 0, and all but the smallest are normal numbers of float32."""
    sizes = moved.abs()
    assert bool((sizes > 0).all())
    assert bool(torch.isfinite(sizes).all())
    assert float(sizes.median()) > 2**20 * torch.finfo(torch.float32).tiny
    assert float(sizes.unique().numel()) > 1900


def check_a_vanishing_noise_is_no_plan(clipping_norm: float, noise_multiplier: float) -> None:
    for plan in (
        lambda **k: gradient_plan(**k),
        lambda **k: update_plan("hospital", **k),
        lambda **k: update_plan("server", **k),
    ):
        refuses(
            lambda p=plan: p(clipping_norm=clipping_norm, noise_multiplier=noise_multiplier),
            "privacy.clipping-norm",
            "lost in rounding",
        )


def test_pitfall_34_noise_is_never_below_the_grid_of_what_it_is_added_to(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    check_every_number_has_two_ends(Settings)
    goes_red(check_every_number_has_two_ends, Unlimited)
    check_wild_numbers_are_refused(from_flat)
    for key, value in ATTACK.items():
        refuses(lambda k=key, v=value: from_flat({k: v}), key, "must be from")
    for low, high in ((4.4e-45, 1.0), (1e38, 1.0), (1.0, 1e-16), (1.0, math.nan)):
        check_a_vanishing_noise_is_no_plan(low, high)
    # At the ends of the ranges, all at once.
    ends = [
        gradient_plan(clipping_norm=norm, noise_multiplier=z, expected_batch=batch, units=2 * batch)
        for norm in (1e-6, 1e6)
        for z, batch in ((0.01, 1), (1e4, 1_000_000), (10.0, 1_000_000))
    ]
    for plan in ends:
        noise = noise_alone(plan.noise_standard_deviation, plan.expected_batch)
        for rate in (1e-12, 1e3):
            check_noise_is_a_normal_number(noise * rate)
    check_noise_is_a_normal_number(noise_unchecked(1.0, 6))
    goes_red(check_noise_is_a_normal_number, noise_unchecked(4.4e-45, 6))
    refuses(lambda: noise_alone(4.4e-45, 6), "protects nothing")
    # The settings' plan has noise far above the steps of the float32 sums that are clipped.
    tight = settings_of("dp-sgd", batch_size=20_000).replaced({"privacy.noise-multiplier": 0.1})
    tight = tight.replaced({"privacy.epsilon": 1e4, "privacy.delta": 1e-6})
    refuses(lambda: make_plan(tight, 200_000, "h"), "lost in rounding")
    with monkeypatch.context() as patch:
        patch.setattr(gradient, "check_noise", lambda *_: None)
        patch.setattr(update, "check_noise", lambda *_: None)
        goes_red(check_a_vanishing_noise_is_no_plan, 4.4e-45, 1.0)


def check_last_digits_tell_nothing(released: Callable[[Tensor], Tensor]) -> None:
    """One coordinate holds a patient's whole gradient, 1, under noise of deviation 1.

    Between 1/4 and 1/2 a float32 is a multiple of 2^-25, and without the patient half of what is
    released there is an odd one. So it must be with the patient: of 21,000, five standard errors.
    """
    shown = released(torch.ones(2**18)).double()
    between = shown[(shown > 0.25) & (shown < 0.5)]
    odd = float((between * 2**25 % 2).mean())
    assert len(between) > 20_000
    assert abs(odd - 0.5) < 5 * 0.5 / math.sqrt(len(between))


def test_pitfall_34_the_last_digits_of_a_release_do_not_tell_who_is_there() -> None:
    """Noise in float32 has steps of 2^-24 beyond 1/2: with the patient none is odd (Mironov)."""

    def in_float32(sums: Tensor) -> Tensor:
        return sums + torch.from_numpy(NoiseSource().normals().draw(len(sums))).float()

    def in_float64(sums: Tensor) -> Tensor:
        return SumNoise(NoiseSource().normals()).noised_mean({"w": sums}, 1.0, 1.0)["w"]

    check_last_digits_tell_nothing(in_float64)
    check_last_digits_tell_nothing(
        lambda sums: GaussianNoise(1.0).add({"w": sums}, NoiseSource().normals())["w"]
    )
    goes_red(check_last_digits_tell_nothing, in_float32)


def test_pitfall_34_a_request_past_the_file_reader_is_refused_as_well(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    """The guard makes its settings from what came over the wire, by the same ranges."""
    one = guard(tmp_path)

    def check(change: Mapping[str, Any]) -> None:
        assert code(one, request(config=dict(change))) == "plan"
        assert code(one, request("query", config=dict(change))) == "plan"

    for key, value in ATTACK.items():
        check({key: value})
    for key in ("train.momentum", "train.rounds", "privacy.delta", "evaluation.epsilon"):
        for wild in (1e300, -1e300, 0.5e-300 if key == "privacy.delta" else -1.0):
            check({key: wild})
    assert one.ledger.rows() == [], "nothing was reserved"
    goes_red(check, {"privacy.clipping-norm": 1.0})
    for key, value in ATTACK.items():
        refuses(lambda k=key, v=value: site_settings(one.site, {k: v}), key, "must be from")


def check_draws_pass_box_muller(draw: Callable[[Normals], float]) -> None:
    """The tail's numbers lie beyond 4.9; 0.84 % of 4,000 beyond 5.768 (34, never 0: e^-34)."""
    one = Normals(20)
    assert sum(abs(draw(one)) > 5.7683 for _ in range(4000)) > 5


def box_muller(one: Normals) -> float:
    """From 24-bit uniforms, the smallest of which is 2^-24: what torch does in float32."""
    first, second = (max(1, int(one._uniform() * 2**24)) * 2.0**-24 for _ in range(2))
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)


def test_pitfall_35_the_tail_of_the_noise_is_as_deep_as_delta_needs() -> None:
    check_draws_pass_box_muller(Normals._tail)
    goes_red(check_draws_pass_box_muller, box_muller)
    # What a tail that ends at 5.768 costs at one coordinate, where delta = 1e-5 is claimed: a shift
    # of one noise deviation and the outputs that only one of two neighbours can give.
    assert norm.sf(math.sqrt(-2 * math.log(2.0**-24)) - 1) > 9e-7


# Batches, views and every parameter (46).


class Seen:
    """An engine that keeps what it is given and finds no gradient."""

    def __init__(self, network: nn.Module, images: list[Tensor]) -> None:
        self.network, self.images = network, images

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        self.images.append(images.clone())
        zeros = {n: torch.zeros_like(p) for n, p in self.network.named_parameters()}
        return ClippedSum(zeros, clipping_norm, len(images), 0)

    def close(self) -> None:
        pass


def trained_on(source: NoiseSource, augment: str, batch: int, seed: int) -> list[Tensor]:
    """The images of every step of one round; the whole shard where ``batch`` is 24."""
    settings = settings_of("dp-sgd", augment=augment).replaced({"run.seed": seed})
    images: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "make_engine", lambda _, network, *__: Seen(network, images))
        plan = gradient_plan(expected_batch=batch, steps_per_round=6)
        train_private(tiny_network(), tiny_shard(), settings, plan, source, ("h", 1, "m"))
    return images


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_secret(augment: str, batch: int) -> None:
    """Two runs of one seed differ; runs of one secret are alike whatever the public seed.

    Six batches of 24 patients at 1/4 are alike once in 2^117, six steps of views once in 2^144.
    """
    fresh = [trained_on(NoiseSource(), augment, batch, 0) for _ in range(2)]
    assert not same(*fresh), "drawn from the public seed"
    kept = [trained_on(NoiseSource(4), augment, batch, seed) for seed in (0, 1)]
    assert same(*kept), "the public seed has a part in it"
    other = trained_on(NoiseSource(5), augment, batch, 0)
    assert not same(kept[0], other)
    steps = kept[0]
    assert not all(same(steps[:1], [step]) for step in steps), "every step draws the same"


def test_pitfall_46_batches_are_not_drawn_from_the_public_seed(monkeypatch: Patch) -> None:
    check_secret("none", 6)
    real = local.poisson_batch
    public: dict[str, np.random.Generator] = {}

    def sample(units: Any, rate: float, _: object) -> NDArray[np.int64]:
        return real(units, rate, public["rng"])

    run = local.train_private

    def started(*arguments: Any) -> Any:
        public["rng"] = np.random.default_rng(arguments[2].run.seed)
        return run(*arguments)

    monkeypatch.setattr(local, "poisson_batch", sample)
    monkeypatch.setitem(globals(), "train_private", started)
    goes_red(check_secret, "none", 6)


def test_pitfall_46_views_are_not_drawn_from_the_public_seed(monkeypatch: Patch) -> None:
    check_secret("flip", 24)
    check_secret("shift", 24)
    real = local.augment
    monkeypatch.setattr(
        local, "augment", lambda images, kind, views, _: real(images, kind, views, seeded(0, ()))
    )
    goes_red(check_secret, "flip", 24)


def check_every_number_is_noised(scores: NDArray[np.float64], sizes: list[int]) -> None:
    """Scores (draws, numbers) of true noise are N(0, 1): the variance of each array and number.

    Chi-square with a false alarm of 1e-6 over all of either kind.
    """
    draws, count = scores.shape
    squares = (scores**2).sum(axis=0)
    alarm = 1e-6 / count / 2
    assert (squares > chi2.ppf(alarm, draws)).all()
    assert (squares < chi2.isf(alarm, draws)).all()
    for part in np.split(squares, np.cumsum(sizes)[:-1]):
        n, alarm = draws * part.size, 1e-6 / len(sizes) / 2
        assert chi2.ppf(alarm, n) < part.sum() < chi2.isf(alarm, n)


SIZES = [value.numel() for _, value in sorted(model().items())]
ROUNDS = 60
QUIET = 1e-9  # of its scale: what one parameter's noise is lowered to


def quieter(clean: Mapping[str, Tensor], noised: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    noised[name] = clean[name] + (noised[name] - clean[name]) * QUIET
    return noised


def gradient_scores() -> NDArray[np.float64]:
    """Rounds of one step: noise of 1e6 C on 305 numbers."""
    plan = gradient_plan(clipping_norm=1e-3, noise_multiplier=1e6, steps_per_round=1, rounds=ROUNDS)
    one = tiny_hospital("dp-sgd", plan=plan, settings=settings_of("dp-sgd", learning_rate=1e-3))
    updates = [flat(one.train("run", r, model(), {}).update) for r in range(1, ROUNDS + 1)]
    return torch.stack(updates).double().numpy() / (1e-3 * 1e6 * 1e-3 / 6)


def update_scores() -> NDArray[np.float64]:
    plan = update_plan("hospital", rounds=ROUNDS, noise_multiplier=8.0, clipping_norm=0.5)
    settings = settings_of("local-update", learning_rate=STILL, rounds=ROUNDS)
    one = tiny_hospital("local-update", plan=plan, settings=settings)
    updates = [flat(one.train("run", r, model(), {}).update) for r in range(1, ROUNDS + 1)]
    return torch.stack(updates).double().numpy() / (8.0 * 2 * 0.5)


def central_scores() -> NDArray[np.float64]:
    plan = update_plan("server", rounds=ROUNDS, noise_multiplier=4.0, clipping_norm=0.5)
    members = {2: "hospital-1", 3: "hospital-2", 4: "hospital-3"}
    start = {name: torch.zeros_like(value) for name, value in model().items()}
    empty = messages.encode_arrays({})
    train = settings_of("central-fixed").train
    strategy = CentralGaussian(
        Start(train, members, empty), start, plan, LedgerInMemory(), NoiseSource()
    )
    rows = []
    for number in range(1, ROUNDS + 1):
        before = flat(strategy.parameters)
        strategy.combine(number, [Reply(name, start) for name in members.values()])
        rows.append((flat(strategy.parameters) - before).double().numpy())
    return np.array(rows) * 3 / (4.0 * 0.5)


def quiet_for(name: str, patch: Patch) -> None:
    """Noise on the parameter ``name`` is a billionth of what it should be."""
    add, mean = GaussianNoise.add, SumNoise.noised_mean

    def quiet_add(self: GaussianNoise, update: Any, normals: Normals) -> dict[str, Tensor]:
        return quieter(update, add(self, update, normals), name)

    def quiet_mean(
        self: SumNoise, sums: dict[str, Tensor], deviation: float, batch: float
    ) -> dict[str, Tensor]:
        clean = {n: value / batch for n, value in sums.items()}
        return quieter(clean, mean(self, sums, deviation, batch), name)

    patch.setattr(GaussianNoise, "add", quiet_add)
    patch.setattr(SumNoise, "noised_mean", quiet_mean)


@pytest.mark.parametrize("scores", [gradient_scores, update_scores, central_scores])
def test_pitfall_46_no_parameter_is_without_noise(
    scores: Callable[[], NDArray[np.float64]], monkeypatch: Patch
) -> None:
    """A single bias at a billionth of its noise shows its gradient in clear."""
    check_every_number_is_noised(scores(), SIZES)
    for name in model():
        with monkeypatch.context() as patch:
            quiet_for(name, patch)
            goes_red(check_every_number_is_noised, scores(), SIZES)


def test_pitfall_46_no_pixel_and_no_cell_of_a_histogram_is_without_noise(
    monkeypatch: Patch,
) -> None:
    images = np.full((100, 16, 16), 128, dtype=np.uint8)

    def pixel_scores() -> NDArray[np.float64]:
        noised = PixelLaplace(0.7, 256).apply(images, NoiseSource().numpy())
        noise = noised.astype(np.float64) - 128 / 255
        scores = np.sign(noise) * norm.isf(laplace.sf(np.abs(noise) / 0.7))
        return np.asarray(scores.reshape(100, 256))

    def cell_scores() -> NDArray[np.float64]:
        counts = {"all": np.full((2, 8), 7.0), "sex": np.zeros((2, 2, 8))}
        rows = []
        for _ in range(100):
            found = evaluation.noised(counts, 5.0, NoiseSource().normals())
            rows.append(np.concatenate([(found[n] - counts[n]).ravel() for n in counts]) / 5)
        return np.array(rows)

    check_every_number_is_noised(pixel_scores(), [256])
    check_every_number_is_noised(cell_scores(), [16, 32])
    apply, noised = PixelLaplace.apply, evaluation.noised

    def quiet_pixel(self: PixelLaplace, given: Any, rng: np.random.Generator) -> Any:
        shown = apply(self, given, rng)
        shown[:, 3, 5] = given[:, 3, 5] / 255
        return shown

    def quiet_cell(counts: Any, deviation: float, normals: Normals) -> Any:
        found = noised(counts, deviation, normals)
        found["sex"][1, 0, 3] = counts["sex"][1, 0, 3]
        return found

    monkeypatch.setattr(PixelLaplace, "apply", quiet_pixel)
    monkeypatch.setattr(evaluation, "noised", quiet_cell)
    goes_red(check_every_number_is_noised, pixel_scores(), [256])
    goes_red(check_every_number_is_noised, cell_scores(), [16, 32])
