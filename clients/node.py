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
from typing import Any, Final

from flwr.common.config import parse_config_args
from flwr.supercore.fab import Fab
from flwr.supernode import start_client_internal as node
from flwr.supernode.cli import flower_supernode

from fedmed.errors import RunError, UserError
from fedmed.site import asking

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
    """Run the SuperNode with the arguments of the command line."""
    try:
        socket = guard_of(sys.argv[1:])
        check_bundles(lambda digest: asking.may_run(socket, digest))
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    flower_supernode()


if __name__ == "__main__":
    main()
