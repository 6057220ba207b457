"""A grid whose hospitals are in a child process: what a server alone costs."""

import itertools
import multiprocessing
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

import fedmed.hospital.app
from fedmed.config import Settings
from fedmed.federation.inline import InlineGrid


class ElsewhereGrid(Grid):
    """Hospitals in a child process; every array crosses alone, so that the pipe holds no copy.

    A SuperLink between them would keep messages in its own process.
    """

    def __init__(self, settings: Settings) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._child = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
        self._child.start()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self._inner = InlineGrid(fedmed.hospital.app.app, settings.nodes, settings.to_flat())
        self._pipe.send((settings.nodes, settings.to_flat()))

    def close(self) -> None:
        """End the child."""
        self._pipe.send(None)
        self._child.join()

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._inner.run

    def create_message(self, *given: Any, **named: Any) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return self._inner.create_message(*given, **named)

    def get_node_ids(self) -> Iterable[int]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Over the pipe at once; nothing of their content stays here."""
        numbers = []
        for message in messages:
            number = str(next(self._numbers))
            about = message.metadata
            self._pipe.send((number, about.dst_node_id, about.message_type, about.group_id))
            _send(self._pipe, message.content)
            self._waiting[number] = Message(RecordDict(), about.dst_node_id, about.message_type)
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Each answer, asked for and read when it is wanted."""
        answers = []
        for number in message_ids:
            self._pipe.send(number)
            answers.append(Message(_receive(self._pipe), reply_to=self._waiting.pop(number)))
        return answers

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        return self.pull_messages(self.push_messages(messages))


def _serve(pipe: Connection) -> None:
    """The child: every hospital through the same app, when its answer is asked for."""
    nodes, flat = pipe.recv()
    grid = InlineGrid(fedmed.hospital.app.app, nodes, flat)
    names: dict[str, str] = {}
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, str):
            (answer,) = grid.pull_messages([names.pop(asked)])
            _send(pipe, answer.content)
        else:
            number, node, kind, group = asked
            (names[number],) = grid.push_messages(
                [Message(_receive(pipe), node, kind, group_id=group)]
            )


def _send(pipe: Connection, content: RecordDict) -> None:
    records = {n: r for n, r in content.items() if isinstance(r, ArrayRecord)}
    others = {n: r for n, r in content.items() if n not in records}
    pipe.send(({name: list(record) for name, record in records.items()}, others))
    for record in records.values():
        for array in record.values():
            pipe.send((array.dtype, array.shape, array.stype))
            pipe.send_bytes(array.data)


def _receive(pipe: Connection) -> RecordDict:
    arrays, others = pipe.recv()
    content = RecordDict(others)
    for name, keys in arrays.items():
        record = ArrayRecord()
        for key in keys:
            about = pipe.recv()
            record[key] = Array(*about, pipe.recv_bytes())
        content[name] = record
    return content
