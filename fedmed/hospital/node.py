"""Flower's SuperNode, which runs an app bundle only if the site's policy names it.

``fedmed-supernode`` takes the arguments of ``flower-supernode``, whose node config names the
guard's socket (``guard="..."``). A bundle's SHA-256 is taken from the bytes that came, here, before
any of its code is unpacked or run, and the guard says whether the site's policy has it.
"""

import hashlib
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import httpx
from flwr.common.config import parse_config_args
from flwr.supercore.fab import Fab
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode import fleet_http_connection as fleet
from flwr.supernode import start_client_internal as node
from flwr.supernode.cli import flower_supernode
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedmed.base.errors import RunError, UserError
from fedmed.base.terminal import one_line, say
from fedmed.site.wire import BadFrame, exchange

log = logging.getLogger("fedmed.node")

_OURS: Final = {"the site's guard": ""}  # stands for Flower's own list of signers, where none is
_NEEDED: Final = {"get_fab", "trusted_entities"}


def check_bundles(allowed: Callable[[str], bool]) -> None:
    """Have Flower's SuperNode, in this process, ask ``allowed`` about each bundle's SHA-256.

    A bundle that is refused gets Flower's own reply for one that could not be verified. Raises
    :class:`RunError` where this version of Flower has no such place.
    """
    pull, verify = node._pull_and_store_message, node._verify_fab
    if not set(inspect.signature(pull).parameters) >= _NEEDED:
        raise RunError("this version of Flower is not the one that fedmed was made for; install it")

    def check(fab: Fab, trusted_entities: dict[str, str]) -> bool:
        digest = hashlib.sha256(fab.content).hexdigest()
        if fab.hash_str != digest or not allowed(digest):
            log.error("the app bundle %s is not one that the site's policy names", digest)
            return False
        return trusted_entities is _OURS or verify(fab, trusted_entities)

    def checked(**given: Any) -> int | None:
        get_fab = given["get_fab"]

        def fetch(announced: str, run_id: int) -> Fab:
            fab: Fab = get_fab(announced, run_id)
            if fab.hash_str != announced:
                # What is unpacked goes by the one name, what was checked by the other.
                return Fab("", fab.content, {"valid_license": "none"})
            if not given["trusted_entities"]:
                fab.verifications = {**fab.verifications, "valid_license": "none"}
            return fab

        trusted = given["trusted_entities"] or _OURS
        return pull(**{**given, "get_fab": fetch, "trusted_entities": trusted})

    vars(node).update(_verify_fab=check, _pull_and_store_message=checked)


NOT_LET_IN: Final = (
    "the server lets nobody in with this site's key: it is not registered, or was taken back, or "
    "its SuperNode is running already (one that was killed counts as running for a minute); send "
    "the public key to the coordinator: flwr supernode register"
)
NO_LONGER: Final = (
    "the server no longer takes this site's key: the coordinator took it back, or this machine's "
    "clock is wrong; ask the coordinator, and run fedmed doctor"
)


def hear_refusals(tell: Callable[[str], None]) -> None:
    """Have Flower's SuperNode, in this process, say in one line that its key was refused.

    By itself it names no reason, and takes a key that was taken back for a request to end well.
    Raises :class:`RunError` where this version of Flower has no such place.
    """
    if vars(fleet).get("NodeAuthHttpInterceptor") is not NodeAuthHttpInterceptor:
        raise RunError("this version of Flower is not the one that fedmed was made for; install it")

    class Hearing(NodeAuthHttpInterceptor):
        def intercept(
            self, context: ProtobufRequestContext, call_next: ProtobufCall
        ) -> httpx.Response:
            answer = super().intercept(context, call_next)
            joining = context.rpc_method.endswith("/ActivateNode")
            if joining and answer.status_code in (
                httpx.codes.UNAUTHORIZED,
                httpx.codes.PRECONDITION_FAILED,
            ):
                tell(NOT_LET_IN)
            elif answer.status_code == httpx.codes.UNAUTHORIZED:
                tell(NO_LONGER)
            return answer

    vars(fleet).update(NodeAuthHttpInterceptor=Hearing)


def guard_of(arguments: list[str]) -> str:
    """The guard's socket in the node config; raises :class:`UserError` where there is none."""
    given = ""
    for position, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == "--node-config":
            given = value if equals else " ".join(arguments[position + 1 : position + 2])
    socket = parse_config_args([given]).get("guard") if given else None
    if not isinstance(socket, str) or not socket:
        raise UserError(
            "--node-config names no guard, and without one the site has no veto; add "
            "--node-config 'guard=\"/run/fedmed/guard.sock\"'"
        )
    return socket


def main() -> None:
    """Run the SuperNode with the arguments of the command line; exit code 2 for a refused key."""
    refusals: list[str] = []
    try:
        socket = guard_of(sys.argv[1:])
        check_bundles(lambda digest: may_run(socket, digest))
        hear_refusals(refusals.append)
    except (UserError, RunError) as error:
        _fail(str(error))
    try:
        flower_supernode()
    finally:
        if refusals:
            _fail(refusals[0])


def may_run(guard: str, digest: str) -> bool:
    """Whether the site's policy names this app bundle (or names none); no where nobody says so.

    No part of fedmed that needs torch: a node is there seconds sooner.
    """
    try:
        answer, _ = exchange(guard, {"kind": "app", "app": digest}, seconds=60.0)
    except (OSError, BadFrame):
        return False
    return "error" not in answer


def _fail(text: str) -> NoReturn:
    say(f"error: {one_line(text)}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
