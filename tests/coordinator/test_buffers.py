"""What no training changes travels once, and again to a hospital that no longer has it."""

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from support import goes_red, make
from torch import Tensor

from fedmed.coordinator.strategies import Averaging, Start
from fedmed.federation import messages
from fedmed.federation.exchange import Buffers
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply
from fedmed.federation.streaming import StreamingGrid

MEMBERS = {2: "hospital-1", 3: "hospital-2"}
FROZEN = {"mean": torch.tensor([1.0, 2.0, 3.0])}


class Hospitals:
    """Two hospitals behind an inline grid; those in ``lose`` keep nothing between rounds."""

    def __init__(self, lose: set[int] | None = None) -> None:
        self.lose = lose or set()
        self.kept = {node: Buffers() for node in MEMBERS}
        self.asked: list[tuple[int, bool]] = []  # node, and whether the buffers came
        self.used: list[dict[str, Tensor]] = []

    def __call__(self, message: Message, context: Any) -> Message:
        node = context.node_id
        frozen = messages.read_frozen(message.content)
        self.asked.append((node, not isinstance(frozen, str)))
        if node in self.lose:
            self.kept[node] = Buffers()
        found = self.kept[node].find(frozen)
        if found is None:
            return Message(messages.update_content(Reply("", error="buffers")), reply_to=message)
        self.kept[node].keep(found)
        self.used.append(found)
        reply = Reply(MEMBERS[node], {"w": torch.ones(2)})
        return Message(messages.update_content(reply), reply_to=message)


def rounds(hospitals: Hospitals, count: int = 3) -> tuple[Averaging, list[int]]:
    """A strategy after ``count`` rounds, and the bytes that each sent."""
    train = make(data={"hospitals": 2}).train
    frozen = messages.encode_arrays(FROZEN)
    strategy = Averaging(Start(train, MEMBERS, frozen), {"w": torch.zeros(2)}, {})
    grid = StreamingGrid(InlineGrid(hospitals, 2, {}), strategy.again)  # type: ignore[arg-type]  # a stand-in
    sent = []
    for number in range(1, count + 1):
        outgoing = strategy.configure_train(
            number, messages.encode_arrays({}), ConfigRecord(), grid
        )
        strategy.aggregate_train(number, grid.send_and_receive(outgoing))
        sent.append(strategy.report.sent)
    return strategy, sent


def test_buffers_travel_once() -> None:
    def check(hospitals: Hospitals) -> None:
        _, sent = rounds(hospitals)
        later = [(2, False), (3, False)]
        assert hospitals.asked == [(2, True), (3, True), *later, *later]
        assert sent[1] == sent[2]
        assert sent[0] - sent[1] == 2 * messages.encode_arrays(FROZEN).count_bytes()
        assert all(torch.equal(used["mean"], FROZEN["mean"]) for used in hospitals.used)

    check(Hospitals())
    goes_red(check, Hospitals(lose={2}))


def test_a_hospital_that_lost_them_gets_them_again_in_the_same_round() -> None:
    """Once it was started again, say; then they go by their fingerprint as before."""

    class Restarted(Hospitals):
        def __call__(self, message: Message, context: Any) -> Message:
            if len(self.asked) == 3:
                self.kept[3] = Buffers()
            return super().__call__(message, context)

    hospitals = Restarted()
    strategy, sent = rounds(hospitals)
    assert hospitals.asked[2:] == [(2, False), (3, False), (3, True), (2, False), (3, False)]
    assert strategy.report.failures == []
    assert strategy.models()["global"]["w"].tolist() == [3.0, 3.0]
    model = messages.encode_arrays({"w": torch.zeros(2)}).count_bytes()
    buffers = messages.encode_arrays(FROZEN).count_bytes()
    assert sent == [2 * (model + buffers), 3 * model + buffers, 2 * model]


def test_where_nothing_is_kept_they_go_with_every_message_in_the_end() -> None:
    """Asking twice costs more than sending: after two losses nobody asks again."""
    hospitals = Hospitals(lose={3})
    strategy, _ = rounds(hospitals, 5)
    of_the_second = [came for node, came in hospitals.asked if node == 3]
    assert of_the_second == [True, False, True, False, True, True, True]
    assert strategy.report.failures == []


def test_a_hospital_that_never_keeps_them_fails_alone() -> None:
    """It says so even when they came: a fault like others, not an endless repetition."""

    class Broken(Hospitals):
        def __call__(self, message: Message, context: Any) -> Message:
            if context.node_id == 3:
                self.asked.append((3, True))
                return Message(
                    messages.update_content(Reply("", error="buffers")), reply_to=message
                )
            return super().__call__(message, context)

    hospitals = Broken()
    with pytest.raises(Exception, match="hospital-2: buffers"):
        rounds(hospitals, 1)
    assert hospitals.asked == [(2, True), (3, True), (3, True)]


def test_other_buffers_take_the_place_of_the_last() -> None:
    kept = Buffers()
    first, second = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
    prints = [messages.fingerprint(f) for f in (first, second)]
    assert kept.find(prints[0]) is None
    assert kept.find(first) is first
    assert kept.find(prints[0]) is None  # what was only looked at is not kept
    kept.keep(first)
    assert kept.find(prints[0]) is first
    kept.keep({})  # a model without any
    assert kept.find(prints[0]) is first
    kept.keep(second)
    assert (kept.find(prints[0]), kept.find(prints[1])) == (None, second)
    kept.forget()
    assert kept.find(prints[1]) is None


def test_without_buffers_nothing_is_named() -> None:
    content = messages.train_content({"w": torch.ones(1)}, messages.encode_arrays({}), 1, "run")
    assert messages.read_frozen(content) == {}
    assert "frozen" not in content.config_records["request"]
    named = messages.train_content({"w": torch.ones(1)}, "f" * 64, 1, "run")
    assert messages.read_frozen(named) == "f" * 64
    assert "frozen" not in named.array_records


def test_messages_are_of_the_train_kind() -> None:
    strategy = Averaging(
        Start(make(data={"hospitals": 2}).train, MEMBERS, messages.encode_arrays(FROZEN)),
        {"w": torch.zeros(2)},
        {},
    )
    InlineGrid(lambda message, context: message, 1, {})  # type: ignore[arg-type]  # a stand-in
    asked = Message(RecordDict(), 2, MessageType.TRAIN)
    fine = Message(messages.update_content(Reply("h", {"w": torch.ones(2)})), reply_to=asked)
    assert strategy.again(fine) is None
    lost = Message(messages.update_content(Reply("", error="buffers")), reply_to=asked)
    more = strategy.again(lost)
    assert more is not None
    assert (more.metadata.dst_node_id, more.metadata.message_type) == (2, MessageType.TRAIN)
    assert strategy.again(lost) is None
