"""The SuperNode's check of app bundles: before any code of one is unpacked."""

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supernode import fleet_http_connection as fleet
from flwr.supernode import start_client_internal as node
from flwr.supernode.nodestate import NodeStateFactory
from support import goes_red, refuses

from fedmed.base.errors import RunError
from fedmed.hospital.node import (
    NO_LONGER,
    NOT_LET_IN,
    check_bundles,
    guard_of,
    hear_refusals,
    may_run,
)
from fedmed.site.requests import read_request
from fedmed.site.wire import read_frame, send_frame

BUNDLE = b"an app"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()
ORIGINAL = node._pull_and_store_message, node._verify_fab
SIGNING = vars(fleet)["NodeAuthHttpInterceptor"]


@pytest.fixture(autouse=True)
def _unpatched(flower_sender: None) -> Iterator[None]:
    yield
    node._pull_and_store_message, node._verify_fab = ORIGINAL
    vars(fleet).update(NodeAuthHttpInterceptor=SIGNING)


class Unpacked(Exception):
    """Flower began to use the bundle."""


def pull(monkeypatch: pytest.MonkeyPatch, fab: Fab, announced: str = DIGEST) -> str:
    """Let the node get one message of a run with this bundle; the reply it makes by itself."""

    def unpack(*_: object) -> dict[str, Any]:
        raise Unpacked

    monkeypatch.setattr(node, "get_fused_config_from_fab", unpack)
    objects = ObjectStoreFactory()
    state = NodeStateFactory(objectstore_factory=objects).state()
    state.set_node_id(3)
    message = Message(RecordDict({"request": ConfigRecord({"run": "r"})}), 3, "query")
    message.metadata.__dict__["_run_id"] = 5
    message.metadata.__dict__["_message_id"] = message.object_id
    run = Run.create_empty(5)
    run.fab_hash = announced
    node._pull_and_store_message(
        state=state,
        object_store=objects.store(),
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=lambda _: run,
        get_fab=lambda *_: fab,
        pull_object=lambda *_: b"",
        confirm_message_received=lambda *_: None,
        trusted_entities=None,
    )
    [reply] = state.get_messages_legacy(is_reply=True)
    assert reply.has_error()
    return str(reply.error.reason)


def fab(content: bytes = BUNDLE, name: str = "") -> Fab:
    return Fab(name or hashlib.sha256(content).hexdigest(), content, {})


def test_a_bundle_that_the_policy_does_not_name_is_never_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check() -> None:
        try:
            reason = pull(monkeypatch, fab(b"hostile"), fab(b"hostile").hash_str)
        except Unpacked:
            raise AssertionError("it was unpacked") from None
        assert "could not be verified" in reason

    goes_red(check)  # Flower by itself
    check_bundles(lambda digest: digest == DIGEST)
    check()


def test_a_bundle_that_the_policy_names_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_bundles(lambda digest: digest == DIGEST)
    with pytest.raises(Unpacked):
        pull(monkeypatch, fab())


@pytest.mark.parametrize(
    ("given", "announced"),
    [(fab(b"hostile", DIGEST), DIGEST), (fab(), "f" * 64), (fab(b"hostile", "f" * 64), "f" * 64)],
    ids=["other bytes under the name", "another name", "neither"],
)
def test_a_bundle_under_another_name_than_its_bytes_is_never_unpacked(
    given: Fab, announced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_bundles(lambda digest: digest == DIGEST)
    assert "could not be verified" in pull(monkeypatch, given, announced)


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [({}, True), ({"error": "app"}, False), ({"error": "frame"}, False), (None, False)],
    ids=["yes", "no", "not understood", "no answer"],
)
def test_a_bundle_runs_only_where_the_guard_says_so(
    tmp_path: Path, answer: dict[str, str] | None, allowed: bool
) -> None:
    heard = []

    def guard(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(read_frame(connection, seconds=20))
            if answer is not None:
                send_frame(connection, answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "g.sock"))
        listener.listen()
        thread = threading.Thread(target=guard, args=(listener,))
        thread.start()
        assert may_run(str(tmp_path / "g.sock"), DIGEST) is allowed
        thread.join()
    assert read_request(*heard[0]).app == DIGEST, "as a guard reads it"
    assert not may_run(str(tmp_path / "none"), DIGEST)


def test_a_node_is_there_before_torch() -> None:
    """Which takes seconds, and which only the app needs."""
    code = "import sys, fedmed.hospital.node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100, check=False).returncode == 0


def test_another_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_pull_and_store_message", lambda state, receive: None)
    with pytest.raises(Exception, match="version of Flower"):
        check_bundles(lambda _: True)


@pytest.mark.parametrize(
    ("method", "status", "told"),
    [
        ("ActivateNode", 412, [NOT_LET_IN]),
        ("ActivateNode", 401, [NOT_LET_IN]),
        ("ActivateNode", 200, []),
        ("ActivateNode", 503, []),
        ("PullMessages", 401, [NO_LONGER]),
        ("PushObject", 401, [NO_LONGER]),
        ("PullMessages", 412, []),
        ("PullMessages", 403, []),
    ],
)
def test_only_a_refused_key_is_told_as_one(method: str, status: int, told: list[str]) -> None:
    heard: list[str] = []
    hear_refusals(heard.append)
    request = httpx.Request("POST", "https://127.0.0.1")
    context = ProtobufRequestContext(f"/flwr.proto.Fleet/{method}", PullMessagesRequest(), request)
    signing = vars(fleet)["NodeAuthHttpInterceptor"](*generate_key_pairs())
    answer = signing.intercept(context, lambda _: httpx.Response(status, request=request))
    assert (answer.status_code, heard) == (status, told)
    assert len(request.headers) > len(httpx.Request("POST", "https://127.0.0.1").headers), "signed"


def test_a_flower_that_signs_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fleet, "NodeAuthHttpInterceptor")
    refuses(lambda: hear_refusals(print), "version of Flower", error=RunError)


@pytest.mark.parametrize(
    "arguments",
    [["--node-config", 'guard="/run/g.sock" a=1'], ['--node-config=guard="/run/g.sock"']],
)
def test_the_guard_is_named_in_the_node_config(arguments: list[str]) -> None:
    assert guard_of(["--insecure", *arguments]) == "/run/g.sock"


@pytest.mark.parametrize(
    "arguments", [[], ["--node-config"], ["--node-config", "partition-id=0"], ["--superlink", "x"]]
)
def test_a_node_without_a_guard_is_refused(arguments: list[str]) -> None:
    refuses(lambda: guard_of(arguments), "--node-config", "veto")
