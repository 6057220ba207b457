"""A deployment's SuperLink: hospitals reach what they need, and only its own machine steers it.

Flower serves everything at one port, asks nobody who starts a run or registers a node key, and
reads a request of any length before it looks at its key. Here what steers is heard from this
machine's loopback alone. From elsewhere nodes are heard: those whose key is registered, for as many
bytes as Flower's own node sends at once, and in their own name.
"""

import asyncio
import importlib
import ipaddress
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import uvicorn
from flwr.superlink import extensions, main
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedmed.base.errors import RunError, UserError
from fedmed.federation.node_keys import signed_by

command: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
# The package has a function of the same name.

FOR_NODES: Final = "/v1/fleet/"
FOR_ALL: Final = ("/health", "/openapi.json")
"""Tell whether the server is up, the time, and Flower's version."""

LARGEST_BODY: Final = 8 * 2**20
"""Bytes of one request from a node: Flower cuts what is longer into pieces of 5 MiB."""

LARGEST_ORDER: Final = 64 * 2**20
"""Bytes of one request from this machine, which may hold an app."""

AT_ONCE: Final = 4
"""Requests of one key whose bodies are read at the same time; Flower's node sends 2."""

SMALLEST_LIMIT: Final = 256 * 2**20
"""Bytes of an answer that are never too many, as a model may have been sent before a restart."""

_LIMIT_KEY: Final = "FEDMED_LARGEST_ANSWER_MIB"
_REMEMBERED: Final = 2**16  # answers whose bytes are counted


class Doors:
    """Lets requests through by path, origin and key; refuses others before their body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._reading: dict[bytes, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(AT_ONCE)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        path, local = scope["path"], _local(scope.get("client"))
        if not (local or path in FOR_ALL or path.startswith(FOR_NODES)):
            await _refuse(scope, receive, send, 403, "for the server's own machine only")
        elif scope["type"] != "http" or not path.startswith(FOR_NODES):
            await _limited(self.app, LARGEST_ORDER, scope, receive, send)
        else:
            await self._node(scope, receive, send)

    async def _node(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = b""
        state = getattr(scope.get("app"), "state", None)
        if getattr(state, "enable_supernode_auth", True):  # closed where nobody says so
            factory = getattr(state, "linkstate_factory", None)
            key = await run_in_threadpool(_caller, factory, Headers(scope=scope))
            if not key:
                await _refuse(scope, receive, send, 401, "Invalid SuperNode authentication")
                return
        async with self._reading[key] if key else asyncio.Semaphore():
            await _limited(self.app, LARGEST_BODY, scope, receive, send)


def _caller(factory: Any, headers: Headers) -> bytes:
    """The registered key that signed a call, or nothing."""
    if factory is None:
        return b""
    state = factory.state()
    return signed_by(headers, lambda key: state.get_node_id_by_public_key(key) is not None)


async def _refuse(scope: Scope, receive: Receive, send: Send, code: int, why: str) -> None:
    """Answer, and end the connection: what is still to come is not read."""
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = {"connection": "close"}
    if scope["path"].startswith(FOR_NODES):
        await JSONResponse({"detail": why}, code, headers)(scope, receive, send)
    else:
        await PlainTextResponse(why, code, headers)(scope, receive, send)


async def _limited(app: ASGIApp, most: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request on, up to ``most`` bytes of it; a longer one is answered with 413."""
    why = f"a request of more than {most} bytes"
    length = Headers(scope=scope).get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        await _refuse(scope, receive, send, 413, why)
        return
    taken, answered, over = 0, False, False

    async def counted() -> Message:
        nonlocal taken, over
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            over = over or taken > most
        return {"type": "http.disconnect"} if over else message

    async def passed(message: Message) -> None:
        nonlocal answered
        if not over:
            answered = True
            await send(message)

    try:
        await app(scope, counted, passed)
    except Exception:
        if not over:
            raise
    if over and not answered:
        await _refuse(scope, receive, send, 413, why)


def _local(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


class Answers:
    """What nodes hand in: in their own name, and no more than twice the largest model sent out.

    ``least``: bytes that an answer may always have.
    """

    def __init__(self, least: int = SMALLEST_LIMIT) -> None:
        self.most = least
        self._sent: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._taken: OrderedDict[tuple[int, str], int] = OrderedDict()

    def sent(self, real: Callable[..., Any], request: Any, *rest: Any, **more: Any) -> Any:
        """The server's app hands in a piece of what it sends: remember how much it is."""
        size = _add(self._sent, request)
        self.most = max(self.most, 2 * size)
        return real(request, *rest, **more)

    def taken(self, real: Callable[..., Any], *, request: Any, **more: Any) -> Any:
        """A node hands in a piece of an answer; one too many is refused (413)."""
        if _add(self._taken, request) > self.most:
            raise HTTPException(413, f"an answer of more than {self.most} bytes")
        return real(request=request, **more)

    @staticmethod
    def named(real: Callable[..., Any], *, request: Any, **more: Any) -> Any:
        """A node hands in an answer: its own, or none (403)."""
        if any(m.metadata.src_node_id != request.node.node_id for m in request.messages_list):
            raise HTTPException(403, "an answer in another node's name")
        return real(request=request, **more)


def _add(counted: OrderedDict[tuple[int, str], int], request: Any) -> int:
    """Bytes of a message so far: its pieces come in one session."""
    key = (request.run_id, request.session_id)
    counted[key] = counted.pop(key, 0) + len(request.object_content)
    if len(counted) > _REMEMBERED:
        counted.popitem(last=False)
    return counted[key]


def largest_answer() -> int:
    """Bytes that an answer may always have: ``FEDMED_LARGEST_ANSWER_MIB``, by default 256 MiB."""
    given = os.environ.get(_LIMIT_KEY, "")
    if not given:
        return SMALLEST_LIMIT
    if not (given.isdecimal() and 0 < int(given[:9]) < 2**20):
        raise UserError(f"{_LIMIT_KEY} = '{given}': give whole MiB, such as 512")
    return int(given) * 2**20


def install() -> None:
    """Put :class:`Doors` before everything else, and :class:`Answers` before what nodes hand in.

    By the hook that Flower keeps for extensions of its own, and by the modules that its routes ask.
    Raises :class:`RunError` where this Flower has no such places.
    """
    others = extensions.get_middleware()
    extensions.get_middleware = lambda: (Middleware(Doors), *others)
    first: object = main._get_middleware()[0].cls
    handlers: object = main._RUNTIME_HANDLERS
    if first is not Doors or handlers is not runtime_handlers or command.uvicorn is not uvicorn:
        raise RunError("this version of Flower asks no extension; install the one that is pinned")
    answers = Answers(largest_answer())
    vars(runtime_handlers)["push_object"] = partial(answers.sent, runtime_handlers.push_object)
    vars(fleet_handlers)["push_object"] = partial(answers.taken, fleet_handlers.push_object)
    vars(fleet_handlers)["push_messages"] = partial(answers.named, fleet_handlers.push_messages)
    # The other parser of HTTP keeps headers of any length.
    vars(command)["uvicorn"] = SimpleNamespace(run=partial(uvicorn.run, http="h11"))


if __name__ == "__main__":
    install()
    command.flower_superlink()
