"""A hospital: it reserves before it trains, answers twice with the same bytes, tells no secrets."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from support import goes_red, gradient_plan, make, refuses, tiny_shard, update_plan
from support.pitfalls import PLANS, SECRET, Failing, flat, model, tiny_hospital
from torch import Tensor

from clients import app as client_app
from fedmed import __version__
from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.data.brightness import measured
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.hospital import hospital as module
from fedmed.hospital import rounds
from fedmed.hospital import simulated as client_member
from fedmed.hospital import terms as at_terms
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
from fedmed.privacy.ledger.filtering import OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import ImagePlan, part
from fedmed.privacy.plans.making import make_plan

RUN = "a run"
OWN = ("dp-sgd", "local-update")  # arms whose spend the hospital itself writes down

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


def settings_of(arm: str) -> Settings:
    return make(
        train={"rounds": 2, "batch-size": 6, "local-epochs": 1.0, "learning-rate": 0.1},
        privacy={"arm": arm, "epsilon": 50.0, "delta": 1e-3},
    )


def hospital(arm: str, folder: Path, **changes: Any) -> Hospital:
    """With a ledger on the disk, and momentum."""
    own = {"settings": settings_of(arm), "ledger": Ledger(folder / "ledger.sqlite")}
    return tiny_hospital(arm, **(own | changes))


def cost(arm: str) -> int:
    return 4 if arm == "dp-sgd" else 1


@pytest.mark.parametrize("arm", [arm for arm in PLANS if arm != "none"])
def test_under_a_private_arm_the_reply_is_the_update_and_the_name(arm: str, tmp_path: Path) -> None:
    def check(reply: messages.Reply) -> None:
        content = messages.update_content(reply)
        assert sorted(content) == ["reply", "update"]
        assert dict(content.config_records["reply"]) == {"hospital": "hospital-1"}
        assert sorted(content.array_records["update"]) == sorted(model())

    reply = hospital(arm, tmp_path).train(RUN, 1, model(), {})
    check(reply)
    # Pitfall 21: a loss and a count beside the noised update.
    goes_red(check, dataclasses.replace(reply, loss=0.5))
    goes_red(check, dataclasses.replace(reply, images=24))
    goes_red(check, hospital("none", tmp_path).train(RUN, 1, model(), {}))


class Reader:
    """A shard that notes whether the ledger had its entry when the images were read."""

    def __init__(self, ledger: Ledger) -> None:
        self.shard, self.ledger, self.seen = tiny_shard(), ledger, []  # type: ignore[var-annotated]  # filled later

    def __len__(self) -> int:
        return len(self.shard)

    def __getattr__(self, name: str) -> object:
        self.seen.append(self.ledger.steps(RUN))
        return getattr(self.shard, name)

    def fingerprint(self) -> str:
        return self.shard.fingerprint()  # which data: not what is in them


class ReservesAfterwards(Ledger):
    """A broken ledger: the entry is written when the answer is ready."""

    def reserve(self, run: str, round_number: int, model: str, steps: int, **_: Any) -> int:
        object.__setattr__(self, "waiting", (run, round_number, model, steps))
        return 1

    def commit(self, entry: int, reply: bytes, *, cohort: str | None = None) -> None:
        entry = super().reserve(*self.waiting)  # type: ignore[attr-defined]  # set by the test
        super().commit(entry, reply, cohort=cohort)


@pytest.mark.parametrize("arm", OWN)
def test_data_that_change_during_a_round_release_nothing(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan was made for other patients than those whose update would leave."""
    one = hospital(arm, tmp_path)
    now = iter(["of the plan"])
    monkeypatch.setattr(type(one.shard), "fingerprint", lambda self: next(now, "of other data"))
    refuses(lambda: one.train(RUN, 1, model(), {}), "data", error=Refusal)
    assert one.ledger.steps(RUN) == cost(arm)  # it stays spent
    assert [row.kind for row in one.ledger.rows()] == ["plan", "reserve"]


def pay(ledger: Ledger, settings: Settings, policy: Policy, release: str, new: str = "") -> None:
    image = part(make_plan(settings, 24, "hospital-1"), ImagePlan)
    assert image is not None
    module._pay(ledger, settings, image, policy, tiny_shard(), release, new)


def test_a_release_of_images_is_one_step_of_its_own_plan(tmp_path: Path) -> None:
    settings = make(privacy={"arm": "pixel-laplace", "laplace-scale": 1000.0})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    pay(ledger, settings, Policy(), "a release")
    pay(ledger, settings, Policy(), "a release")  # known: it costs nothing again
    kept = [(row.kind, row.run, row.round, row.steps) for row in ledger.rows()]
    assert kept == [("plan", "a release", 0, 0), ("reserve", "a release", 0, 1)]
    pay(ledger, settings, Policy(), "a release", "two images")
    assert [row.run for row in ledger.rows()][2:] == ["a release:two images"] * 2


def test_a_limit_that_falls_between_plan_and_release_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(privacy={"arm": "pixel-laplace", "laplace-scale": 1000.0})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    open_plan = Ledger.open_plan
    monkeypatch.setattr(
        Ledger, "open_plan", lambda self, run, request, limit: open_plan(self, run, request, None)
    )
    small = Policy(unit="pixels", maximum_epsilon=1e-6, arms=["pixel-laplace"])
    refuses(lambda: pay(ledger, settings, small, "a release"), "limit", error=OverBudget)
    assert ledger.steps("a release") == 0


def test_images_that_leave_without_a_guarantee_are_a_line_of_the_log(tmp_path: Path) -> None:
    settings = make(privacy={"arm": "brightness-shift", "laplace-scale": 1.0})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    pay(ledger, settings, Policy(), "a release")
    assert ledger.rows() == []
    (line,) = ledger.log.entries()
    assert (line["arm"], line["release"]) == ("brightness-shift", "a release")


@pytest.mark.parametrize("arm", OWN)
def test_the_spend_is_written_down_before_data_are_touched(arm: str, tmp_path: Path) -> None:
    def check(ledger: Ledger) -> None:
        reader = Reader(ledger)
        hospital(arm, tmp_path, ledger=ledger, shard=reader).train(RUN, 1, model(), {})
        assert reader.seen
        assert min(reader.seen) == cost(arm)

    check(Ledger(tmp_path / "a.sqlite"))
    goes_red(check, ReservesAfterwards(tmp_path / "b.sqlite"))


@pytest.mark.parametrize("arm", OWN)
def test_training_that_dies_has_been_paid_for(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The process ends."""

    def die(*_: object) -> None:
        raise Killed

    def check(ledger: Ledger) -> None:
        with pytest.raises(Killed):
            hospital(arm, tmp_path, ledger=ledger).train(RUN, 1, model(), {})
        assert ledger.steps(RUN) == cost(arm)
        assert ledger.answered(RUN, 1, messages.fingerprint(model())) is None

    monkeypatch.setattr(rounds, "train_private", die)
    monkeypatch.setattr(rounds, "train_plain", die)
    check(Ledger(tmp_path / "a.sqlite"))
    goes_red(check, ReservesAfterwards(tmp_path / "b.sqlite"))


@pytest.mark.parametrize("arm", OWN)
def test_a_repeated_request_gets_the_same_bytes_and_costs_nothing(arm: str, tmp_path: Path) -> None:
    """Pitfall 29: noise drawn twice for one request could be averaged out, or cost twice."""

    def check(second: Hospital) -> None:
        first = hospital(arm, tmp_path).train(RUN, 1, model(), {})
        again = second.train(RUN, 1, model(), {})
        assert torch.equal(flat(first.update), flat(again.update))
        assert Ledger(tmp_path / "ledger.sqlite").steps(RUN) == cost(arm)

    check(hospital(arm, tmp_path))
    goes_red(check, hospital(arm, tmp_path, ledger=Ledger(tmp_path / "another.sqlite")))


@pytest.mark.parametrize("arm", OWN)
@pytest.mark.parametrize("source", [NoiseSource(), NoiseSource(3)])
def test_no_request_beyond_the_plan_is_answered(
    arm: str, source: NoiseSource, tmp_path: Path
) -> None:
    """Two rounds are planned; a server that sends ever new models in round 2 gets one answer."""

    def check(planned: int) -> None:
        folder = tmp_path / str(planned)
        plan = dataclasses.replace(PLANS[arm], rounds=planned)  # type: ignore[type-var]  # one of several dataclasses
        one = hospital(arm, folder, source=source, plan=plan)
        one.train(RUN, 1, model(1), {})
        one.train(RUN, 2, model(2), {})
        for round_number in (2, 3):
            refuses(lambda r=round_number: one.train(RUN, r, model(3), {}), "budget", error=Refusal)
        assert one.ledger.steps(RUN) == 2 * cost(arm)
        one.train(RUN, 2, model(2), {})  # what was answered is answered again

    check(2)
    goes_red(check, 3)


@pytest.mark.parametrize("arm", OWN)
def test_a_damaged_stored_reply_is_not_sent(arm: str, tmp_path: Path) -> None:
    one = hospital(arm, tmp_path)
    first = flat(one.train(RUN, 1, model(), {}).update)
    (stored,) = tmp_path.glob("*reply*")
    stored.write_bytes(stored.read_bytes()[:-4] + b"\0\0\0\0")
    again = flat(one.train(RUN, 1, model(), {}).update)
    assert not torch.equal(first, again), "trained anew, with fresh noise"
    assert one.ledger.steps(RUN) == 2 * cost(arm), "and paid for"


@pytest.mark.parametrize("arm", OWN)
def test_a_ledger_that_cannot_be_written_stops_the_hospital(arm: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = hospital(arm, tmp_path, ledger=Ledger(tmp_path / "file" / "ledger.sqlite"))
    refuses(lambda: blocked.train(RUN, 1, model(), {}), "ledger", error=Refusal)


def test_a_reply_of_other_steps_than_accounted_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rounds.train_private

    def longer(*arguments: Any) -> Any:
        return dataclasses.replace(real(*arguments), steps=5)

    one = hospital("dp-sgd", tmp_path)
    monkeypatch.setattr(rounds, "train_private", longer)
    refuses(lambda: one.train(RUN, 1, model(), {}), "plan", error=Refusal)
    assert one.ledger.answered(RUN, 1, messages.fingerprint(model())) is None


@pytest.mark.parametrize("arm", PLANS)
def test_a_model_that_does_not_fit_or_is_not_finite_gives_a_code(arm: str, tmp_path: Path) -> None:
    one = hospital(arm, tmp_path)
    refuses(lambda: one.train(RUN, 1, {"x": torch.zeros(1)}, {}), "mismatch", error=Refusal)
    bad = model()
    bad["0.bias"][0] = float("nan")
    refuses(lambda: one.train(RUN, 2, bad, {}), "not-finite", error=Refusal)
    assert one.ledger.steps(RUN) == 0, "decided by the model alone, before anything is paid"


def check_update_noise(update: Tensor, deviation: float) -> None:
    """All updates are 0 before the noise (learning rate 1e-12); 297 numbers, 5 standard errors."""
    assert len(update) == 305
    assert abs(float(update.std()) / deviation - 1) < 5 / (2 * len(update)) ** 0.5
    assert abs(float(update.mean())) < 5 * deviation / len(update) ** 0.5


def test_noise_on_an_update_is_scaled_to_twice_the_clipping_norm(tmp_path: Path) -> None:
    settings = settings_of("local-update").replaced({"train.learning-rate": 1e-12})
    plan = update_plan("hospital", clipping_norm=0.5, noise_multiplier=8.0)
    one = hospital("local-update", tmp_path, settings=settings, plan=plan, source=NoiseSource(1))
    update = flat(one.train(RUN, 1, model(), {}).update)
    check_update_noise(update, 2 * 0.5 * 8.0)
    goes_red(check_update_noise, update, 0.5 * 8.0)  # pitfall 11: sensitivity C


def test_central_updates_are_clipped_and_not_noised_at_the_hospital(tmp_path: Path) -> None:
    plan = update_plan("server", clipping_norm=1e-3)
    one = hospital("central-fixed", tmp_path, plan=plan)
    first, second = (flat(one.train(RUN, 1, model(), {}).update) for _ in range(2))
    assert float(first.norm()) == pytest.approx(1e-3, rel=1e-4)
    assert torch.equal(first, second)
    assert one.ledger.steps(RUN) == 0


def test_noise_at_two_hospitals_is_independent(tmp_path: Path) -> None:
    def check(source: NoiseSource, other: str) -> None:
        updates = [
            flat(
                hospital("local-update", tmp_path / name, name=name, source=source)
                .train(RUN, 1, model(), {})
                .update
            )
            for name in ("hospital-1", other)
        ]
        correlation = float(torch.corrcoef(torch.stack(updates))[0, 1])
        assert abs(correlation) < 5 / len(updates[0]) ** 0.5

    check(NoiseSource(4), "hospital-2")
    check(NoiseSource(), "hospital-2")
    goes_red(check, NoiseSource(4), "hospital-1")  # pitfall 6


def test_a_hospital_that_joins_in_round_3_trains_privately(tmp_path: Path) -> None:
    """Pitfall 9: nothing of the privacy is made in round 1 only."""

    def check(multiplier: float) -> None:
        plan = gradient_plan(noise_multiplier=multiplier, rounds=5)
        settings = settings_of("dp-sgd").replaced({"train.rounds": 5, "train.momentum": 0.0})
        folder = tmp_path / str(multiplier)
        late = hospital("dp-sgd", folder, plan=plan, settings=settings, source=NoiseSource(1))
        update = flat(late.train(RUN, 3, model(), {}).update)
        # Learning rate 0.1, four steps of noise 1e4 on the sum, six expected in a batch.
        check_update_noise(update, 0.1 * 4**0.5 * 1e4 / 6)
        assert late.ledger.steps(RUN) == 4

    check(1e4)
    goes_red(check, 1e-9)


# The app around it: what is serialised when things go wrong.


def ask(app: ClientApp, settings: Settings, kind: str = MessageType.TRAIN) -> Message:
    grid = InlineGrid(app, 1, settings.to_flat())
    content = messages.train_content(model(), messages.encode_arrays({}), 1, RUN)
    outgoing = Message(
        content if kind == MessageType.TRAIN else messages.query_content(RUN), 2, kind
    )
    (reply,) = grid.send_and_receive([outgoing])
    return reply


def leaky() -> ClientApp:
    """Pitfall 30: the text of the exception is the answer."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            Failing().labels  # noqa: B018
        except ValueError as error:
            record = ConfigRecord({"hospital": "", "code": str(error)})
        return Message(RecordDict({"error": record}), reply_to=message)

    return app


@pytest.mark.parametrize("arm", ["none", *OWN])
def test_an_errors_text_never_leaves_the_hospital(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = hospital(arm, tmp_path, shard=Failing())
    monkeypatch.setattr(client_member, "hospital_for", lambda *_: one)

    def check(app: ClientApp) -> None:
        reply = ask(app, settings_of(arm))
        assert SECRET.encode() not in message_to_proto(reply).SerializeToString()
        read = messages.read_reply(reply, "hospital-1", model())
        assert read == messages.Reply("hospital-1", error="internal")

    check(client_app.app)
    assert SECRET not in caplog.text, "the kind of the error is logged, not its text"
    assert "ValueError" in caplog.text
    goes_red(check, leaky())


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("member_shard", UserError(f"{SECRET}.png cannot be read; drop its row"), "data"),
        ("make_member_plan", UserError("privacy.delta is not below 1/3; lower it"), "plan"),
    ],
)
def test_a_hospital_that_cannot_begin_says_which_kind_of_reason(
    name: str, error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_terms, "member_names", lambda settings: ["hospital-1"])
    monkeypatch.setattr(module, "member_shard", lambda settings, hospital: tiny_shard())
    where = module if hasattr(module, name) else at_terms
    monkeypatch.setattr(where, name, raising(error))
    reply = ask(client_app.app, settings_of("dp-sgd"))
    assert dict(reply.content.config_records["error"])["code"] == code
    assert SECRET.encode() not in message_to_proto(reply).SerializeToString()


def test_running_out_of_memory_is_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_member, "hospital_for", raising(MemoryError(SECRET)))
    reply = ask(client_app.app, settings_of("none"))
    assert dict(reply.content.config_records["error"]) == {"hospital": "", "code": "memory"}


def test_a_run_config_that_is_wrong_is_a_code() -> None:
    grid = InlineGrid(client_app.app, 1, settings_of("none").to_flat() | {"privacy.arm": "magic"})
    for kind in (MessageType.TRAIN, MessageType.QUERY):
        (reply,) = grid.send_and_receive([Message(messages.query_content(RUN), 2, kind)])
        assert dict(reply.content.config_records["error"])["code"] == "plan"


def test_a_query_is_answered_with_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_terms, "member_names", lambda settings: ["hospital-1"])
    monkeypatch.setattr(at_terms, "make_member_plan", lambda *_: gradient_plan())
    monkeypatch.setattr(at_terms, "patients_of", lambda *_: 24)
    reply = ask(client_app.app, settings_of("dp-sgd"), MessageType.QUERY)
    assert dict(reply.content.config_records["reply"]) == {
        "hospital": "hospital-1",
        "accepts": True,
        "evaluates": True,
        "public-size": 0,
        "rounds": 0,
        "epsilon": 0.0,
        "version": __version__,
    }
    monkeypatch.setattr(at_terms, "member_names", raising(UserError(SECRET)))
    refused = ask(client_app.app, settings_of("dp-sgd"), MessageType.QUERY)
    assert dict(refused.content.config_records["error"])["code"] == "data"


def test_an_unexpected_error_in_a_query_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called without a grid: Flower sends the text of whatever the app lets through."""
    monkeypatch.setattr(at_terms, "member_names", raising(ValueError(SECRET)))
    grid = InlineGrid(client_app.app, 1, settings_of("none").to_flat())
    message = Message(messages.query_content(RUN), 2, MessageType.QUERY)
    reply = client_app.app(message, grid._contexts[2])
    assert dict(reply.content.config_records["error"])["code"] == "internal"
    assert SECRET.encode() not in message_to_proto(reply).SerializeToString()


def test_the_app_trains_a_round_and_shares_its_hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def shard(settings: object, name: str) -> object:
        calls.append(name)
        return tiny_shard()

    monkeypatch.setattr(at_terms, "member_names", lambda settings: ["hospital-1"])
    monkeypatch.setattr(module, "member_shard", shard)
    monkeypatch.setattr(at_terms, "make_member_plan", lambda *_: gradient_plan())
    settings = settings_of("dp-sgd").replaced({"run.out": str(tmp_path)})
    reply = messages.read_reply(ask(client_app.app, settings), "hospital-1", model())
    assert reply.update is not None
    assert np.isfinite(flat(reply.update).numpy()).all()
    ask(client_app.app, settings)
    assert calls == ["hospital-1"], "shard and plan are made once"
    assert Ledger(tmp_path / "ledgers" / "hospital-1.sqlite").steps(RUN) == 4
    assert json.dumps(settings.to_flat()), "a run config is plain JSON"


def test_a_deployed_hospitals_own_log_counts_odd_pictures_and_names_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told(settings: Settings) -> list[str]:
        caplog.clear()
        module._warn_of_pictures(settings, "hospital-1", shard)
        return caplog.messages

    shard = tiny_shard()
    black = np.zeros_like(np.asarray(shard.images[0]))
    pictures = [black if row == 1 else image for row, image in enumerate(shard.images)]
    measures = [measured(np.asarray(picture), np.empty(0, np.float32)) for picture in pictures]
    shard = dataclasses.replace(shard, measures=np.array(measures, dtype=np.float32))
    simulated = settings_of("dp-sgd")
    deployed = simulated.replaced(
        {"data.sites": "hospital-1,hospital-2", "evaluation.where": "hospitals"}
    )
    lines = " ".join(told(deployed))
    assert f"hospital-1: 1 of {len(shard)} pictures of almost all black" in lines
    assert not any(str(name) in lines for name in shard.table["image"])
    assert told(simulated) == []
