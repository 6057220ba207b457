"""Three members, their updates, and strategies that combine them."""

from typing import Any

import torch
from flwr.app import Error, Message, MessageType, RecordDict
from torch import Tensor

from fedmed.coordinator.strategies import Averaging, FederationStrategy, Start
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from support import make

MEMBERS = {2: "hospital-1", 3: "hospital-2", 4: "hospital-3"}
NAMES = list(MEMBERS.values())
SIZES = {"hospital-1": 1000, "hospital-2": 10, "hospital-3": 10}
EMPTY = messages.encode_arrays({})
RUN = "a run"


def start() -> dict[str, Tensor]:
    """The model before the round."""
    return {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0])}


def updates() -> list[Reply]:
    """One good update of each member."""
    values = (([1.0, 0.0], [3.0]), ([0.0, 4.0], [0.0]), ([-7.0, 5.0], [6.0]))
    return [
        Reply(name, {"w": torch.tensor(w), "b": torch.tensor(b)})
        for name, (w, b) in zip(NAMES, values, strict=True)
    ]


def train(**keys: Any) -> Any:
    """The table ``train`` of three hospitals' settings."""
    return make(data={"hospitals": 3}, train=keys).train


def averaging(**keys: Any) -> Averaging:
    """The plain mean, with these keys of ``train``."""
    return Averaging(Start(train(**keys), MEMBERS, EMPTY), start(), SIZES)


def model(strategy: FederationStrategy, owner: str = "global") -> list[float]:
    """A strategy's model as five numbers."""
    arrays = strategy.models()[owner]
    return [*arrays["w"].tolist(), *arrays["b"].tolist()]


def answer(node: int, content: RecordDict | Error) -> Message:
    """A node's reply to a train message."""
    return Message(content, reply_to=Message(RecordDict(), node, MessageType.TRAIN))


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
    """A reply that holds an error code alone."""
    return answer(node, messages.update_content(Reply("", error=name)))
