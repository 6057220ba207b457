"""Mistakes of what leaves a hospital: each test fails where its mistake is made."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.serde import message_to_proto
from support import (
    goes_red,
)
from support.pitfalls import (
    SECRET,
    STILL,
    Failing,
    LedgerInMemory,
    check_noise,
    check_uncorrelated,
    flat,
    keyed_by,
    model,
    settings_of,
    tiny_hospital,
)

from clients import app as client_app
from fedmed.config import Settings
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply
from fedmed.hospital import hospital as module
from fedmed.hospital import simulated, terms
from fedmed.hospital.hospital import Hospital
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import SIMULATION
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.updates import GaussianNoise

pytestmark = pytest.mark.usefixtures("tiny_hospitals_on_one_thread")


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
    monkeypatch.setattr(simulated, "hospital_for", lambda *_: one)
    check_no_text_of_an_error_travels(caplog)

    def with_text(answer: Callable[[], RecordDict]) -> RecordDict:
        try:
            return answer()
        except Exception as error:
            return RecordDict({"error": ConfigRecord({"hospital": "", "code": str(error)})})

    monkeypatch.setattr(simulated, "_guarded", with_text)
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
        patch.setattr(terms, "load_policy", lambda *_: SIMULATION)  # as a flag could ask
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
