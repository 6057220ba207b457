"""Which key a node proved to have: Flower's server checks each call of a node against it."""

import base64
import binascii
import datetime
import hashlib
from collections.abc import Callable, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.serverapp import Grid
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature


def fingerprint(public: bytes) -> str:
    """``SHA256:...`` of a public key, as ``ssh-keygen -lf`` prints it; empty for what is no key."""
    for load in (serialization.load_ssh_public_key, serialization.load_pem_public_key):
        try:
            key = load(public)
            text = key.public_bytes(
                serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            )
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
            continue
        digest = hashlib.sha256(base64.b64decode(text.split()[1])).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
    return ""


def node_keys(grid: Grid) -> dict[int, str]:
    """Fingerprint of each node's key; without those of which the grid knows none (simulations)."""
    fingerprints = {node.node_id: fingerprint(node.public_key) for node in grid.get_nodes()}
    return {node: key for node, key in fingerprints.items() if key}


def signed_by(headers: Mapping[str, str], known: Callable[[bytes], bool]) -> bytes:
    """The ``known`` public key that signed a node's call not long ago; empty where none did.

    What Flower itself checks once it has read a whole request: here the headers are enough.
    """
    try:
        public = base64.b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = base64.b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        stamp = headers[TIMESTAMP_HEADER]
        age = (now() - datetime.datetime.fromisoformat(stamp)).total_seconds()
        recent = -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
        if not recent or not known(public):
            return b""
        if verify_signature(bytes_to_public_key(public), stamp.encode("ascii"), signature):
            return public
    except (KeyError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm, binascii.Error):
        pass
    return b""
