"""What a stranger without a key, and a node with one, can do to a deployment's SuperLink.

Real processes on the loopback. A stranger's requests have no end, and take no memory.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deployed import Deployment, Processes, deployment

from fedmed.launch import free_ports

pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.fixture(scope="module")
def federation(fedmed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("strangers")) as found:
        yield found


def memory(pid: int, name: str) -> int:
    """Bytes of a process in memory: ``VmRSS`` now, ``VmHWM`` at most."""
    text = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def connect(port: int, authority: Path | None) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=60)
    if authority is None:
        return raw
    context = ssl.create_default_context(cafile=str(authority))
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def grown(pid: int, stream: socket.socket, start: str, body: int, piece: bytes) -> tuple[int, int]:
    """By how much one request takes memory at most, and its status (0: the connection ended)."""
    before, sent, answer = memory(pid, "VmRSS"), 0, b""
    began = time.monotonic()
    with stream:
        with contextlib.suppress(OSError):
            stream.sendall(start.encode())
            while sent < body:
                stream.sendall(piece)
                sent += len(piece)
        with contextlib.suppress(OSError):
            answer = stream.recv(4096)
    assert time.monotonic() - began < 120
    most = memory(pid, "VmHWM") - before
    print(f"{sent / MIB:.0f} MiB were sent, memory grew by {most / MIB:.0f} MiB")
    return most, int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


def at(federation: Deployment) -> tuple[int, socket.socket]:
    """The SuperLink's process, and a connection to it."""
    port = int(federation.fleet.rpartition(":")[2])
    pid = federation.processes.running["superlink"].pid
    return pid, connect(port, federation.folder / "ca.crt")


def head(path: str, *, chunked: bool) -> str:
    how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1536 * MIB}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/protobuf\r\n{how}\r\n\r\n"
    )


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v1/fleet/push-object", "/v1/runtime/push-object", "/health"])
def test_a_body_without_end_and_without_key_takes_no_memory(
    federation: Deployment, path: str, chunked: bool
) -> None:
    """1.5 GiB took the SuperLink from 142 to 2,234 MiB. Here also from its own machine."""
    piece = b"100000\r\n" + bytes(MIB) + b"\r\n" if chunked else bytes(MIB)
    most, status = grown(*at(federation), head(path, chunked=chunked), 1536 * MIB, piece)
    assert most < 200 * MIB
    assert status != 200
    done = federation.flwr("supernode", "list", "deployed")
    assert done.returncode == 0, "the server goes on"


def test_a_header_without_end_takes_no_memory(federation: Deployment) -> None:
    start = "POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    most, _ = grown(*at(federation), start, 512 * MIB, b"X-Long: " + b"a" * MIB + b"\r\n")
    assert most < 200 * MIB


def test_flowers_own_server_takes_all_that_comes(tmp_path: Path) -> None:
    """The sabotage half: the same request, and nothing of ours in front."""
    processes = Processes(tmp_path)
    (port,) = free_ports(1)
    try:
        command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        processes.start("plain", command, tmp_path)
        processes.wait_for("plain", "Uvicorn running")
        pid = processes.running["plain"].pid
        start = head("/v1/fleet/push-object", chunked=False).replace(
            str(1536 * MIB), str(400 * MIB)
        )
        most, _ = grown(pid, connect(port, None), start, 400 * MIB, bytes(MIB))
        assert most > 200 * MIB
    finally:
        processes.stop_all()
