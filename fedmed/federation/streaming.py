"""Answers as they arrive, one in memory at a time: what keeps a server flat in its hospitals."""

import time
from collections.abc import Iterable, Iterator

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_SHORTEST, _LONGEST = 0.05, 1.0  # seconds between two looks, doubled while nothing comes


class StreamingGrid(Grid):
    """A grid whose :meth:`send_and_receive` yields each answer when it is there.

    Flower's own collects all answers in a list. Here an answer stays with the SuperLink until the
    one before it is dealt with. What is left at the deadline is never pulled: it came too late.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """The answers as they arrive, until all are there or ``timeout`` seconds have passed.

        An answer that Flower made up itself (a node is gone, an upload broke off) comes as an error
        of the node that was asked.
        """
        outgoing = list(messages)
        del messages
        end = time.monotonic() + (timeout or float("inf"))
        ids = list(self._grid.push_messages(outgoing)) if outgoing else []
        # Without their contents: the model is not needed until the last answer.
        waiting = {
            i: Message(RecordDict(), m.metadata.dst_node_id, m.metadata.message_type)
            for i, m in zip(ids, outgoing, strict=False)
            if i
        }
        outgoing.clear()
        pause = _SHORTEST
        while waiting:
            before = len(waiting)
            for number in list(waiting):
                for answer in self._grid.pull_messages([number]):
                    asked = waiting.pop(number)
                    if answer.metadata.src_node_id != asked.metadata.dst_node_id:
                        error = Error(code=ErrorCode.MESSAGE_UNAVAILABLE)
                        yield Message(error, reply_to=asked)
                    else:
                        yield answer
                    del answer  # or it would stay until the next one is there
            if time.monotonic() > end:
                return
            if waiting:
                pause = _SHORTEST if len(waiting) < before else min(2 * pause, _LONGEST)
                time.sleep(min(pause, max(0.0, end - time.monotonic())))
