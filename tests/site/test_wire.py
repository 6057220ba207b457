"""Frames: what is no frame, is too large, or stops, ends the connection and nothing else."""

import dataclasses
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import torch
from support import refuses, tiny_network

from fedmed.federation import exchange
from fedmed.site.arrays import write_arrays
from fedmed.site.requests import Request, read_request, write_request
from fedmed.site.wire import LARGEST_BODY, LARGEST_HEADER, BadFrame, read_frame, send_frame


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def whole() -> Request:
    model = exchange.parameters_of(tiny_network())
    return Request(
        kind="train",
        version="1",
        config={"privacy.arm": "dp-sgd", "train.rounds": 3},
        run="abc",
        run_id=2**60,
        round_number=2,
        model=model,
        frozen={"mean": torch.zeros(3)},
    )


def test_a_request_arrives_as_it_was_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    header, body = write_request(whole())
    sender = threading.Thread(target=send_frame, args=(pair[0], header, body))
    sender.start()
    found = read_request(*read_frame(pair[1], seconds=20))
    sender.join()
    assert (found.config, found.run_id, found.round_number) == (whole().config, 2**60, 2)
    assert list(found.model) == list(whole().model)
    assert all(torch.equal(found.model[n], v) for n, v in whole().model.items())
    assert torch.equal(found.frozen["mean"], torch.zeros(3))


def test_arrays_that_are_one_in_memory_are_two_in_a_request() -> None:
    """As Flower hands out what is equal: two norms of ones, say."""
    ones = torch.ones(3)
    model = {"w": torch.zeros(2), "first": ones, "second": ones.view(3), "none": torch.zeros(0)}
    found = read_request(*write_request(dataclasses.replace(whole(), model=model)))
    assert list(found.model) == list(model)
    assert all(torch.equal(found.model[n], v) for n, v in model.items())


def front(header: int, body: int, magic: bytes = b"FMG1") -> bytes:
    return struct.pack(">4sIQ", magic, header, body)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        front(LARGEST_HEADER + 1, 0),
        front(2, LARGEST_BODY + 1) + b"{}",
        front(2**32 - 1, 2**64 - 1),
        front(2, 10) + b"{}" + b"short",
        front(2, 0) + b"{]",
        front(2, 0) + b"[]",
        front(9, 0) + b'{"a":NaN}',
        front(200_000, 0) + b"[" * 200_000,
        front(2, 0) + b"\xff\xfe",
        b"FM",
        b"",
    ],
)
def test_what_is_no_frame_is_refused(
    data: bytes, pair: tuple[socket.socket, socket.socket]
) -> None:
    def send() -> None:
        pair[0].sendall(data)
        pair[0].shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    refuses(lambda: read_frame(pair[1], seconds=20), error=BadFrame)
    sender.join()


def test_a_frame_that_is_announced_and_never_comes_is_given_up(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].sendall(front(100, 0))
    refuses(lambda: read_frame(pair[1], seconds=0.2), error=BadFrame)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "steal"},
        {"kind": ["train"]},
        {"path": "/data"},
        {"round": -1},
        {"round": True},
        {"round": 1.0},
        {"round": 10**9},
        {"run": "../x"},
        {"run": "a/evaluation"},
        {"run": "a:b"},
        {"run": ""},
        {"run-id": 2**64},
        {"config": {"data": {"path": "x"}}},
        {"config": []},
        {"config": {str(n): n for n in range(1001)}},
        {"version": 3},
        {"model": 1},
        {"model": {"bytes": 1, "names": []}},
        {"model": {"bytes": 2**63, "names": []}},
        {"model": {"bytes": 100, "names": [1]}},
        {"model": {"bytes": 100}},
        {"frozen": {"bytes": -1, "names": []}},
        {"version": "1\n2"},
    ],
)
def test_a_header_of_another_form_is_refused(change: dict[str, object]) -> None:
    header, body = write_request(whole())
    refuses(lambda: read_request(header | change, body), error=BadFrame)


def test_a_header_without_a_key_is_refused() -> None:
    header, body = write_request(whole())
    for key in header:
        less = {k: v for k, v in header.items() if k != key}
        refuses(lambda less=less: read_request(less, body), error=BadFrame)  # type: ignore[misc]  # bound by default; mypy infers no type


def arrays(text: dict[str, object], data: bytes) -> bytes:
    header = json.dumps(text).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x95junk",
        arrays({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
        arrays({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        arrays({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, b"\0" * 4),
        arrays({"w": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, b"\0" * 4),
        arrays({"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        arrays({"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        struct.pack("<Q", 2**62) + b"{}",
    ],
)
def test_arrays_of_another_form_are_refused(data: bytes) -> None:
    header, _ = write_request(whole())
    empty = write_arrays({})
    about = {"model": {"bytes": len(data), "names": ["w"]}}
    changed = header | about | {"frozen": {"bytes": len(empty), "names": []}}
    refuses(lambda: read_request(changed, data + empty), "arrays", error=BadFrame)


def test_an_array_cannot_be_both_trained_and_frozen() -> None:
    one = whole()
    header, body = write_request(
        dataclasses.replace(one, frozen={next(iter(one.model)): torch.zeros(1)})
    )
    refuses(lambda: read_request(header, body), "twice", error=BadFrame)
