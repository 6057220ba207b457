"""A deployment's SuperLink: hospitals reach what they need, and only its own machine steers it.

Flower serves everything at one port, and asks nobody who starts a run or registers a node key.
Here such a request is heard from this machine's loopback alone. From elsewhere nodes are heard,
whose every call is signed with a registered key.
"""

import ipaddress
from typing import Final

from flwr.superlink import extensions, main
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fedmed.errors import RunError

FOR_NODES: Final = "/v1/fleet/"
FOR_ALL: Final = ("/health", "/openapi.json")
"""Tell whether the server is up, the time, and Flower's version."""


class Doors:
    """Lets requests through by their path and by where they come from; refuses all others (403)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] == "lifespan" or _open(scope["path"]) or _local(scope.get("client")):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = PlainTextResponse("for the server's own machine only", status_code=403)
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def _open(path: str) -> bool:
    return path in FOR_ALL or path.startswith(FOR_NODES)


def _local(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def install() -> None:
    """Put :class:`Doors` before everything else; :class:`RunError` where this Flower has no room.

    By the hook that Flower keeps for extensions of its own.
    """
    others = extensions.get_middleware()
    extensions.get_middleware = lambda: (Middleware(Doors), *others)
    first: object = main._get_middleware()[0].cls
    if first is not Doors:
        raise RunError("this version of Flower asks no extension; install the one that is pinned")


if __name__ == "__main__":
    install()
    flower_superlink()
