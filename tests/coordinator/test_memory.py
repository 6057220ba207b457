"""What a server holds while it waits: no model, and no message that has been dealt with."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from support import goes_red
from support.strategies import EMPTY, answers, averaging, model, start
from torch import Tensor

from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply
from fedmed.privacy.gradients import memory

pytestmark = pytest.mark.usefixtures("flower_sender")


def test_a_parked_model_comes_back_for_the_step() -> None:
    """While answers come the server holds no model; what it reads back is what it goes on with."""
    strategy, read = averaging(), []

    def recall() -> dict[str, Tensor]:
        read.append(strategy._parameters)
        return start()

    strategy.recall = recall
    grid = InlineGrid(None, 1, {})  # type: ignore[arg-type]  # nothing is sent over it
    sent = list(strategy.configure_train(1, EMPTY, ConfigRecord(), grid))
    assert read == []
    held = weakref.ref(strategy.parameters["w"])
    del sent
    seen = []

    def watched() -> Iterator[Message]:
        for message in answers():
            yield message
            seen.append(held() is None)

    strategy.aggregate_train(1, watched())
    assert seen == [True, True, True]
    assert read == [None]
    assert model(strategy) == [-1.0, 5.0, 13.0]


def test_without_a_place_to_read_it_from_the_model_stays() -> None:
    strategy = averaging()
    strategy.park()
    assert model(strategy) == [1.0, 2.0, 10.0]


def test_a_message_is_freed_when_it_has_been_read() -> None:
    """Not at some later collection: until then it would lie beside the next one."""

    def check(look: Callable[[Message], object]) -> None:
        content = messages.update_content(Reply("h", {"w": torch.ones(3)}))
        message = Message(content, reply_to=Message(RecordDict(), 2, MessageType.TRAIN))
        record = weakref.ref(content["update"])
        del content
        gc.disable()
        try:
            look(message)
            del message
            assert record() is None
        finally:
            gc.enable()

    check(messages.size_of)
    check(lambda message: messages.read_reply(message, "h", {"w": torch.ones(3)}))
    check(lambda message: messages.part_of(message.content, "update", ArrayRecord))
    goes_red(check, lambda message: message.content.array_records)


def test_a_part_of_another_kind_is_none() -> None:
    content = RecordDict({"request": ConfigRecord({"run": "a"})})
    assert messages.part_of(content, "request", ConfigRecord)["run"] == "a"
    for name, kind in (("request", ArrayRecord), ("model", ArrayRecord)):
        with pytest.raises(KeyError, match=name):
            messages.part_of(content, name, kind)


def test_freed_memory_goes_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: the setting is the process's."""
    code = (
        "import torch\n"
        "from fedmed.privacy.gradients.memory import return_freed_memory\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "assert return_freed_memory()\n"
        "torch.ones(2**21); torch.ones(2**21)\n"
        "before = resident()\n"
        "held = [torch.ones(2**20) for _ in range(16)]\n"
        "top = torch.ones(2**16)\n"
        "del held\n"
        "print(resident() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 4 * 2**20
    monkeypatch.setattr(sys, "platform", "win32")
    assert not memory.return_freed_memory()
