"""Answers one at a time, as they come: late ones dropped, made-up ones told as errors."""

import time
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Context, Error, Message, MessageType, RecordDict
from support import goes_red

from fedmed.federation.inline import InlineGrid
from fedmed.federation.streaming import StreamingGrid


class Content:
    """What an answer holds, seen by the tests alone."""


def answering(alive: list[Any], most: list[int]) -> Any:
    """An app whose answers are counted while they are alive."""

    def app(message: Message, context: Context) -> Message:
        reply = Message(RecordDict(), reply_to=message)
        content = Content()
        reply.__dict__["content_of_test"] = content
        alive.append(weakref.ref(content))
        most.append(sum(ref() is not None for ref in alive))
        return reply

    return app


def ask(nodes: Iterable[int]) -> list[Message]:
    return [Message(RecordDict(), n, MessageType.TRAIN, group_id="1") for n in nodes]


def test_one_answer_is_in_memory_at_a_time() -> None:
    def check(streaming: bool) -> None:
        alive: list[Any] = []
        most: list[int] = []
        inline = InlineGrid(answering(alive, most), 6, {})
        grid = StreamingGrid(inline) if streaming else inline
        nodes = []
        for reply in grid.send_and_receive(ask(range(2, 8)), timeout=5):
            nodes.append(reply.metadata.src_node_id)
            del reply
        assert nodes == [2, 3, 4, 5, 6, 7]
        assert max(most) == 1

    check(True)
    goes_red(check, False)


class Slow(InlineGrid):
    """Answers after as many looks as their nodes' numbers say."""

    def __init__(self, looks: dict[int, int]) -> None:
        super().__init__(lambda m, _: Message(RecordDict(), reply_to=m), 8, {})  # type: ignore[arg-type]  # needs no context
        self.looks = looks

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found: list[Message] = []
        for number in message_ids:
            if number not in self._pushed:
                continue
            node = self._pushed[number].metadata.dst_node_id
            self.looks[node] -= 1
            if self.looks[node] <= 0:
                found += super().pull_messages([number])
        return found


def test_answers_come_in_the_order_of_the_questions_whoever_is_first() -> None:
    """A sum of float32 depends on it, and reproducible noise on the sum's last bit."""
    for looks in ({2: 3, 3: 1, 4: 2}, {2: 1, 3: 2, 4: 3}):
        grid = StreamingGrid(Slow(looks))
        nodes = [m.metadata.src_node_id for m in grid.send_and_receive(ask([2, 3, 4]), timeout=5)]
        assert nodes == [2, 3, 4]


def test_one_that_does_not_answer_keeps_nobody_else_out() -> None:
    grid = StreamingGrid(Slow({2: 10**9, 3: 1, 4: 1}))
    nodes = [m.metadata.src_node_id for m in grid.send_and_receive(ask([2, 3, 4]), timeout=0.3)]
    assert nodes == [3, 4]


def test_what_is_late_is_left() -> None:
    grid = StreamingGrid(Slow({2: 1, 3: 10**9}))
    started = time.monotonic()
    nodes = [m.metadata.src_node_id for m in grid.send_and_receive(ask([2, 3]), timeout=0.3)]
    assert nodes == [2]
    assert 0.3 <= time.monotonic() - started < 5


class Broken(InlineGrid):
    """Flower's answer where an upload broke off: an error of the server's own."""

    def __init__(self) -> None:
        super().__init__(lambda m, _: Message(RecordDict(), reply_to=m), 2, {})  # type: ignore[arg-type]  # needs no context

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = super().pull_messages(message_ids)
        for message in found:
            message.metadata.__dict__["_src_node_id"] = 1
        return found

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        first, *others = super().push_messages(messages)
        return [first, *(None for _ in others)]  # type: ignore[list-item]  # Flower's own answer for a message not taken


def test_an_answer_that_flower_made_up_is_an_error_of_the_node_that_was_asked() -> None:
    (reply,) = StreamingGrid(Broken()).send_and_receive(ask([3, 2]), timeout=5)
    assert reply.has_error()
    assert isinstance(reply.error, Error)
    assert reply.metadata.src_node_id == 3


def test_nobody_asked_is_nobody_answering() -> None:
    assert list(StreamingGrid(Slow({})).send_and_receive([], timeout=5)) == []
    with pytest.raises(StopIteration):
        next(iter(StreamingGrid(Slow({})).send_and_receive([])))
