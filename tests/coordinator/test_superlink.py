"""Who may ask a deployment's SuperLink for what: nodes their own calls, its machine everything."""

import asyncio
import base64
import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.superlink import extensions, main
from flwr.superlink.routers.control.router import router as control
from flwr.superlink.routers.fleet.router import router as fleet
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send
from support import goes_red, refuses

from fedmed.coordinator import superlink
from fedmed.coordinator.superlink import (
    AT_ONCE,
    LARGEST_BODY,
    LARGEST_ORDER,
    Answers,
    Doors,
    install,
)
from fedmed.federation.node_keys import fingerprint
from fedmed.site.connection import new_key

FAR, NEAR = ("192.0.2.7", 40000), ("127.0.0.1", 40000)
STEERING = (
    "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push-messages", "/docs",
    "/v1/fleet", "/v1/fleetx", "//v1/fleet/pull-messages", "/", "/healthy",
)  # fmt: skip


async def _inner(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


class Reading:
    """An app that reads a whole body, and remembers how much it has got and at how many at once."""

    def __init__(self) -> None:
        self.bytes = self.now = self.most = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RuntimeError("as an app does whose caller went away")
            self.bytes += len(message["body"])
            more = message["more_body"]
            await asyncio.sleep(0)
        self.now -= 1
        await _inner(scope, receive, send)


KEY = ec.generate_private_key(ec.SECP384R1())
PUBLIC = public_key_to_bytes(KEY.public_key())


def federation(*registered: bytes, auth: bool = True) -> Any:
    """What Flower's app keeps: the nodes' keys."""
    known = SimpleNamespace(get_node_id_by_public_key=dict.fromkeys(registered, 7).get)
    factory = SimpleNamespace(state=lambda: known)
    return SimpleNamespace(
        state=SimpleNamespace(enable_supernode_auth=auth, linkstate_factory=factory)
    )


def signed(key: Any = KEY, age: float = 0.0, **changed: str) -> list[tuple[bytes, bytes]]:
    """Headers as Flower's node signs them."""
    stamp = (datetime.datetime.now(tz=datetime.UTC) - datetime.timedelta(seconds=age)).isoformat()
    given = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public_key_to_bytes(key.public_key())),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, stamp.encode())),
        TIMESTAMP_HEADER: stamp.encode(),
        **{name: value.encode() for name, value in changed.items()},
    }
    return [(name.lower().encode(), value) for name, value in given.items()]


def status(
    path: str,
    client: tuple[str, int] | None,
    *,
    app: Any = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    pieces: tuple[bytes, ...] = (b"",),
    server: Any = None,
) -> int:
    sent: list[Message] = []
    coming = iter(pieces)
    left = [len(pieces)]

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        left[0] -= 1
        return {"type": "http.request", "body": next(coming), "more_body": left[0] > 0}

    scope = {"type": "http", "path": path, "client": client, "method": "POST"}
    scope |= {"headers": headers or [], "app": server or federation(auth=False)}
    asyncio.run((app or Doors(_inner))(scope, receive, send))
    return int(sent[0]["status"])


def shut(app: Any) -> None:
    for path in STEERING:
        assert status(path, FAR, app=app) == 403, path


def test_nobody_from_elsewhere_starts_a_run_or_registers_a_key() -> None:
    shut(Doors(_inner))
    goes_red(shut, _inner)


def test_nodes_are_heard_from_anywhere_and_the_own_machine_steers() -> None:
    for path in ("/v1/fleet/pull-messages", "/health", "/openapi.json"):
        assert status(path, FAR) == 200
    for path in STEERING:
        assert status(path, NEAR) == 200
        assert status(path, ("::1", 1)) == 200
        assert status(path, None) == 403
        assert status(path, ("unix", 1)) == 403


FLEET = "/v1/fleet/push-object"


def check_no_key_no_reading(make_app: Any) -> None:
    """Whatever is wrong with the key, not a byte of the body is asked for."""
    other = ec.generate_private_key(ec.SECP384R1())
    wrong = [
        [],
        signed(other),
        signed(age=3600),
        signed(age=-3600),
        signed(**{FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(b"no").decode()}),
        signed(**{FLEET_HTTP_PUBLIC_KEY_HEADER: "%%"}),
        signed(**{TIMESTAMP_HEADER: "yesterday"}),
    ]
    for headers in wrong:
        for client in (FAR, NEAR):
            reading = Reading()
            answer = status(
                FLEET, client, app=make_app(reading), headers=headers, server=federation(PUBLIC)
            )
            assert (answer, reading.bytes) == (401, 0)


def test_a_body_is_read_for_a_registered_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    check_no_key_no_reading(Doors)
    reading = Reading()
    pieces = (b"ab", b"cd")
    told = status(
        FLEET, FAR, app=Doors(reading), headers=signed(), pieces=pieces, server=federation(PUBLIC)
    )
    assert (told, reading.bytes) == (200, 4)
    monkeypatch.setattr(superlink, "_caller", lambda factory, headers: b"any")
    goes_red(check_no_key_no_reading, Doors)


def check_limit(path: str, most: int) -> None:
    """One byte more than ``most``, announced or not, is not read to its end."""
    half = bytes(most // 2)
    server = federation(PUBLIC)

    def told(reading: Reading, pieces: tuple[bytes, ...], length: int = 0) -> int:
        headers = signed() + [(b"content-length", str(length).encode())] * bool(length)
        doors = Doors(reading)
        return status(path, NEAR, app=doors, headers=headers, pieces=pieces, server=server)

    whole, longer, announced = Reading(), Reading(), Reading()
    assert told(whole, (half, half)) == 200
    assert told(longer, (half, half, b"x", half)) == 413
    assert longer.bytes == most
    assert told(announced, (half, half, b"x"), most + 1) == 413
    assert announced.bytes == 0
    assert told(Reading(), (b"",), int("9" * 4000)) == 413


def test_nobody_sends_a_request_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    check_limit(FLEET, LARGEST_BODY)
    check_limit("/v1/control/start-run", LARGEST_ORDER)
    monkeypatch.setattr(superlink, "LARGEST_BODY", 2 * LARGEST_BODY)
    goes_red(check_limit, FLEET, LARGEST_BODY)


def test_one_key_has_few_requests_read_at_once() -> None:
    reading = Reading()
    doors, server = Doors(reading), federation(PUBLIC)

    async def one() -> None:
        pieces = iter([b"a"] * 5 + [b""])

        async def receive() -> Message:
            piece = next(pieces)
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: Message) -> None:
            pass

        scope = {"type": "http", "path": FLEET, "client": FAR, "headers": signed(), "app": server}
        await doors(scope, receive, send)

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(many())
    assert reading.bytes == 20 * 5
    assert reading.most == AT_ONCE


def piece(size: int, session: str = "s") -> Any:
    return SimpleNamespace(run_id=1, session_id=session, object_content=bytes(size))


def test_an_answer_is_as_long_as_models_are() -> None:
    def check(answers: Answers) -> None:
        def real(request: Any, *rest: Any, **more: Any) -> str:
            return "stored"

        for _ in range(3):
            answers.sent(real, piece(100, "model"), None, None)
        for size in (250, 250, 100):
            assert answers.taken(real, request=piece(size, "answer"), state=None) == "stored"
        assert answers.taken(real, request=piece(600, "another"), state=None) == "stored"
        with pytest.raises(HTTPException) as caught:
            answers.taken(real, request=piece(1, "answer"), state=None)
        assert caught.value.status_code == 413

    check(Answers(least=10))
    with pytest.raises(pytest.fail.Exception):
        check(Answers(least=601))


def test_an_answer_names_the_node_that_sends_it() -> None:
    def call(source: int) -> Any:
        one = SimpleNamespace(metadata=SimpleNamespace(src_node_id=source))
        request = SimpleNamespace(node=SimpleNamespace(node_id=7), messages_list=[one])
        return Answers.named(lambda request, state: "stored", request=request, state=None)

    assert call(7) == "stored"
    with pytest.raises(HTTPException) as caught:
        call(8)
    assert caught.value.status_code == 403


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "9" * 12, " "])
def test_a_limit_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_LARGEST_ANSWER_MIB", text)
    refuses(superlink.largest_answer, "FEDMED_LARGEST_ANSWER_MIB", "whole MiB")
    monkeypatch.setenv("FEDMED_LARGEST_ANSWER_MIB", "512")
    assert superlink.largest_answer() == 512 * 2**20


def test_a_fingerprint_is_that_of_the_key_in_either_form() -> None:
    """As ssh-keygen prints it: SHA-256 of the key's own bytes, in base64 without padding."""
    private, public = new_key()
    key = serialization.load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    found = fingerprint(public)
    assert found == fingerprint(public_key_to_bytes(key.public_key()))
    assert found.startswith("SHA256:")
    assert len(found) == 7 + 43
    assert fingerprint(new_key()[1]) != found
    for nothing in (b"", b"ssh-rsa x", b"\xff" * 40, private):
        assert fingerprint(nothing) == ""


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's modules as they were, after the test as before it."""
    monkeypatch.setattr(extensions, "get_middleware", extensions.get_middleware)
    monkeypatch.setattr(runtime_handlers, "push_object", runtime_handlers.push_object)
    for name in ("push_object", "push_messages"):
        monkeypatch.setattr(fleet_handlers, name, getattr(fleet_handlers, name))
    monkeypatch.setattr(superlink.command, "uvicorn", superlink.command.uvicorn)


@pytest.mark.usefixtures("untouched")
def test_flower_puts_the_doors_first_and_asks_what_counts_answers() -> None:
    assert main._get_middleware()[0].cls is not Doors
    install()
    assert main._get_middleware()[0].cls is Doors
    with pytest.raises(HTTPException):
        fleet_handlers.push_messages(
            request=SimpleNamespace(  # type: ignore[arg-type]  # what is looked at first
                node=SimpleNamespace(node_id=1),
                messages_list=[SimpleNamespace(metadata=SimpleNamespace(src_node_id=2))],
            ),
            state=None,  # type: ignore[arg-type]  # not reached
        )
    assert superlink.command.uvicorn.run.keywords == {"http": "h11"}


def test_control_and_fleet_lie_where_the_doors_expect_them() -> None:
    paths = {str(getattr(route, "path", "")) for route in (*control.routes, *fleet.routes)}
    steering = {path for path in paths if "start-run" in path or "register-node" in path}
    assert any(path.startswith("/v1/fleet/") for path in paths)
    assert any("start-run" in path for path in steering)
    assert all(not path.startswith("/v1/fleet/") for path in steering if "start-run" in path)
