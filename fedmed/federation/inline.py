"""A Flower grid in this process: the same apps, no Ray, no SuperLink, no sockets."""

import itertools
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Scalar = str | int | float | bool
_CLIENT_FAILED = 1  # any non-zero code: the text of an exception never travels


class InlineGrid(Grid):
    """Calls one :class:`ClientApp` for every node, one after the other, when answers are pulled.

    Nodes are numbered from 2 (1 is the server); node ``i + 2`` gets ``partition-id = i``, as in
    Flower's simulation.
    Replies of nodes whose app raised are Flower error replies without a reason.
    """

    def __init__(self, app: ClientApp, nodes: int, run_config: Mapping[str, Scalar]) -> None:
        self._app = app
        self._run = Run.create_empty(run_id=1)
        # Flower's messages take their sender from the process; its own launchers set the same.
        TaskIdentity.task_id, TaskIdentity.run_id = 1, 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._numbers = itertools.count(1)
        self._pushed: dict[str, Message] = {}
        self._contexts = {
            number + 2: Context(
                run_id=1,
                node_id=number + 2,
                node_config={"partition-id": number, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for number in range(nodes)
        }

    def set_run(self, run: Run) -> None:
        """Set the run that :attr:`run` returns."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as Flower's deprecated helper makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes' numbers."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages: a node runs when its answer is asked for, and none waits in memory."""
        numbers: list[str] = []
        for message in messages:
            number = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = number
            self._pushed[number] = message
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages, each once."""
        return [self._answer(self._pushed.pop(m)) for m in message_ids if m in self._pushed]

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception:  # its text could hold data: a code goes on
            return Message(Error(code=_CLIENT_FAILED), reply_to=message)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull everything; ``timeout`` cannot interrupt a node of this process."""
        return self.pull_messages(self.push_messages(messages))
