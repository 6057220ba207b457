"""What a simulation meets on a machine: proxies, folders too deep for sockets, a cluster gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from fedmed.base.errors import UserError

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
PATIENCE: Final = 5.0  # seconds for a cluster to take a connection
_LONGEST: Final = 103 if sys.platform == "darwin" else 107  # bytes of a Unix socket's path
# Below Ray's folder; a process has at most seven digits.
_SOCKET: Final = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_SHORT: Final = "/tmp"  # noqa: S108 -- a private folder is made in it, under a random name
_OUTSIDE: Final = ("8.8.8.8", 53)  # only looked up in the routes: nothing is sent


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """``no_proxy`` and ``NO_PROXY`` by which this machine and its cluster need no proxy.

    What either of them had stays. Flower's and Ray's processes talk to each other at addresses of
    this machine, which a proxy does not reach.

    >>> without_proxy({"no_proxy": "*"})
    {'no_proxy': '*', 'NO_PROXY': '*'}
    """
    given = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = dict.fromkeys(part.strip() for part in ",".join(given).split(",") if part.strip())
    if "*" not in hosts:
        hosts |= dict.fromkeys((*LOOPBACK, own_address()))
        cluster = _cluster(environment)
        hosts |= {} if cluster is None else {cluster[0]: None}
    told = "*" if "*" in hosts else ",".join(hosts)
    return {"no_proxy": told, "NO_PROXY": told}


def own_address() -> str:
    """This machine's address as Ray finds it: that of the route to the outside, else loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_OUTSIDE)
            return str(probe.getsockname()[0])
        except OSError:
            return LOOPBACK[0]


def check_cluster(environment: Mapping[str, str]) -> None:
    """Raise :class:`UserError` where ``RAY_ADDRESS`` names a cluster that does not answer.

    Ray itself would try for ever. Nothing is checked where Ray is to find or start one.
    """
    address = _cluster(environment)
    if address is None:
        return
    try:
        socket.create_connection(address, timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"RAY_ADDRESS = {environment['RAY_ADDRESS']}: no Ray cluster answers there "
            f"({error}); start it (ray start --head), correct the address, or unset RAY_ADDRESS "
            "so that fedmed starts Ray itself"
        ) from error


@contextlib.contextmanager
def ray_folder(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Variables by which Ray's sockets have names that the system takes.

    Empty where they do already, or a cluster has its own. Where ``TMPDIR`` is too long, Ray gets a
    short folder of this user alone, which is removed afterwards. Raises :class:`UserError` where
    ``RAY_TMPDIR`` is too long, and where there is no short folder.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in environment else "TMPDIR"
    folder = environment.get(name, _SHORT)
    too_long = len(os.fsencode(folder + _SOCKET)) - _LONGEST
    if too_long <= 0 or _cluster(environment) is not None:
        yield {}
        return
    problem = f"{name} = {folder} is {too_long} bytes too long for the names of Ray's sockets"
    if name == "RAY_TMPDIR":
        raise UserError(f"{problem}; set RAY_TMPDIR to a shorter folder")
    try:
        short = Path(tempfile.mkdtemp(prefix="fedmed-", dir=_SHORT))
    except OSError as error:
        raise UserError(
            f"{problem}, and {_SHORT} cannot be used ({error.strerror}); set TMPDIR, or RAY_TMPDIR "
            "for Ray alone, to a short folder"
        ) from error
    try:
        made = short.stat()
        if made.st_uid != os.getuid() or stat.S_IMODE(made.st_mode) != 0o700:
            raise UserError(f"{short} is not of this user alone; set RAY_TMPDIR to a short folder")
        yield {"RAY_TMPDIR": str(short)}
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _cluster(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port of ``RAY_ADDRESS``; None where it names no cluster."""
    address = environment.get("RAY_ADDRESS", "").strip()
    if address in ("", "auto", "local"):
        return None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"RAY_ADDRESS = {address}: give HOST:PORT of a Ray cluster, or unset it so that fedmed "
            "starts Ray itself"
        )
    return host.strip("[]"), int(port)
