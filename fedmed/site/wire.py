"""Frames between a relaying app and a site's guard: a JSON header, then bytes; never a pickle.

::

    "FMG1" | header length (4 bytes) | body length (8 bytes) | header, UTF-8 JSON | body

All lengths are big endian and checked against limits before anything is read for them.
"""

import json
import math
import socket
import struct
import time
from typing import Any, Final

MAGIC: Final = b"FMG1"
_FRONT: Final = struct.Struct(">4sIQ")
LARGEST_HEADER: Final = 1 << 20  # bytes
LARGEST_BODY: Final = 1 << 31  # bytes: two models of 256 million float32 parameters
_PIECE: Final = 1 << 20
_TIME: Final = struct.Struct("@ll")  # seconds and microseconds: timeval of socket(7)


class BadFrame(Exception):
    """What came is no frame of this protocol, is too large, stopped short, or took too long."""


def exchange(
    path: str, header: dict[str, Any], body: bytes = b"", *, seconds: float
) -> tuple[dict[str, Any], bytes]:
    """Ask the guard that listens at ``path`` and take its answer, each within ``seconds``.

    Raises ``OSError`` where nobody listens, :class:`BadFrame` for what is no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # At a guard whose queue is full connect waits; under a timeout of Python's own it fails.
        wait = _TIME.pack(math.ceil(min(seconds, 60.0)), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        connection.connect(path)
        send_frame(connection, header, body, seconds=seconds)
        return read_frame(connection, seconds=seconds)


def send_frame(
    connection: socket.socket, header: dict[str, Any], body: bytes = b"", *, seconds: float = 600.0
) -> None:
    """Send one frame within ``seconds``; raises ``OSError`` where the other end is gone."""
    text = check_header(header)
    connection.settimeout(seconds)
    connection.sendall(_FRONT.pack(MAGIC, len(text), len(body)) + text)
    if body:
        connection.sendall(body)


def check_header(header: dict[str, Any]) -> bytes:
    """The header as it is sent; raises ``ValueError`` for what is no JSON, such as an infinity."""
    return json.dumps(header, allow_nan=False, separators=(",", ":")).encode()


def read_frame(
    connection: socket.socket, *, seconds: float, largest: int = LARGEST_BODY
) -> tuple[dict[str, Any], bytes]:
    """One frame's header and body, each within ``seconds``; raises :class:`BadFrame`."""
    header, size = read_header(connection, seconds=seconds, largest=largest)
    return header, read_body(connection, size, seconds=seconds)


def read_header(
    connection: socket.socket, *, seconds: float, largest: int = LARGEST_BODY
) -> tuple[dict[str, Any], int]:
    """A frame's header, and how many bytes of body follow; raises :class:`BadFrame`."""
    deadline = time.monotonic() + seconds
    magic, header_size, body_size = _FRONT.unpack(_read(connection, _FRONT.size, deadline))
    if magic != MAGIC:
        raise BadFrame("not a frame")
    if header_size > LARGEST_HEADER or body_size > largest:
        raise BadFrame("a frame above the limit")
    text = _read(connection, header_size, deadline)
    try:
        header = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadFrame("a header that is no JSON") from error
    if not isinstance(header, dict):
        raise BadFrame("a header that is no object")
    return header, body_size


def read_body(connection: socket.socket, size: int, *, seconds: float) -> bytes:
    """The body that follows a header; raises :class:`BadFrame`."""
    return _read(connection, size, time.monotonic() + seconds)


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and the infinities are no JSON


def _read(connection: socket.socket, size: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise BadFrame("a frame that took too long")
        connection.settimeout(left)
        try:
            # Memory grows with what came, not with what was announced.
            piece = connection.recv(min(_PIECE, size - len(received)))
        except OSError as error:
            raise BadFrame("a connection that broke") from error
        if not piece:
            raise BadFrame("a frame that stopped short")
        received += piece
    return bytes(received)
