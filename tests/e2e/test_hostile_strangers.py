"""What a stranger without a key, and a node with one, can do to a deployment's SuperLink.

Real processes on the loopback. A stranger's requests have no end, and take no memory.
"""

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_deployed import Deployment, deployment

pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.fixture(scope="module")
def federation(fedmed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("strangers")) as found:
        yield found


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def connect(federation: Deployment) -> ssl.SSLSocket:
    host, port = federation.fleet.split(":")
    context = ssl.create_default_context(cafile=str(federation.folder / "ca.crt"))
    raw = socket.create_connection((host, int(port)), timeout=60)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def post(federation: Deployment, head: str, body: int, piece: bytes) -> tuple[int, int]:
    """Send a head and up to ``body`` bytes; bytes that were taken, and the status that came."""
    sent = 0
    with connect(federation) as stream:
        stream.sendall(head.encode())
        with contextlib.suppress(OSError):
            while sent < body:
                stream.sendall(piece)
                sent += len(piece)
        answer = b""
        with contextlib.suppress(OSError):
            answer = stream.recv(4096)
    status = int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0
    return sent, status


def grown(federation: Deployment, head: str, body: int, piece: bytes) -> tuple[int, int]:
    """How much memory one such request takes at most, and its status."""
    pid = federation.processes.running["superlink"].pid
    before, most = resident(pid), 0
    started = time.monotonic()
    _, status = post(federation, head, body, piece)
    most = max(most, resident(pid) - before)
    assert time.monotonic() - started < 120
    return most, status


def head(path: str, *, chunked: bool) -> str:
    how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1536 * MIB}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/x-protobuf\r\n{how}\r\n\r\n"
    )


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v1/fleet/push-object", "/v1/runtime/push-object", "/health"])
def test_a_body_without_end_and_without_key_takes_no_memory(
    federation: Deployment, path: str, chunked: bool
) -> None:
    """1.5 GiB took the SuperLink from 142 to 2,234 MiB. Here also from its own machine."""
    piece = b"100000\r\n" + bytes(MIB) + b"\r\n" if chunked else bytes(MIB)
    most, status = grown(federation, head(path, chunked=chunked), 1536 * MIB, piece)
    assert most < 200 * MIB
    assert status != 200
    done = federation.flwr("supernode", "list", "deployed")
    assert done.returncode == 0, "the server goes on"


def test_a_header_without_end_takes_no_memory(federation: Deployment) -> None:
    start = "POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    most, _ = grown(federation, start, 512 * MIB, b"X-Long: " + bytes([97]) * MIB + b"\r\n")
    assert most < 100 * MIB
