"""Updates as bfloat16: half the bytes, after clipping and noise, and nothing else accepted."""

import pytest
import torch
from flwr.app import Message, MessageType, RecordDict
from support import goes_red
from torch import Tensor

from fedmed.federation import messages
from fedmed.federation.messages import Reply, read_reply, update_content

pytestmark = pytest.mark.usefixtures("flower_sender")


def update(size: int = 5000) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {"w": torch.randn(size, generator=draw) * 1e-3, "b": torch.zeros(2, 3)}


def read(sent: str, expected: str, given: dict[str, Tensor] | None = None) -> Reply:
    given = update() if given is None else given
    content = update_content(Reply("h", given), sent)
    message = Message(content, reply_to=Message(RecordDict(), 2, MessageType.TRAIN))
    return read_reply(message, "h", update(), expected)


def test_half_the_bytes_and_a_relative_error_of_one_in_256() -> None:
    def check(wire: str) -> None:
        content = update_content(Reply("h", update(200_000)), wire)
        assert content.array_records["update"].count_bytes() < 0.51 * 4 * 200_000

    check("bfloat16")
    goes_red(check, "float32")
    found = read("bfloat16", "bfloat16").update
    assert found is not None
    assert found["w"].dtype == torch.float32
    torch.testing.assert_close(found["w"], update()["w"], rtol=2**-8, atol=0)
    assert not torch.equal(found["w"], update()["w"])


def test_another_form_than_agreed_is_refused() -> None:
    assert read("float32", "float32").error is None
    assert read("float32", "bfloat16").error == "bad-update"
    assert read("bfloat16", "float32").error == "bad-update"


def test_what_is_not_finite_stays_so() -> None:
    for number in (float("nan"), float("inf"), 3.4e38):
        large = update()
        large["w"][7] = number
        assert read("bfloat16", "bfloat16", large).error == "bad-update"


def test_reading_leaves_no_second_copy() -> None:
    record = messages.encode_update(update(), "float32")
    taken = messages.take_arrays(record)
    assert list(record) == []
    assert torch.equal(taken["w"], update()["w"])
