"""Starting a site's SuperNode: first what would make it fail or unsafe is looked at."""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedmed.base.errors import UserError
from fedmed.site.connection import Connection
from fedmed.site.reach import Check, knock

PORT: Final = 9094
"""Of the SuperNode's own interface, on the loopback: the app that it starts talks to it there."""

_WAITS: Final = (2.0, 5.0, 10.0, 30.0, 60.0)  # seconds between tries; the last is repeated


def await_server(
    connection: Connection,
    tell: Callable[[str], None],
    *,
    tries: int = 0,
    look: Callable[[Connection], list[Check]] = knock,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once everything about the connection is right; a server that is away is waited for.

    After ``tries`` (0: without end), or at once for what waiting does not mend, raises
    :class:`UserError`.
    """
    number = 0
    while True:
        wrong = [check for check in look(connection) if not check.ok]
        if not wrong:
            return
        worst = next((check for check in wrong if not check.later), wrong[0])
        line = f"{worst.name}: {worst.text}"
        number += 1
        if not worst.later or number == tries:
            raise UserError(line)
        wait = _WAITS[min(number, len(_WAITS)) - 1]
        tell(f"{line}; trying again in {wait:.0f} s")
        sleep(wait)


def supernode(connection: Connection, guard: Path, port: int = PORT) -> list[str]:
    """The command that runs the SuperNode: TLS and the node key always, the guard its only data.

    Raises :class:`UserError` where there is no guard, or the port is taken.
    """
    if not guard.is_socket():
        raise UserError(
            f"--guard {guard}: no socket; start fedmed guard first, or correct the path"
        )
    if any(c in str(guard) for c in "\"'\\"):
        raise UserError(f"--guard {guard}: use a path without quotes")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"--port {port}: taken by another process ({error.strerror}); name another port"
            ) from error
    return [
        # fedmed-supernode of this very installation, whatever PATH or the current folder holds.
        *[sys.executable, "-P", "-m", "fedmed.hospital.node"],
        f"--superlink={connection.address}",
        f"--root-certificates={connection.ca}",
        f"--auth-supernode-private-key={connection.key}",
        f'--node-config=guard="{guard}"',
        f"--port={port}",
    ]


def environment() -> dict[str, str]:
    """This process's, in which the SuperNode finds the programs that were installed with it."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
