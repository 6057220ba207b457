"""Mistakes of training and exchange: each test is named after one, and fails where it is made."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.serde import message_to_proto
from numpy.typing import NDArray
from support import (
    goes_red,
    gradient_plan,
    refuses,
    tiny_network,
    tiny_shard,
)
from support_pitfalls import (
    LedgerInMemory,
    batch_sizes,
    flat,
    keyed_by,
    model,
    settings_of,
    some_rows,
    tiny_hospital,
    tiny_process,
)
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import fedmed.models
from clients import app as client_app
from clients import hospital as module
from clients import member
from clients.hospital import Hospital, Refusal
from fedmed import exchange, training
from fedmed.config import Settings
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply
from fedmed.privacy.gradients import ClippedSum, make_engine
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.policy import SIMULATION
from fedmed.privacy.updates import GaussianNoise

Update = dict[str, Tensor]
NUMBERS = 305  # in the tiny model
STILL = 1e-300  # a learning rate that float32 takes for 0: an update is noise alone


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tiny_process(monkeypatch):
        yield


def check_noise(update: Tensor, deviation: float) -> None:
    """Five standard errors of mean and deviation: a false alarm once in 1e6 each."""
    assert abs(float(update.mean())) < 5 * deviation / NUMBERS**0.5
    assert abs(float(update.std()) / deviation - 1) < 5 / (2 * NUMBERS) ** 0.5


def check_uncorrelated(first: Tensor, second: Tensor) -> None:
    """Five standard errors of a correlation: a false alarm once in 1e6."""
    correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(correlation) < 5 / NUMBERS**0.5


class WithCounter(nn.Sequential):
    """The tiny network with a buffer as batch norm has one: an integer, and large."""

    def __init__(self) -> None:
        super().__init__(*tiny_network())
        self.register_buffer("num_batches_tracked", torch.tensor(1000))


def naive_clip(update: Update, clipping_norm: float) -> Update:
    """No case for zero, and NaN passes."""
    size = torch.sqrt(sum((v.double() ** 2).sum() for v in update.values()))  # type: ignore[arg-type]
    return {name: (v * (clipping_norm / size)).float() for name, v in update.items()}


def check_only_finite_parameters_are_clipped() -> None:
    one = tiny_hospital("central-fixed", settings=settings_of("central-fixed", learning_rate=STILL))
    parameters = messages.parameters_of(WithCounter())
    assert list(parameters) == list(model()), "no buffer is exchanged, none enters the norm"
    update = flat(one.train("run", 1, model(), {}).update)
    assert torch.equal(update, torch.zeros(NUMBERS)), "a zero update stays zero"
    loud = settings_of("central-fixed", learning_rate=3e38, local_epochs=9.0)
    diverging = dataclasses.replace(one, settings=loud)
    refuses(lambda: diverging.train("run", 1, model(), {}), "not-finite", error=Refusal)


def test_pitfall_03_no_state_dict_is_clipped_no_zero_divides_and_no_nan_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_only_finite_parameters_are_clipped()
    with monkeypatch.context() as patch:
        patch.setattr(module, "clip", naive_clip)
        goes_red(check_only_finite_parameters_are_clipped)
    monkeypatch.setattr(exchange, "trainable", lambda network: network.state_dict())
    goes_red(check_only_finite_parameters_are_clipped)


def check_batches_are_poisson(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 patients at rate 1/5: mean 8, variance 6.4; five standard errors, false alarm 1e-6."""
    sizes = batch_sizes(
        monkeypatch, gradient_plan(units=40, expected_batch=8, steps_per_round=600), 40
    )
    assert len(sizes) == 600
    assert abs(np.mean(sizes) - 8) < 5 * math.sqrt(6.4 / 600)
    assert abs(np.var(sizes) / 6.4 - 1) < 5 * math.sqrt(2 / 600)


class ShuffledLoader:
    """Batches of a fixed size from one shuffled pass after the other."""

    def __init__(self) -> None:
        self.order: list[int] = []

    def __call__(
        self, units: list[NDArray[np.int64]], rate: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        if not self.order:
            self.order = rng.permutation(len(units)).tolist()
        size = round(rate * len(units))
        batch, self.order = self.order[:size], self.order[size:]
        return np.array([units[unit][0] for unit in batch], dtype=np.int64)


def test_pitfall_04_the_poisson_batches_are_those_that_are_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_batches_are_poisson(monkeypatch)
    monkeypatch.setattr(training, "poisson_batch", ShuffledLoader())
    goes_red(check_batches_are_poisson, monkeypatch)


def check_hospitals_noise_is_their_own(source: NoiseSource) -> None:
    settings = settings_of("local-update", learning_rate=STILL)
    updates = [
        flat(
            tiny_hospital("local-update", name=f"hospital-{i}", source=source, settings=settings)
            .train("run", 1, model(), {})
            .update
        )
        for i in range(4)
    ]
    check_uncorrelated(updates[0], updates[1])
    # Noise of multiplier 1 and sensitivity 2 averages out: half of it is left over four.
    check_noise(torch.stack(updates).mean(dim=0), 2 / 2)


@pytest.mark.parametrize("source", [NoiseSource(), NoiseSource(3)])
def test_pitfall_06_no_two_sites_share_a_seed(
    source: NoiseSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_hospitals_noise_is_their_own(source)
    monkeypatch.setattr(NoiseSource, "_key", keyed_by(lambda context: "seed"))
    goes_red(check_hospitals_noise_is_their_own, source)


def no_rows(*_: object) -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


def check_empty_batches_are_noised_steps() -> None:
    """Four steps of noise 1000 x 0.5 on the sum, six expected in a batch, learning rate 0.1."""
    plan = gradient_plan(clipping_norm=0.5, noise_multiplier=1000.0)
    one = tiny_hospital("dp-sgd", plan=plan)
    update = flat(one.train("run", 1, model(), {}).update)
    check_noise(update, 0.1 * math.sqrt(4) * 1000 * 0.5 / 6)


def test_pitfall_07_an_empty_poisson_batch_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = batch_sizes(monkeypatch, gradient_plan(expected_batch=1, steps_per_round=100), 24)
    assert len(sizes) == 100, "a step for every batch"
    assert 0 in sizes, "36 % are empty: none among 100 once in 1e19 runs"
    monkeypatch.setattr(training, "poisson_batch", no_rows)
    check_empty_batches_are_noised_steps()
    real, empty = training.to_input, []

    def notice(images: Any, *arguments: Any) -> Tensor:
        empty.append(len(images) == 0)
        return real(images, *arguments)

    class SkipsEmptyBatches(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return None if empty[-1] else super().step(closure)

    monkeypatch.setattr(training, "to_input", notice)
    monkeypatch.setattr(torch.optim, "SGD", SkipsEmptyBatches)
    goes_red(check_empty_batches_are_noised_steps)


def check_a_late_hospital_is_private() -> None:
    plan = gradient_plan(noise_multiplier=1000.0, rounds=5)
    late = tiny_hospital("dp-sgd", plan=plan)
    check_noise(flat(late.train("run", 3, model(), {}).update), 0.1 * math.sqrt(4) * 1000 / 6)
    assert late.ledger.steps("run") == 4


def test_pitfall_09_nothing_of_the_privacy_is_made_in_round_one_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_a_late_hospital_is_private()
    real = training.train_private

    def first_round_only(network: nn.Module, *arguments: Any) -> training.LocalResult:
        shard, settings, plan, _, context, _ = arguments
        if context[1] == 1:
            return real(network, *arguments)
        training.train_plain(network, shard, settings, context[:2])
        return training.LocalResult(plan.steps_per_round, None)

    monkeypatch.setattr(module, "train_private", first_round_only)
    goes_red(check_a_late_hospital_is_private)


def check_noise_grows_with_the_steps() -> None:
    """Each step's sum has its own noise, so the weights' noise grows with their square root."""
    for steps in (1, 4, 16):
        plan = gradient_plan(noise_multiplier=1000.0, steps_per_round=steps)
        one = tiny_hospital("dp-sgd", plan=plan)
        update = flat(one.train("run", 1, model(), {}).update)
        check_noise(update, 0.1 * math.sqrt(steps) * 1000 / 6)


def test_pitfall_10_noise_is_not_added_once_to_the_final_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_noise_grows_with_the_steps()
    real = training.train_private

    def at_the_end(
        network: nn.Module, shard: Any, settings: Settings, plan: Any, *rest: Any
    ) -> Any:
        result = real(
            network, shard, settings, dataclasses.replace(plan, noise_multiplier=1e-9), *rest
        )
        deviation = plan.noise_standard_deviation / plan.expected_batch
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * deviation * 0.1)
        return result

    monkeypatch.setattr(module, "train_private", at_the_end)
    goes_red(check_noise_grows_with_the_steps)


# How far one patient moves the sum that DP-SGD releases, noise aside.

BOUND = 0.1


def released_sum(
    rows: list[int], labels: list[int] | None = None, network: nn.Module | None = None
) -> Tensor:
    """Of the patients in these rows, everybody sampled: the update times the expected batch."""
    shard = some_rows(tiny_shard(), rows)
    if labels is not None:
        shard = dataclasses.replace(shard, table=shard.table.assign(label=labels))
    plan = gradient_plan(
        declared=True,
        expected_batch=24,
        steps_per_round=1,
        clipping_norm=BOUND,
        noise_multiplier=1e-9,
    )
    settings = settings_of("dp-sgd", learning_rate=1.0)
    one = tiny_hospital("dp-sgd", shard=shard, plan=plan, settings=settings)
    started = network or tiny_network()
    parameters, frozen = messages.parameters_of(started), messages.frozen_of(started)
    return flat(one.train("run", 1, parameters, frozen).update) * 24


def check_one_patient_moves_the_sum_by_the_clipping_norm(
    rows: list[int], labels: list[int] | None = None, network: nn.Module | None = None
) -> None:
    """Add or remove one: the relation that the accountant composes."""
    whole = released_sum(rows, labels, network)
    for left_out in range(len(rows)):
        kept = [i for i in range(len(rows)) if i != left_out]
        rest = None if labels is None else [labels[i] for i in kept]
        moved = float((whole - released_sum([rows[i] for i in kept], rest, network)).norm())
        assert 0 < moved <= BOUND * (1 + 1e-3)


class Broken:
    """The real engine with something done wrongly around it."""

    def __init__(self, name: str, network: nn.Module, physical: int, *options: Any) -> None:
        self.network = network
        self.engine = make_engine(name, network, physical, *options)

    def close(self) -> None:
        self.engine.close()


class MicroBatches:
    """The mean gradient of four samples is clipped, not each sample's."""

    def __init__(self, name: str, network: nn.Module, physical: int, *options: Any) -> None:
        self.network = network

    def close(self) -> None:
        pass

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        parameters = dict(self.network.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for start in range(0, len(images), 4):
            part = slice(start, start + 4)
            logits = self.network(images[part]).squeeze(1)
            loss = binary_cross_entropy_with_logits(logits, labels[part])
            found = torch.autograd.grad(loss, list(parameters.values()))
            size = float(torch.cat([g.flatten() for g in found]).norm())
            for name, gradient in zip(parameters, found, strict=True):
                total[name] += len(images[part]) * gradient * min(1.0, clipping_norm / size)
        return ClippedSum(total, clipping_norm, len(images), 0)


class Scaled(Broken):
    """The sum is multiplied by something that the batch decides."""

    def factor(self, labels: Tensor) -> float:
        raise NotImplementedError

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        found = self.engine.clipped_sum(images, labels, clipping_norm)
        factor = self.factor(labels)
        scaled = {name: factor * gradient for name, gradient in found.gradients.items()}
        return dataclasses.replace(found, gradients=scaled)


class DividesByTheBatch(Scaled):
    """Undoes the division by the expected 24 and divides by those who came."""

    def factor(self, labels: Tensor) -> float:
        return 24 / max(1, len(labels))


class WeightsPositives(Broken):
    """``pos_weight``: negatives over positives of the private labels."""

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        positive = labels == 1
        weight = float((~positive).sum()) / max(1.0, float(positive.sum()))
        total = self.engine.clipped_sum(images[~positive], labels[~positive], clipping_norm)
        more = self.engine.clipped_sum(images[positive], labels[positive], clipping_norm)
        for name, gradient in more.gradients.items():
            total.gradients[name].add_(gradient, alpha=weight)
        return total


def test_pitfall_13_samples_are_clipped_not_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(8))
    check_one_patient_moves_the_sum_by_the_clipping_norm(rows)
    monkeypatch.setattr(training, "make_engine", MicroBatches)
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, rows)


def with_batch_norm(*_: object, **__: object) -> nn.Module:
    network = tiny_network()
    network[1] = nn.BatchNorm2d(4)
    return network


class Unchecked:
    """Per-sample gradients of one pass over the batch, whatever the layers do."""

    def __init__(self, name: str, network: nn.Module, physical: int, *options: Any) -> None:
        self.network = network

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        parameters = dict(self.network.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        losses = binary_cross_entropy_with_logits(
            self.network(images).squeeze(1), labels, reduction="none"
        )
        for loss in losses:
            found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
            size = float(torch.cat([g.flatten() for g in found]).norm())
            for name, gradient in zip(parameters, found, strict=True):
                total[name] += gradient * min(1.0, clipping_norm / size)
        return ClippedSum(total, clipping_norm, len(images), 0)

    def close(self) -> None:
        pass


def check_a_network_that_mixes_patients_is_refused() -> None:
    network = with_batch_norm()
    parameters, frozen = messages.parameters_of(network), messages.frozen_of(network)
    one = tiny_hospital("dp-sgd")
    refuses(lambda: one.train("run", 1, parameters, frozen), "plan", error=Refusal)


def test_pitfall_14_no_batch_norm_mixes_patients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fedmed.models, "build", with_batch_norm)
        module._model.cache_clear()
        check_a_network_that_mixes_patients_is_refused()
        assert "BatchNorm2d" in caplog.text
        patch.setattr(training, "make_engine", Unchecked)
        goes_red(check_a_network_that_mixes_patients_is_refused)
    module._model.cache_clear()
    # And what it would do: one patient moves the sum by more than its clipped gradient.
    monkeypatch.setattr(training, "make_engine", Unchecked)
    rows = list(range(8))
    check_one_patient_moves_the_sum_by_the_clipping_norm(rows)
    monkeypatch.setattr(fedmed.models, "build", with_batch_norm)
    module._model.cache_clear()
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, rows, None, with_batch_norm())


class Sees(nn.Sequential):
    """The tiny network, noting what it is given."""

    def __init__(self) -> None:
        super().__init__(*tiny_network())
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.given.append(images)
        return super().forward(images)  # type: ignore[no-any-return]


def by_own_statistics(
    images: NDArray[np.uint8], channels: int, device: torch.device, dimensions: int = 2
) -> Tensor:
    """Mean and spread of the hospital's own images."""
    tensor = torch.from_numpy(np.asarray(images)).float()
    return ((tensor - tensor.mean()) / tensor.std()).unsqueeze(1)


def check_input_is_the_images_own() -> None:
    """What the network sees of an image does not depend on the hospital's other images."""
    network = Sees()
    for rows in ([0], [0, 1, 2]):
        shard = some_rows(tiny_shard(), rows)
        training.train_plain(network, shard, settings_of("none"), ("h", 1))
    alone, together = network.given
    assert any(torch.equal(alone[0], image) for image in together)


def test_pitfall_15_no_weight_or_statistic_comes_from_private_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights and normalisation; thresholds and best epochs are in test_pitfalls_data."""
    check_input_is_the_images_own()
    with monkeypatch.context() as patch:
        patch.setattr(training, "to_input", by_own_statistics)
        goes_red(check_input_is_the_images_own)
    rows, labels = [0, 2, 4, 5], [0, 0, 0, 1]
    check_one_patient_moves_the_sum_by_the_clipping_norm(rows, labels)
    monkeypatch.setattr(training, "make_engine", WeightsPositives)
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, rows, labels)


def test_pitfall_17_the_expected_batch_divides_not_the_actual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_one_patient_moves_the_sum_by_the_clipping_norm([0, 1])
    monkeypatch.setattr(training, "make_engine", DividesByTheBatch)
    goes_red(check_one_patient_moves_the_sum_by_the_clipping_norm, [0, 1])


def check_only_the_update_leaves(arm: str) -> None:
    content = messages.update_content(tiny_hospital(arm).train("run", 1, model(), {}))
    assert sorted(content) == ["reply", "update"]
    assert dict(content.config_records["reply"]) == {"hospital": "hospital-1"}
    assert sorted(content.array_records["update"]) == sorted(model())


@pytest.mark.parametrize("arm", ["pixel-laplace", "dp-sgd", "local-update", "central-fixed"])
def test_pitfall_21_no_loss_or_count_travels_beside_a_noised_update(
    arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_only_the_update_leaves(arm)
    for extra in ({"loss": 0.5}, {"images": 24}):
        monkeypatch.setattr(module, "Reply", lambda name, update, e=extra: Reply(name, update, **e))
        goes_red(check_only_the_update_leaves, arm)


def check_another_request_has_other_noise() -> None:
    """The same round on two models: the difference of the releases does not cancel the noise."""
    settings = settings_of("local-update", learning_rate=STILL)
    one = tiny_hospital("local-update", settings=settings, source=NoiseSource(3))
    first = flat(one.train("run", 1, model(0), {}).update)
    check_uncorrelated(first, flat(one.train("run", 1, model(1), {}).update))
    assert one.ledger.steps("run") == 2, "two releases cost two"


def check_a_repeated_request_has_the_same_answer(ledger: Callable[[], Ledger]) -> None:
    first, again = (
        flat(tiny_hospital("local-update", ledger=ledger()).train("run", 1, model(), {}).update)
        for _ in range(2)
    )
    assert torch.equal(first, again)


def test_pitfall_29_noise_is_not_reused_on_another_model_nor_drawn_again_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_a_repeated_request_has_the_same_answer(lambda: Ledger(tmp_path / "ledger.sqlite"))
    goes_red(check_a_repeated_request_has_the_same_answer, LedgerInMemory)
    check_another_request_has_other_noise()
    monkeypatch.setattr(NoiseSource, "_key", keyed_by(lambda context: context[:3]))
    goes_red(check_another_request_has_other_noise)


SECRET = "patient 123"


class Failing:
    """A shard whose every use raises an error with a patient's data in its text."""

    def __len__(self) -> int:
        return 24

    def __getattr__(self, name: str) -> object:
        raise ValueError(f"{SECRET}: {name}")


def ask(settings: Settings, kind: str = MessageType.TRAIN) -> Message:
    """The app's answer to the server, as it is sent."""
    grid = InlineGrid(client_app.app, 1, settings.to_flat())
    content = messages.train_content(model(), messages.encode_arrays({}), 1, "run")
    if kind == MessageType.QUERY:
        content = messages.query_content("run")
    (reply,) = grid.send_and_receive([Message(content, 2, kind)])
    return reply


def check_no_text_of_an_error_travels(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(settings_of("dp-sgd"))
    assert SECRET.encode() not in message_to_proto(reply).SerializeToString()
    assert messages.read_reply(reply, "h", model()) == Reply("h", error="internal")
    assert SECRET not in caplog.text


def test_pitfall_30_no_exceptions_text_is_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = tiny_hospital("dp-sgd", shard=Failing())
    monkeypatch.setattr(member, "hospital_for", lambda *_: one)
    check_no_text_of_an_error_travels(caplog)

    def with_text(answer: Callable[[], RecordDict]) -> RecordDict:
        try:
            return answer()
        except Exception as error:
            return RecordDict({"error": ConfigRecord({"hospital": "", "code": str(error)})})

    monkeypatch.setattr(member, "_guarded", with_text)
    goes_red(check_no_text_of_an_error_travels, caplog)


def check_the_hospital_refuses(folder: Path) -> None:
    """A server that asks for no privacy, or for more than is left, gets a code."""
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    for name in ("hospital-1", "hospital-2"):
        text = "maximum-epsilon = 1.0\ndelta = 1e-5\n"
        (folder / "policies" / f"{name}.toml").write_text(text)
    settings = settings_of("none", batch_size=4, minimum_hospitals=1).replaced(
        {
            "data.patients": 60,
            "data.partition": "even",
            "run.policies": str(folder / "policies"),
            "run.out": str(folder / "run"),
        }
    )
    joining = messages.read_join(ask(settings, MessageType.QUERY))
    assert isinstance(joining, messages.Joining)
    assert not joining.accepts
    # Asked to train all the same:
    assert messages.read_reply(ask(settings), "h", model()) == Reply("h", error="policy")
    greedy = settings.replaced({"privacy.arm": "dp-sgd", "privacy.epsilon": 50.0})
    assert messages.read_reply(ask(greedy), "h", model()) == Reply("h", error="policy")


def check_what_is_sent_is_what_was_committed(one: Hospital) -> None:
    reply = one.train("run", 1, model(), {})
    assert reply.update is not None
    stored = one.ledger.answered("run", 1, messages.fingerprint(model()))
    assert stored == messages.pack(reply.update)


class SendsSomethingElse(Hospital):
    """The noised update is written down, another is sent."""

    def train(self, *arguments: Any) -> Reply:
        reply = super().train(*arguments)
        clear = {name: torch.zeros_like(v) for name, v in (reply.update or {}).items()}
        return dataclasses.replace(reply, update=clear)


def test_pitfall_32_no_veto_is_a_flag_that_foreign_code_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds: policy, ledger and noise are the hospital's installed code, on its own files.

    No message switches them off: a train message that no query went before is refused, and what is
    sent is what the ledger keeps. What does not hold yet: training runs in the process that checks
    and noises, so a hospital that installs foreign training code trusts it; and where the policies
    lie (``run.policies``) is read from the run's settings, which the server starts. A guard of the
    hospital's own, in another process, would settle both.
    """
    check_the_hospital_refuses(tmp_path / "a")
    module.hospital_for.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_policy", lambda *_: SIMULATION)  # as a flag could ask
        goes_red(check_the_hospital_refuses, tmp_path / "b")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    one = tiny_hospital("local-update", ledger=ledger)
    check_what_is_sent_is_what_was_committed(one)
    goes_red(check_what_is_sent_is_what_was_committed, SendsSomethingElse(**vars(one)))
    # Nor can the noise be found on the update afterwards: it must be drawn where it is trusted.
    still = settings_of("local-update", learning_rate=STILL)
    other = tiny_hospital("local-update", settings=still, ledger=LedgerInMemory())
    check_noise(flat(other.train("run", 1, model(), {}).update), 2.0)
    monkeypatch.setattr(GaussianNoise, "add", lambda self, update, generator: dict(update))
    goes_red(
        lambda: check_noise(
            flat(
                dataclasses.replace(other, ledger=LedgerInMemory())
                .train("run", 1, model(), {})
                .update
            ),
            2.0,
        )
    )
