"""Noise at the server: its scale, its divisor, its ledger, and a clipping norm that follows."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ADAPTIVE, account_request, goes_red, make, refuses, update_plan
from support.strategies import EMPTY, MEMBERS, NAMES, RUN, SIZES, train
from torch import Tensor

from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.optimizers import ServerOptimizer
from fedmed.coordinator.strategies import Averaging, BudgetSpent, Start
from fedmed.federation.messages import Reply
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.making import UpdatePlan

pytestmark = pytest.mark.usefixtures("flower_sender")


WIDE = 60_000


def zeros() -> dict[str, Tensor]:
    return {"w": torch.zeros(WIDE)}


def opened(path: Path, plan: UpdatePlan) -> Ledger:
    """The server's ledger with the plan of this run in it."""
    ledger = Ledger(path)
    ledger.open_plan(RUN, account_request(plan))
    return ledger


def central(
    folder: Path, plan: UpdatePlan, source: NoiseSource | None = None, **keys: Any
) -> CentralGaussian:
    ledger = opened(folder / "server.sqlite", plan)
    source = source or NoiseSource(1)
    return CentralGaussian(
        Start(train(**keys), MEMBERS, EMPTY, run=RUN), zeros(), plan, ledger, source
    )


def quiet(names: list[str]) -> list[Reply]:
    return [Reply(name, zeros()) for name in names]


class DividesByReplies(CentralGaussian):
    """Noise of the sum, divided by how many replied."""

    def combine(self, round_number: int, replies: list[Reply]) -> None:
        object.__setattr__(self.plan, "hospitals", len(replies))
        super().combine(round_number, replies)


class NoiseByShare(CentralGaussian):
    """Noise for the largest share of the images, as if weights were sizes."""

    def combine(self, round_number: int, replies: list[Reply]) -> None:
        largest = max(SIZES[r.hospital] for r in replies) / sum(SIZES.values())
        object.__setattr__(self.plan, "noise_multiplier", 4.0 * largest)
        super().combine(round_number, replies)


@pytest.mark.parametrize("who", [NAMES, NAMES[:1], NAMES[1:]])
def test_central_noise_and_divisor_do_not_depend_on_who_replied_or_on_sizes(
    who: list[str], tmp_path: Path
) -> None:
    def check(kind: type[CentralGaussian]) -> None:
        plan = update_plan("server", clipping_norm=0.5, noise_multiplier=4.0)
        ledger = opened(tmp_path / f"{kind.__name__}.sqlite", plan)
        start = Start(train(), MEMBERS, EMPTY, run=RUN)
        strategy = kind(start, zeros(), plan, ledger, NoiseSource(1))
        strategy.combine(1, quiet(who))
        noise = strategy.models()["global"]["w"]
        # Deviation 4 x 0.5 on the sum, three planned; five standard errors: one alarm in 1e6.
        assert abs(float(noise.std()) / (2.0 / 3) - 1) < 5 / (2 * WIDE) ** 0.5
        assert abs(float(noise.mean())) < 5 * (2.0 / 3) / WIDE**0.5

    check(CentralGaussian)
    goes_red(check, NoiseByShare)  # pitfall 2
    if who is not NAMES:
        goes_red(check, DividesByReplies)


class NoisesTheStep(CentralGaussian):
    """Broken: the optimiser sees the hospitals' own sum, and noise of that scale comes after it."""

    def _step(self, mean: dict[str, Tensor]) -> None:
        super()._step(self.clean)
        self.parameters = {n: v + mean[n] - self.clean[n] for n, v in self.parameters.items()}

    clean = zeros()


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_the_servers_optimiser_sees_the_noised_mean_and_nothing_else(
    kind: str, tmp_path: Path
) -> None:
    """Its step is then post-processing: the same one from the release alone gives the model."""
    keys = {"server-optimizer": kind}
    released = central(tmp_path / "plain", update_plan("server"))
    released.combine(1, quiet(NAMES))
    expected = ServerOptimizer(train(**keys)).step(zeros(), released.parameters)

    def check(strategy: type[CentralGaussian]) -> None:
        plan = update_plan("server")
        path = tmp_path / strategy.__name__ / "server.sqlite"
        start = Start(train(**keys), MEMBERS, EMPTY, run=RUN)
        made = strategy(start, zeros(), plan, opened(path, plan), NoiseSource(1))
        made.combine(1, quiet(NAMES))
        assert torch.equal(made.parameters["w"], expected["w"])
        assert float(expected["w"].std()) > 0

    check(CentralGaussian)
    if kind == "adam":
        goes_red(check, NoisesTheStep)


def test_weighting_by_size_is_refused_under_central_noise() -> None:
    refuses(
        lambda: make(train={"weighting": "size"}, privacy={"arm": "central-fixed"}),
        "train.weighting",
        "use 'equal'",
    )


def test_the_server_clips_whatever_hospitals_promise(tmp_path: Path) -> None:
    plan = update_plan("server", clipping_norm=0.5, noise_multiplier=1e-9)

    def check(strategy: Averaging) -> None:
        loud = {"w": torch.zeros(WIDE)}
        loud["w"][0] = 1e6
        strategy.combine(1, [Reply(NAMES[0], loud), *quiet(NAMES[1:])])
        assert float(strategy.models()["global"]["w"].norm()) <= 0.5 / 3 * 1.001

    check(central(tmp_path, plan))
    goes_red(check, Averaging(Start(train(), MEMBERS, EMPTY), zeros(), SIZES))


def test_the_servers_ledger_stops_after_the_planned_rounds(tmp_path: Path) -> None:
    for source in (NoiseSource(), NoiseSource(1)):
        folder = tmp_path / str(source.reproducible)
        plan = update_plan("server", rounds=2)
        strategy = central(folder, plan, source)
        strategy.combine(1, quiet(NAMES))
        strategy.combine(2, quiet(NAMES))
        again = central(folder, plan, source)  # a restart, with another model
        again.parameters = {"w": torch.ones(WIDE)}
        for round_number in (2, 3):
            with pytest.raises(BudgetSpent):
                again.combine(round_number, quiet(NAMES))
        assert Ledger(folder / "server.sqlite").steps(RUN) == 2
        assert torch.equal(again.models()["global"]["w"], torch.ones(WIDE))


def test_a_repeated_round_costs_once_only_where_its_noise_is_the_same(tmp_path: Path) -> None:
    plan = update_plan("server", rounds=1)
    first = central(tmp_path / "a", plan, NoiseSource(1))
    first.combine(1, quiet(NAMES))
    again = central(tmp_path / "a", plan, NoiseSource(1))
    again.combine(1, quiet(NAMES))
    assert torch.equal(first.models()["global"]["w"], again.models()["global"]["w"])
    central(tmp_path / "b", plan, NoiseSource()).combine(1, quiet(NAMES))
    with pytest.raises(BudgetSpent):
        central(tmp_path / "b", plan, NoiseSource()).combine(1, quiet(NAMES))


def test_central_noise_is_not_reused_on_another_model(tmp_path: Path) -> None:
    """Pitfall 29: the difference of two releases would cancel it."""

    def check(offset: float) -> None:
        noises = []
        for number, value in enumerate((0.0, offset)):
            strategy = central(tmp_path / f"{offset}-{number}", update_plan("server"))
            strategy.parameters = {"w": torch.full((WIDE,), value)}
            strategy.combine(1, quiet(NAMES))
            noises.append(strategy.models()["global"]["w"] - value)
        correlation = float(torch.corrcoef(torch.stack(noises))[0, 1])
        assert abs(correlation) < 5 / WIDE**0.5

    check(1.0)
    goes_red(check, 0.0)


# The clipping norm that follows the updates.


def adaptive(noise: float = 1e-9, **changes: Any) -> UpdatePlan:
    """Next to no noise unless one is given: the norm's own rule shows."""
    rule = dataclasses.replace(ADAPTIVE, **changes)
    return update_plan("server", clipping_norm=1.0, noise_multiplier=noise, adaptive=rule)


def of_norms(*norms: float) -> list[Reply]:
    replies = []
    for name, size in zip(NAMES, norms, strict=False):
        update = zeros()
        update["w"][0] = size
        replies.append(Reply(name, update))
    return replies


class SharesOfReplies(CentralGaussian):
    """The count divided by whoever replied: a divisor that tells who was there."""

    def combine(self, round_number: int, replies: list[Reply]) -> None:
        object.__setattr__(self.plan, "hospitals", len(replies))
        super().combine(round_number, replies)


@pytest.mark.parametrize(
    ("norms", "share"),
    [
        ((0.5, 2.0, 3.0), 1 / 3),
        ((0.5, 1.0, 3.0), 2 / 3),  # on the norm counts as within
        ((0.1, 0.1, 0.1), 1.0),
        ((5.0, 5.0, 5.0), 0.0),
        ((0.1, 0.1), (2 - 1) / 3 + 0.5),  # two of three planned replied
    ],
)
def test_the_clipping_norm_follows_the_quantile(
    norms: tuple[float, ...], share: float, tmp_path: Path
) -> None:
    """Andrew et al. 2021, Algorithm 1: C exp(-rate (share - quantile))."""
    plan = adaptive(quantile=0.4, rate=0.3)

    def check(strategy: CentralGaussian) -> None:
        strategy.combine(1, of_norms(*norms))
        expected = math.exp(-0.3 * (share - 0.4))
        assert strategy.clipping_norm == pytest.approx(expected, rel=1e-6)
        assert strategy.report.extra == {"clipping_norm": 1.0}

    check(central(tmp_path / "a", plan))
    goes_red(check, central(tmp_path / "b", adaptive(quantile=0.6, rate=0.3)))
    goes_red(check, central(tmp_path / "c", adaptive(quantile=0.4, rate=-0.3)))
    if len(norms) < 3:
        ledger = opened(tmp_path / "d.sqlite", plan)
        start = Start(train(), MEMBERS, EMPTY, run=RUN)
        kept = adaptive(quantile=0.4, rate=0.3)
        goes_red(check, SharesOfReplies(start, zeros(), kept, ledger, NoiseSource(1)))


def test_updates_are_clipped_at_the_norm_of_their_round(tmp_path: Path) -> None:
    strategy = central(tmp_path, adaptive(rate=1.0))
    strategy.combine(1, of_norms(5.0, 5.0, 5.0))
    assert float(strategy.models()["global"]["w"][0]) == pytest.approx(1.0, abs=1e-6)
    second = math.exp(0.5)
    strategy.combine(2, of_norms(5.0, 5.0, 5.0))
    assert float(strategy.models()["global"]["w"][0]) == pytest.approx(1.0 + second, abs=1e-5)
    assert strategy.report.extra == {"clipping_norm": pytest.approx(second)}


def test_the_noise_follows_the_norm_and_pays_for_the_estimate(tmp_path: Path) -> None:
    """Deviation z_u C on the sum of three; five standard errors: one alarm in 1e6."""

    def check(plan: UpdatePlan, norm: float) -> None:
        folder = tmp_path / f"{plan.noise_multiplier}-{plan.adaptive is None}-{norm}"
        strategy = central(folder, plan)
        strategy.clipping_norm = norm
        strategy.combine(1, quiet(NAMES))
        noise = strategy.models()["global"]["w"]
        expected = 4.0 / math.sqrt(1 - 0.1) * 2.5 / 3
        assert abs(float(noise.std()) / expected - 1) < 5 / (2 * WIDE) ** 0.5

    check(adaptive(4.0), 2.5)
    goes_red(check, adaptive(4.0), 1.0)  # noise of the first round's norm
    goes_red(check, update_plan("server", noise_multiplier=4.0), 2.5)  # the estimate is free


class CountsClean(UpdatePlan):
    """An estimate with a hundredth of its noise."""

    @property
    def count_multiplier(self) -> float | None:
        return (super().count_multiplier or 0.0) / 100


class CountsAsUpdates(UpdatePlan):
    """An estimate noised with the multiplier of the whole round."""

    @property
    def count_multiplier(self) -> float | None:
        return self.noise_multiplier


def test_the_estimate_of_the_norm_has_the_noise_that_is_charged(tmp_path: Path) -> None:
    """Half of z_c on the count, over three hospitals; 600 draws, five standard errors: 1e-6."""
    plan = adaptive(2.0, rate=1e-4)

    def check(plan: UpdatePlan) -> None:
        strategy = central(tmp_path / type(plan).__name__, plan, NoiseSource(5))
        found = torch.tensor(
            [math.log(strategy._next_norm(2, 3, number, "m")) for number in range(600)],
            dtype=torch.float64,
        )
        shares = -found / 1e-4 + 0.5
        expected = 2.0 / math.sqrt(0.1) * 0.5 / 3
        assert abs(float(shares.std()) / expected - 1) < 5 / (2 * 600) ** 0.5
        assert abs(float(shares.mean()) - 2 / 3) < 5 * expected / 600**0.5

    check(plan)
    goes_red(check, CountsClean(**vars(plan)))
    goes_red(check, CountsAsUpdates(**vars(plan)))


def test_no_round_changes_the_norm_by_more_than_e(tmp_path: Path) -> None:
    strategy = central(tmp_path, adaptive(1e6))
    norms = [strategy._next_norm(2, 3, number, "m") for number in range(20)]
    assert min(norms) == pytest.approx(math.exp(-1))
    assert max(norms) == pytest.approx(math.e)


def test_a_resumed_strategy_goes_on_with_its_norm(tmp_path: Path) -> None:
    plan = adaptive()
    ledger = opened(tmp_path / "a.sqlite", plan)
    args = (Start(train(), MEMBERS, EMPTY, 1, run=RUN), zeros(), plan, ledger, NoiseSource(1))
    assert CentralGaussian(*args, clipping_norm=0.25).clipping_norm == 0.25
    assert CentralGaussian(*args).clipping_norm == 1.0


def test_a_fixed_norm_stays(tmp_path: Path) -> None:
    strategy = central(tmp_path, update_plan("server", clipping_norm=0.5))
    strategy.combine(1, of_norms(9.0, 9.0, 9.0))
    assert strategy.clipping_norm == 0.5
    assert strategy.report.extra == {}
