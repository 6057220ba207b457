"""Tensors as Flower carries them: its own bytes, no copy on reading, nothing else accepted."""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from support import refuses
from torch import Tensor

from fedmed.federation.arrays import decode_arrays, encode_arrays, encode_update, take_arrays

KINDS = {
    "matrix": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 3),
    "count": torch.tensor([1, -(2**40)]),
    "counts": torch.tensor([0.25], dtype=torch.float64),
    "turned": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
}


def test_bytes_are_those_that_flower_itself_would_send() -> None:
    record = encode_arrays(KINDS)
    assert list(record) == list(KINDS)
    for name, value in KINDS.items():
        expected = Array(value.contiguous())
        assert vars(record[name]) == vars(expected), name
        assert np.array_equal(record[name].numpy(), value.numpy())


def test_arrays_arrive_as_they_were_sent() -> None:
    for back in (decode_arrays(encode_arrays(KINDS)), take_arrays(encode_update(KINDS, "float32"))):
        assert list(back) == list(KINDS)
        for name, value in KINDS.items():
            assert back[name].dtype == value.dtype
            assert back[name].shape == value.shape
            assert torch.equal(back[name], value)


def test_reading_makes_no_copy() -> None:
    record = encode_arrays({"w": torch.zeros(1000)})
    at = np.frombuffer(record["w"].data, np.uint8).ctypes.data
    read = decode_arrays(record)["w"]
    assert at < read.data_ptr() < at + 256  # behind the header, in the message's own bytes


def test_what_is_sent_may_be_taken_apart_and_is_else_left_alone() -> None:
    update = {"w": torch.ones(3), "b": torch.ones(2)}
    kept = encode_update(update, "float32")
    assert list(update) == ["w", "b"]
    spent = encode_update(update, "float32", spend=True)
    assert update == {}
    assert spent["w"].data == kept["w"].data


def saved(value: np.ndarray, **how: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, value, **how)
    return file.getvalue()


def version_two(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, value, version=(2, 0))
    return file.getvalue()


WHOLE = saved(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(WHOLE[:9], id="half a length"),
        pytest.param(WHOLE[:-1], id="cut short"),
        pytest.param(WHOLE + b"\0", id="too long"),
        pytest.param(b"PK" + WHOLE[2:], id="another kind of file"),
        pytest.param(WHOLE.replace(b"(2, 3)", b"(-2, 3"), id="a broken header"),
        pytest.param(WHOLE.replace(b"(2, 3)", b"(9, 9)"), id="more than is there"),
        pytest.param(saved(np.asfortranarray(np.ones((2, 3)))), id="another order"),
        pytest.param(saved(np.array([{}], object), allow_pickle=True), id="pickled objects"),
        pytest.param(version_two(np.ones(2)), id="another version"),
    ],
)
def test_bytes_of_another_form_are_refused(data: bytes) -> None:
    def read() -> dict[str, Tensor]:
        return decode_arrays(ArrayRecord({"w": Array("float32", (2, 3), "numpy.ndarray", data)}))

    with pytest.raises(ValueError, match=r"header|array"):
        read()


def test_arrays_of_another_kind_are_not_read() -> None:
    record = ArrayRecord({"w": Array("float32", (2, 3), "pickle", WHOLE)})
    refuses(lambda: decode_arrays(record), "'pickle'", error=ValueError)
