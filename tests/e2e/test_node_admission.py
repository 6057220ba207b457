"""Who takes part in a deployed federation, and which app: registered keys, TLS, allowed bundles.

Real processes on the loopback, as the containers start them; a site's SuperNode is what
``fedmed site join`` starts.
"""

import contextlib
import hashlib
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from support.deployed import POLICY, SITES, Deployment, Processes, deployment, write_tables

from fedmed.config import Scalar
from fedmed.hospital.node import NO_LONGER, NOT_LET_IN
from fedmed.launch import free_ports, stage_app
from fedmed.site.certs import make_certificates
from fedmed.site.connection import Connection, read_connection, read_key

pytestmark = pytest.mark.slow

A, B, C = SITES
RUN: dict[str, Scalar] = {
    "data.sites": f"{A}, {B}",
    "data.hospitals": 2,
    "data.image-size": 16,
    "model.name": "resnet9",
    "train.rounds": 1,
    "train.local-epochs": 1.0,
    "train.batch-size": 8,
    "train.timeout": 200.0,
    "train.join-timeout": 200.0,
    "privacy.arm": "dp-sgd",
    "privacy.epsilon": 4.0,
    "privacy.delta": 1e-3,
    "evaluation.where": "hospitals",
    "evaluation.epsilon": 4.0,
    "evaluation.resamples": 100,
    "run.out": "",
    "run.device": "cpu",
    "run.threads": 1,
}


@dataclass
class Joined:
    """A federation of A and B, and the app that is run there: B's policy does not name it."""

    federation: Deployment
    numbers: dict[str, int]
    app: Path
    digest: str


@pytest.fixture(scope="module")
def joined(fedmed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """One server for all tests of this file; guards and nodes become ready meanwhile."""
    with deployment(write_tables(tmp_path_factory.mktemp("admission"))) as federation:
        app, digest = bundle(federation)
        numbers = {}
        for site, allowed in ((A, digest), (B, "0" * 64), (C, digest)):
            federation.prepare(site, policy=naming(allowed))
        federation.start_guards(A, B)
        for site in (A, B):
            numbers[site] = federation.register(site)
            federation.start_node(site)
        yield Joined(federation, numbers, app, digest)


def bundle(federation: Deployment) -> tuple[Path, str]:
    """The app that is run, and its hash as docs/guard.md tells to take it."""
    app = federation.folder / "app"
    stage_app(app, RUN)
    done = federation.flwr("build", "--app", str(app))
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = federation.home.glob("*.fab")
    return app, hashlib.sha256(built.read_bytes()).hexdigest()


def naming(digest: str) -> str:
    """A policy that lets one bundle run."""
    return f'{POLICY}apps = ["{digest}"]\n'


@contextlib.contextmanager
def listening(path: str) -> Iterator[None]:
    """A guard's socket that nobody answers: joining needs no more."""
    with socket.socket(socket.AF_UNIX) as guard:
        guard.bind(path)
        yield


def heard(connection: Connection, number: int) -> list[bool]:
    """Whether this key, as node ``number``, may ask for work, and may hand in a result."""
    key = read_key(connection.key)
    signed = NodeAuthHttpInterceptor(key, key.public_key())
    node = Node(node_id=number)
    found = []
    with FleetHttpClient.from_server_address(
        connection.address, False, connection.ca.read_bytes(), interceptors=[signed]
    ) as client:
        calls: list[tuple[Any, Any]] = [
            (client.PullMessages, PullMessagesRequest(node=node)),
            (client.PushMessages, PushMessagesRequest(node=node)),
        ]
        for call, request in calls:
            try:
                call(request)
                found.append(True)
            except httpx.HTTPStatusError as error:
                # A result of no message is another error, after the key was taken.
                found.append(error.response.status_code != 401)
    return found


def test_a_key_is_let_in_from_its_registration_until_it_is_taken_back(joined: Joined) -> None:
    federation, processes, name = joined.federation, joined.federation.processes, f"node-{C}"
    mine, registered = (
        read_connection(federation.folder / site / "connection.toml") for site in (C, A)
    )

    def refused(times: int, line: str) -> None:
        """The node has ended, and its log has this many lines that say why, the last this one."""
        assert processes.wait_for_end(name) == 2
        told = [x for x in processes.log(name).splitlines() if x.startswith("error: ")]
        assert (len(told), told[-1]) == (times, f"error: {line}")

    with listening(federation.socket(C)):
        federation.start_node(C)
        refused(1, NOT_LET_IN)
        assert federation.nodes().keys() == {*joined.numbers.values()}

        number = federation.register(C)
        assert federation.nodes()[number] == "registered"
        federation.start_node(C)
        processes.wait_for(name, f"SuperNode ID: {number}")
        assert federation.nodes()[number] == "online"
        assert heard(mine, number) == [True, True]
        assert heard(registered, number) == [False, False], "one hospital's key for another's node"

        done = federation.flwr("supernode", "unregister", str(number), "deployed")
        assert done.returncode == 0, done.stdout + done.stderr
        assert federation.nodes()[number] == "unregistered"
        assert heard(mine, number) == [False, False]
        refused(2, NO_LONGER)
        federation.start_node(C)
        refused(3, NOT_LET_IN)
        assert federation.nodes()[number] == "unregistered"


def audit(site: Path) -> list[dict[str, Any]]:
    text = (site / "state" / "ledger.audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def unpacked(site: Path) -> list[str]:
    """App bundles that the SuperNode of a site has unpacked."""
    folder = site / "flwr" / "apps"
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def test_a_bundle_that_one_policy_does_not_name_runs_only_at_the_others(joined: Joined) -> None:
    federation, app, digest = joined.federation, joined.app, joined.digest
    home, out = federation.folder / B, federation.folder / "run"
    for site in (A, B):
        federation.processes.wait_for(f"node-{site}", "SuperNode ID")

    def run(patience: float) -> str:
        config = f"run.out={json.dumps(str(out))} train.join-timeout={patience}"
        done = federation.flwr("run", str(app), "deployed", "--stream", "--run-config", config)
        return done.stdout + done.stderr

    told = run(8.0)
    assert (out / "stopped.json").is_file(), told[-3000:] + federation.logs()
    stopped = json.loads((out / "stopped.json").read_text())
    # On a machine that is busy with other things A may be late too.
    assert B in stopped["absent"], told[-3000:] + federation.logs()
    assert "did not join within train.join-timeout = 8 s" in stopped["reason"]
    why = "app (the hospital's policy does not name this app bundle)"
    assert f"node {joined.numbers[B]} did not join: {why}" in stopped["reason"]
    assert stopped["reason"] in told
    assert unpacked(federation.folder / A), "where to look"
    assert unpacked(home) == []
    lines = audit(home)
    refusals = [line for line in lines if line["what"] == "refused"]
    assert {(line["code"], line["app"]) for line in refusals} == {("app", digest)}
    assert {line["kind"] for line in lines if line["what"] == "request"} == {"app"}, "no app spoke"

    federation.processes.stop(f"guard-{B}")
    (home / "policy.toml").write_text(naming(digest))
    federation.start_guards(B)
    told = run(200.0)
    assert (out / "result.json").is_file(), told[-3000:] + federation.logs()
    assert unpacked(home) == unpacked(federation.folder / A)
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["hospitals"] for line in history] == [0, 2]
    assert "train" in {line["kind"] for line in audit(home) if line["what"] == "answered"}


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    found.stop_all()


def start_server(processes: Processes, name: str, port: int, *options: str) -> None:
    command = [sys.executable, "-m", "fedmed.coordinator.superlink", "--host", "127.0.0.1"]
    home = processes.folder / name
    home.mkdir()
    processes.start(name, [*command, "--port", str(port), *options], home)


def test_a_server_goes_without_tls_only_where_it_is_told_to_and_warns(
    processes: Processes,
) -> None:
    free, *ports = free_ports(4)
    make_certificates(processes.folder, ["127.0.0.1"])
    tls = [
        *["--ssl-ca-certfile", str(processes.folder / "ca.crt")],
        *["--ssl-certfile", str(processes.folder / "server.crt")],
        *["--ssl-keyfile", str(processes.folder / "server.key")],
    ]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free))
        taken.listen()
        start_server(processes, "nothing", ports[0], "--enable-supernode-auth")
        start_server(processes, "both", ports[1], "--enable-supernode-auth", "--insecure")
        start_server(processes, "insecure", ports[2], "--insecure")
        start_server(processes, "taken", free, "--enable-supernode-auth", *tls)
        for name, words in (
            ("nothing", "Certificates are required unless running in insecure mode"),
            ("both", "requires encrypted TLS"),
            ("taken", "address already in use"),
        ):
            assert processes.wait_for_end(name) != 0
            assert words in processes.log(name)
            assert "Uvicorn running" not in processes.log(name)
    processes.wait_for("insecure", "Uvicorn running")
    log = processes.log("insecure")
    assert "TLS disabled" in log
    assert "SuperNode authentication is disabled" in log
    assert httpx.get(f"http://127.0.0.1:{ports[2]}/health").status_code == 200


def test_a_site_joins_no_server_that_another_ca_signed_and_none_without_tls(
    joined: Joined, processes: Processes, tmp_path: Path
) -> None:
    make_certificates(tmp_path, ["127.0.0.1"])
    home = joined.federation.folder / C
    text = (home / "connection.toml").read_text()
    assert "../ca.crt" in text
    (home / "other-ca.toml").write_text(text.replace("../ca.crt", str(tmp_path / "ca.crt")))
    guard = str(tmp_path / "g.sock")
    (port,) = free_ports(1)
    supernode = [
        sys.executable,
        "-m",
        "fedmed.hospital.node",
        "--superlink",
        joined.federation.fleet,
    ]
    supernode += ["--auth-supernode-private-key", str(home / "node.key"), "--port", str(port)]
    supernode += ["--node-config", f'guard="{guard}"']
    join = [sys.executable, "-m", "fedmed.cli", "site", "join", str(home / "other-ca.toml")]
    with listening(guard):
        processes.start("join", [*join, "--guard", guard], tmp_path)
        processes.start("bare", [*supernode, "--insecure"], tmp_path)
        assert processes.wait_for_end("join") == 2
        assert processes.wait_for_end("bare") != 0
    [line] = processes.log("join").splitlines()
    assert line.startswith("error: certificate: the server's certificate was not signed by")
    assert "requires a secure TLS connection" in processes.log("bare")
