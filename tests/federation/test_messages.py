"""What crosses the wire: codecs, and replies that are checked before anything is done with them."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common import Array
from flwr.common.serde import message_to_proto
from support import tiny_network
from torch import Tensor

from fedmed.federation import messages
from fedmed.federation.messages import ERRORS, Reply, read_reply, update_content

LIKE = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
GOOD = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, -2.0, 3.0])}


pytestmark = pytest.mark.usefixtures("flower_sender")


def answer(content: RecordDict) -> Message:
    return Message(content, reply_to=Message(RecordDict(), 2, MessageType.TRAIN))


def read(content: RecordDict) -> Reply:
    return read_reply(answer(content), "hospital-1", LIKE)


def test_an_update_arrives_as_it_was_sent() -> None:
    reply = read(update_content(Reply("hospital-1", GOOD, 0.5, 40)))
    assert (reply.hospital, reply.loss, reply.images, reply.error) == ("hospital-1", 0.5, 40, None)
    assert reply.update is not None
    assert list(reply.update) == list(LIKE)
    assert all(torch.equal(reply.update[n], GOOD[n]) for n in GOOD)


def test_order_of_arrays_is_the_servers() -> None:
    reply = read(update_content(Reply("hospital-1", dict(reversed(GOOD.items())))))
    assert reply.update is not None
    assert list(reply.update) == ["w", "b"]


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(2, 3).t(), torch.zeros(0), torch.tensor(3.5), torch.ones(2, dtype=torch.float64)],
)
def test_arrays_round_trip_bit_for_bit(tensor: Tensor) -> None:
    record = messages.encode_arrays({"z": tensor, "a": tensor})
    back = messages.decode_arrays(record)
    assert list(back) == ["z", "a"]
    assert back["z"].dtype == tensor.dtype
    assert torch.equal(back["z"], tensor)
    packed = messages.unpack(messages.pack({"z": tensor}))
    assert torch.equal(packed["z"], tensor)


def test_only_what_is_given_is_sent() -> None:
    """Pitfall 21: without loss and count there is no metrics record at all."""
    content = update_content(Reply("hospital-1", GOOD))
    assert sorted(content) == ["reply", "update"]
    assert dict(content.config_records["reply"]) == {"hospital": "hospital-1"}
    assert sorted(update_content(Reply("hospital-1", error="data"))) == ["error"]


def bad(**changes: Tensor) -> RecordDict:
    return update_content(Reply("h", GOOD | changes))


def raw(data: bytes) -> RecordDict:
    array = Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=data)
    return RecordDict({"update": ArrayRecord({"w": array})})


@pytest.mark.parametrize(
    "content",
    [
        bad(extra=torch.zeros(1)),
        update_content(Reply("h", {"w": GOOD["w"]})),
        update_content(Reply("h", {})),
        bad(w=torch.zeros(3, 2)),
        bad(b=torch.zeros(3, 1)),
        bad(b=torch.zeros(3, dtype=torch.float64)),
        bad(b=torch.zeros(3, dtype=torch.int64)),
        bad(b=torch.tensor([1.0, float("nan"), 0.0])),
        bad(b=torch.tensor([1.0, float("inf"), 0.0])),
        bad(b=torch.full((3,), 3e38)),
        RecordDict(),
        RecordDict({"update": ConfigRecord({"w": 1})}),
        raw(b""),
        raw(b"PK\x03\x04junk"),
        raw(b"\x93NUMPY junk"),
    ],
)
def test_an_update_of_another_form_is_refused(content: RecordDict) -> None:
    assert read(content) == Reply("hospital-1", error="bad-update")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (RecordDict({"error": ConfigRecord({"code": "budget"})}), "budget"),
        (RecordDict({"error": ConfigRecord({"code": "patient 123"})}), "internal"),
        (RecordDict({"error": ConfigRecord({})}), "internal"),
        (RecordDict({"error": ArrayRecord()}), "internal"),
    ],
)
def test_only_known_codes_are_read(content: RecordDict, code: str) -> None:
    assert read(content) == Reply("hospital-1", error=code)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_not_read(loss: float) -> None:
    """It could not be written to the history, which is JSON."""
    assert read(update_content(Reply("h", GOOD, loss, 3))).loss is None


def test_metrics_of_another_form_are_not_read() -> None:
    content = update_content(Reply("h", GOOD))
    content["metrics"] = MetricRecord({"loss": [1.0], "images": 2.5})
    assert (read(content).loss, read(content).images) == (None, None)


def test_the_text_of_flowers_own_error_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    asked = Message(RecordDict(), 2, MessageType.TRAIN)
    message = Message(Error(code=7, reason="ValueError: patient 123"), reply_to=asked)
    assert b"patient 123" in message_to_proto(message).SerializeToString()
    reply = read_reply(message, "hospital-1", LIKE)
    assert reply == Reply("hospital-1", error="no-answer")
    assert "patient 123" not in repr(reply) + caplog.text
    assert "no-answer" in ERRORS


@pytest.mark.parametrize(("code", "told"), [(7, "app"), (6, "no-answer")])
def test_a_refused_bundle_is_told_from_a_silent_hospital(code: int, told: str) -> None:
    asked = Message(RecordDict(), 2, MessageType.QUERY)
    error = Error(code=code, reason="The FAB could not be verified.")
    assert messages.read_join(Message(error, reply_to=asked)) == told


def test_install_fills_the_model_and_refuses_what_does_not_fit() -> None:
    source, target = tiny_network(1), tiny_network(2)
    messages.install(target, messages.parameters_of(source) | messages.frozen_of(source))
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)
    before = messages.parameters_of(target)
    for wrong in ({"0.weight": torch.zeros(1)}, {"other": torch.zeros(1)}):
        with pytest.raises(ValueError, match="does not fit"):
            messages.install(target, {"0.bias": torch.zeros(4)} | wrong)
    assert all(torch.equal(before[n], v) for n, v in messages.parameters_of(target).items())


def test_parameters_are_copies() -> None:
    model = tiny_network()
    messages.parameters_of(model)["0.bias"].fill_(9)
    assert float(model[0].bias.detach().max()) < 9


def test_train_content_holds_model_frozen_part_and_round() -> None:
    content = messages.train_content(GOOD, messages.encode_arrays({}), 3, "a run")
    assert sorted(content) == ["frozen", "model", "request"]
    assert content.config_records["request"]["round"] == 3
    assert content.config_records["request"]["run"] == "a run"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {**m, "b": m["b"] + torch.tensor([0, 0, 1e-6])},
        lambda m: {"w": m["w"].reshape(3, 2), "b": m["b"]},
        lambda m: {"v": m["w"], "b": m["b"]},
        lambda m: {"w": m["w"]},
    ],
)
def test_the_fingerprint_is_of_names_shapes_and_bytes(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    again = {n: v.clone() for n, v in GOOD.items()}
    assert messages.fingerprint(again) == messages.fingerprint(GOOD)
    assert messages.fingerprint(change(GOOD)) != messages.fingerprint(GOOD)
