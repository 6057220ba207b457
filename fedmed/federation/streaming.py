"""Answers one after the other: the server's memory does not grow with the hospitals."""

import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_SHORTEST, _LONGEST = 0.05, 1.0  # seconds between two looks, doubled while nothing comes


class StreamingGrid(Grid):
    """A grid whose :meth:`send_and_receive` yields one answer after the other.

    Flower's own collects all answers in a list. Here an answer stays with the SuperLink until the
    one before it is dealt with. What is left at the deadline is never pulled: it came too late.
    ``again`` may give an answer's sender something else to answer, in its place.
    """

    def __init__(
        self, grid: Grid, again: Callable[[Message], Message | None] = lambda answer: None
    ) -> None:
        self._grid = grid
        self._again = again

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
        """The answers in the order of the questions, until all are there or the time is over.

        In that order a sum of them is the same wherever and whenever the nodes ran: one that is
        there before its turn waits with the SuperLink. After ``timeout`` seconds those that are
        there are taken, and nobody is waited for. An answer that Flower made up itself (a node is
        gone, an upload broke off) comes as an error of the node that was asked.
        """
        outgoing = list(messages)
        del messages
        end = time.monotonic() + (timeout or float("inf"))
        waiting = self._push(outgoing)
        outgoing.clear()
        pause = _SHORTEST
        while waiting:
            number, asked = next(iter(waiting.items()))
            left = end - time.monotonic()
            answers = list(self._grid.pull_messages([number]))
            if not answers and left > 0:
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST)
                continue
            pause = _SHORTEST
            del waiting[number]
            if answers:
                answer = answers.pop()
                meant = answer.metadata.src_node_id == asked.metadata.dst_node_id
                more = self._again(answer) if meant and left > 0 else None
                if more is not None:
                    waiting = {**self._push([more]), **waiting}
                    del more
                elif meant:
                    yield answer
                else:
                    error = Error(code=ErrorCode.MESSAGE_UNAVAILABLE)
                    yield Message(error, reply_to=asked)
                del answer  # or it would stay until the next one is there

    def _push(self, outgoing: list[Message]) -> dict[str, Message]:
        """Push messages; what is kept of each until its answer, by its number.

        Without their contents: the model is not needed until the last answer.
        """
        numbers = list(self._grid.push_messages(outgoing)) if outgoing else []
        return {
            number: Message(RecordDict(), m.metadata.dst_node_id, m.metadata.message_type)
            for number, m in zip(numbers, outgoing, strict=False)
            if number
        }
