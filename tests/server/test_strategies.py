"""From updates to the next model: exact averages, central noise, failures, models kept apart."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from support import ADAPTIVE, account_request, goes_red, make, refuses, update_plan
from torch import Tensor

from fedmed.errors import RunError
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.plan import UpdatePlan
from server.central import CentralGaussian
from server.optimizers import ServerOptimizer
from server.strategies import Averaging, BudgetSpent, FederationStrategy, LocalOnly

MEMBERS = {2: "hospital-1", 3: "hospital-2", 4: "hospital-3"}
NAMES = list(MEMBERS.values())
SIZES = {"hospital-1": 1000, "hospital-2": 10, "hospital-3": 10}
EMPTY = messages.encode_arrays({})
RUN = "a run"


@pytest.fixture(autouse=True)
def _sender() -> None:
    InlineGrid(lambda message, context: message, 1, {})  # type: ignore[arg-type]


def start() -> dict[str, Tensor]:
    return {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0])}


def updates() -> list[Reply]:
    values = (([1.0, 0.0], [3.0]), ([0.0, 4.0], [0.0]), ([-7.0, 5.0], [6.0]))
    return [
        Reply(name, {"w": torch.tensor(w), "b": torch.tensor(b)})
        for name, (w, b) in zip(NAMES, values, strict=True)
    ]


def train(**keys: Any) -> Any:
    return make(data={"hospitals": 3}, train=keys).train


def averaging(**keys: Any) -> Averaging:
    return Averaging(train(**keys), MEMBERS, EMPTY, 0, start(), SIZES)


def model(strategy: FederationStrategy, owner: str = "global") -> list[float]:
    arrays = strategy.models()[owner]
    return [*arrays["w"].tolist(), *arrays["b"].tolist()]


def test_equal_weights_are_the_plain_mean() -> None:
    strategy = averaging(weighting="equal")
    strategy.combine(1, updates())
    assert model(strategy) == [-1.0, 5.0, 13.0]


def test_weights_by_size_are_shares_of_the_images() -> None:
    strategy = averaging(weighting="size")
    strategy.combine(1, updates())
    expected = [1 + (1000 - 70) / 1020, 2 + (40 + 50) / 1020, 10 + (3000 + 60) / 1020]
    assert model(strategy) == pytest.approx(expected)


def test_the_mean_is_over_those_who_answered() -> None:
    strategy = averaging(weighting="equal")
    strategy.combine(1, updates()[:2])
    assert model(strategy) == [1.5, 4.0, 11.5]


def test_the_servers_learning_rate_scales_the_mean() -> None:
    strategy = averaging(**{"server-learning-rate": 0.5})
    strategy.combine(1, updates())
    assert model(strategy) == [0.0, 3.5, 11.5]


def test_updates_and_the_old_model_are_not_changed() -> None:
    strategy, replies, before = averaging(), updates(), start()
    strategy.parameters = before
    strategy.combine(1, replies)
    assert before["w"].tolist() == [1.0, 2.0]
    assert replies[0].update is not None
    assert replies[0].update["w"].tolist() == [1.0, 0.0]


# Central noise.

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
    return CentralGaussian(train(**keys), MEMBERS, EMPTY, 0, zeros(), plan, ledger, source, run=RUN)


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
        args = (train(), MEMBERS, EMPTY, 0, zeros(), plan, ledger, NoiseSource(1))
        strategy = kind(*args, run=RUN)
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
        made = strategy(
            train(**keys),
            MEMBERS,
            EMPTY,
            0,
            zeros(),
            plan,
            opened(path, plan),
            NoiseSource(1),
            run=RUN,
        )
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
    goes_red(check, Averaging(train(), MEMBERS, EMPTY, 0, zeros(), SIZES))


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
        args = (train(), MEMBERS, EMPTY, 0, zeros(), adaptive(quantile=0.4, rate=0.3), ledger)
        goes_red(check, SharesOfReplies(*args, NoiseSource(1), run=RUN))


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
    args = (train(), MEMBERS, EMPTY, 1, zeros(), plan, ledger, NoiseSource(1))
    assert CentralGaussian(*args, run=RUN, clipping_norm=0.25).clipping_norm == 0.25
    assert CentralGaussian(*args, run=RUN).clipping_norm == 1.0


def test_a_fixed_norm_stays(tmp_path: Path) -> None:
    strategy = central(tmp_path, update_plan("server", clipping_norm=0.5))
    strategy.combine(1, of_norms(9.0, 9.0, 9.0))
    assert strategy.clipping_norm == 0.5
    assert strategy.report.extra == {}


# Messages and failures.


def test_a_policys_no_is_no_fault_and_the_round_goes_on() -> None:
    """Also where faults stop the run; and where everybody refuses, the run ends."""
    strategy = averaging(**{"on-failure": "stop"})
    strategy.aggregate_train(1, answers(code(3, "policy")))
    assert model(strategy) == [-2.0, 4.5, 14.5]
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": "policy"}]
    with pytest.raises(BudgetSpent):
        averaging().aggregate_train(1, [code(node, "policy") for node in MEMBERS])
    refuses(
        lambda: averaging(**{"minimum-hospitals": 3}).aggregate_train(
            1, answers(code(3, "policy"))
        ),
        "2 of 3 hospitals",
        "train.minimum-hospitals = 3",
        error=RunError,
    )


def answer(node: int, content: RecordDict | Error) -> Message:
    return Message(content, reply_to=Message(RecordDict(), node, MessageType.TRAIN))  # type: ignore[call-overload]


def answers(*failing: Message | int) -> list[Message]:
    """Good answers of all members but those given (a number: silence) in their place."""
    silent = {f if isinstance(f, int) else f.metadata.src_node_id for f in failing}
    good = [
        answer(node, messages.update_content(reply))
        for node, reply in zip(MEMBERS, updates(), strict=True)
        if node not in silent
    ]
    return [*(f for f in failing if isinstance(f, Message)), *reversed(good)]


def code(node: int, name: str) -> Message:
    return answer(node, messages.update_content(Reply("", error=name)))


def with_nan(node: int) -> Message:
    update = start() | {"b": torch.tensor([float("nan")])}
    return answer(node, messages.update_content(Reply("", update)))


FAILURES = [
    (lambda: code(3, "data"), "data"),
    (lambda: with_nan(3), "bad-update"),
    (lambda: answer(3, Error(code=1, reason="patient 123")), "no-answer"),
    (lambda: 3, "no-answer"),
]


def test_replies_in_any_order_give_the_same_model() -> None:
    strategy = averaging()
    strategy.aggregate_train(1, answers())
    assert model(strategy) == [-1.0, 5.0, 13.0]
    assert strategy.report.hospitals == 3
    assert strategy.report.failures == []


@pytest.mark.parametrize(("failing", "name"), FAILURES)
def test_a_failure_stops_the_run_with_hospital_and_code(failing: Any, name: str) -> None:
    strategy = averaging(**{"on-failure": "stop"})
    refuses(
        lambda: strategy.aggregate_train(1, answers(failing())),
        f"hospital-2: {name}",
        "train.on-failure",
        error=RunError,
    )
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": name}]
    assert model(strategy) == [1.0, 2.0, 10.0], "the model is as before"


@pytest.mark.parametrize(("failing", "name"), FAILURES)
def test_or_the_round_goes_on_without_it_and_says_so(
    failing: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = averaging(**{"on-failure": "continue"})
    strategy.aggregate_train(1, answers(failing()))
    assert model(strategy) == [-2.0, 4.5, 14.5]
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": name}]
    assert strategy.report.hospitals == 2
    assert name in caplog.text
    assert "patient" not in caplog.text


def test_too_few_hospitals_are_no_round() -> None:
    strategy = averaging(**{"on-failure": "continue", "minimum-hospitals": 2})
    refuses(
        lambda: strategy.aggregate_train(1, answers(2, 4)),
        "1 of 3 hospitals",
        "train.minimum-hospitals = 2",
        error=RunError,
    )
    strategy = averaging(**{"on-failure": "continue"})
    refuses(lambda: strategy.aggregate_train(1, []), "0 of 3", error=RunError)


def test_a_spent_budget_ends_the_run() -> None:
    strategy = averaging(**{"on-failure": "stop"})
    with pytest.raises(BudgetSpent):
        strategy.aggregate_train(1, answers(code(4, "budget")))
    assert model(strategy) == [1.0, 2.0, 10.0]


def test_the_mean_loss_is_known_only_where_everybody_tells() -> None:
    def told(count: int) -> list[Message]:
        return [
            answer(n, messages.update_content(Reply("", r.update, 0.5 + n if i < count else None)))
            for i, (n, r) in enumerate(zip(MEMBERS, updates(), strict=True))
        ]

    strategy = averaging()
    strategy.aggregate_train(1, told(3))
    assert strategy.report.loss == 3.5
    strategy.aggregate_train(2, told(2))
    assert strategy.report.loss is None


def test_every_member_gets_the_model_and_the_round_after_those_completed() -> None:
    strategy = Averaging(train(), MEMBERS, EMPTY, 5, start(), SIZES)
    grid = InlineGrid(lambda message, context: message, 3, {})  # type: ignore[arg-type]
    sent = list(strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid))
    assert [m.metadata.dst_node_id for m in sent] == [2, 3, 4]
    for message in sent:
        assert message.content.config_records["request"]["round"] == 7
        decoded = messages.decode_arrays(message.content.array_records["model"])
        assert torch.equal(decoded["w"], start()["w"])
    assert list(strategy.configure_evaluate(2, ArrayRecord(), ConfigRecord(), grid)) == []


def test_local_only_keeps_the_models_apart() -> None:
    def check(strategy: FederationStrategy) -> None:
        grid = InlineGrid(lambda message, context: message, 3, {})  # type: ignore[arg-type]
        strategy.aggregate_train(1, answers())
        sent = list(strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid))
        found = [messages.decode_arrays(m.content.array_records["model"])["b"][0] for m in sent]
        assert [float(b) for b in found] == [13.0, 10.0, 16.0]

    own = {name: start() for name in NAMES}
    strategy = LocalOnly(train(), MEMBERS, EMPTY, 0, own)
    check(strategy)
    assert model(strategy, "hospital-3") == [-6.0, 7.0, 16.0]
    goes_red(check, averaging())


def test_local_only_leaves_a_failed_hospitals_model_as_it_was() -> None:
    own = {name: start() for name in NAMES}
    strategy = LocalOnly(train(**{"on-failure": "continue"}), MEMBERS, EMPTY, 0, own)
    strategy.aggregate_train(1, answers(3))
    assert model(strategy, "hospital-2") == [1.0, 2.0, 10.0]
    assert model(strategy, "hospital-1") == [2.0, 2.0, 13.0]
