"""What tests of a site share: its files, and a server of TLS that answers as a SuperLink does."""

import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedmed.site.certs import make_certificates
from fedmed.site.init import Wish, make_site


def cohort(folder: Path, patients: int = 12) -> Path:
    """A table of two images for each patient, and the images; returns the table."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["image,label,patient_id,site"]
    for number in range(2 * patients):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / name)
        rows.append(f"{name},{number % 4 // 2},p{number // 2},st-mary")
    table = folder / "cohort.csv"
    table.write_text("\n".join([*rows, ""]))
    return table


def a_site(folder: Path, server: str, ca: Path, **changes: Any) -> Path:
    """A site as ``fedmed site init`` makes it, with any ``ca``; returns its ``site.toml``."""
    wish: dict[str, Any] = {"minimum_cohort": 4, "public_size": 10} | changes
    table = cohort(folder.parent / f"{folder.name}-data")
    make_site(folder, Wish(name="st-mary", server=server, data=table, **wish))
    (folder / "ca.crt").write_bytes(ca.read_bytes())
    return folder / "site.toml"


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    skew = 0.0
    flower = version("flwr")

    def do_GET(self) -> None:
        body = b""
        if self.path == "/openapi.json":
            body = json.dumps({"info": {"title": "SuperLink API", "version": self.flower}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = datetime.datetime.now(datetime.UTC).timestamp()
        return super().date_time_string(int(now + self.skew))

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that turns away is what is tested."""


@contextmanager
def superlink(
    pki: Path,
    *,
    host: str = "127.0.0.1",
    start: datetime.datetime | None = None,
    skew: float = 0.0,
    flower: str = "",
    tls: bool = True,
) -> Iterator[str]:
    """A server with a certificate for ``host``; gives its address, and ``pki/ca.crt``."""
    make_certificates(pki, [host], days=30, start=start)
    answers = type("Answers", (_Answers,), {"skew": skew, "flower": flower or _Answers.flower})
    server = _Server(("127.0.0.1", 0), answers)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "server.crt", pki / "server.key")
        # Shaken in the thread of the connection, so that a client who hangs up stops nobody else.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
