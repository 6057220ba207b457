"""How a site reaches the server: ``connection.toml``, and the node key that it signs with."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, expanded, read_bytes

NAME: Final = "connection.toml"
_KEY: Final = "give it to the user who runs the SuperNode, or make one with fedmed site init"
_KEYS: Final = ("server", "ca", "key")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The server's host and port, and the site's files for it; paths absolute."""

    where: Path
    host: str
    port: int
    ca: Path
    key: Path

    @property
    def address(self) -> str:
        """``HOST:PORT``, with an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_connection(path: Path) -> Connection:
    """The connection at ``path``; raises :class:`UserError` naming the first wrong key."""
    given = config.read_toml(path)
    for key in given:
        if key not in _KEYS:
            raise UserError(
                f"{path}: unknown key {key!r}{config.nearest(key, _KEYS)}; use {', '.join(_KEYS)}"
            )
    for key in _KEYS:
        if not isinstance(given.get(key), str) or not given[key]:
            raise UserError(f'{path}: {key} is missing or no text; set {key} = "..."')
    host, port = split_address(given["server"], f"{path}: server")
    here = expanded(path).absolute().parent
    return Connection(
        where=expanded(path).absolute(),
        host=host,
        port=port,
        ca=here / expanded(given["ca"]),
        key=here / expanded(given["key"]),
    )


def split_address(address: str, where: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPv6]:PORT``; raises :class:`UserError`."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or "/" in host or not _is_port(port):
        raise UserError(f"{where} = {address!r}: write it as HOST:PORT, without https://")
    return host, int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536


def new_key() -> tuple[bytes, bytes]:
    """A private and a public node key, as Flower's node authentication reads them.

    A NIST curve (P-384) in OpenSSH's format; Flower takes no Ed25519 key here.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, public


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node key at ``path``, which only its owner may read; raises :class:`UserError`."""
    try:
        content = read_bytes(path, MIB, _KEY)
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(
            f"{path}: the node key cannot be read ({error.strerror}); {_KEY}"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(
            f"{path}: others may read the node key (mode {stat.S_IMODE(mode):04o}); run chmod 600 "
            "and, if anybody did, make a new one"
        )
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, LookupError, ArithmeticError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{path}: no OpenSSH private key without passphrase; make one with fedmed site init"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path}: Flower takes ECDSA node keys only; use fedmed site init's")
    return key
