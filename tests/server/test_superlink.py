"""Who may ask a deployment's SuperLink for what: nodes their own calls, its machine everything."""

import asyncio
from typing import Any

import pytest
from flwr.superlink import extensions, main
from flwr.superlink.routers.control.router import router as control
from flwr.superlink.routers.fleet.router import router as fleet
from starlette.types import Message, Receive, Scope, Send
from support import goes_red

from server.superlink import Doors, install

FAR, NEAR = ("192.0.2.7", 40000), ("127.0.0.1", 40000)
STEERING = (
    "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push-messages", "/docs",
    "/v1/fleet", "/v1/fleetx", "//v1/fleet/pull-messages", "/", "/healthy",
)  # fmt: skip


async def _inner(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def status(path: str, client: tuple[str, int] | None, *, app: Any = None) -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "path": path, "client": client, "method": "POST", "headers": []}
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


def test_flower_puts_the_doors_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "get_middleware", extensions.get_middleware)
    assert main._get_middleware()[0].cls is not Doors
    install()
    assert main._get_middleware()[0].cls is Doors


def test_control_and_fleet_lie_where_the_doors_expect_them() -> None:
    paths = {str(getattr(route, "path", "")) for route in (*control.routes, *fleet.routes)}
    steering = {path for path in paths if "start-run" in path or "register-node" in path}
    assert any(path.startswith("/v1/fleet/") for path in paths)
    assert any("start-run" in path for path in steering)
    assert all(not path.startswith("/v1/fleet/") for path in steering if "start-run" in path)
