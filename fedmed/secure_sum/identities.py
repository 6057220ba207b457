"""Long-term keys: Ed25519, one for each member, by which its peers know it."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmed.secure_sum.errors import SumRefused

_PREFIX: Final = "fedmed-sum-ed25519 "
_LINE: Final = re.compile(r"fedmed-sum-ed25519 [0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """A member's private key; it signs, and never leaves its site.

    >>> mine = Identity.new()
    >>> verified(mine.public, mine.sign(b"text"), b"text"), verified(mine.public, b"", b"text")
    (True, False)
    """

    _key: Ed25519PrivateKey

    @classmethod
    def new(cls) -> Identity:
        """A fresh key from the operating system's entropy."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def derived(cls, secret: bytes, name: str) -> Identity:
        """The key of a simulated member: one secret of a run gives those of all its members."""
        info = f"fedmed-sum identity {name}".encode()
        seed = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, text: bytes) -> Identity:
        """The key of :meth:`pem`; raises :class:`SumRefused` for anything else."""
        try:
            key = serialization.load_pem_private_key(text, password=None)
        except (ValueError, TypeError) as error:
            raise SumRefused("it holds no private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SumRefused("its key is not of the kind Ed25519")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """The private key as PKCS #8 in PEM, without a password: for a file of the site's alone."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def public_line(self) -> str:
        """The public key as a line of text, for the peers' own files."""
        return f"{_PREFIX}{self.public.hex()}"

    def sign(self, text: bytes) -> bytes:
        """A signature, 64 bytes."""
        return self._key.sign(text)


def read_public(line: str) -> bytes:
    """The public key of :attr:`Identity.public_line`; raises :class:`SumRefused` for another text.

    >>> read_public("ssh-ed25519 AAAA")
    Traceback (most recent call last):
    fedmed.secure_sum.errors.SumRefused: 'ssh-ed25519 AAAA' is no public key of a secure sum
    """
    if not _LINE.fullmatch(line.strip()):
        raise SumRefused(f"'{line.strip()[:80]}' is no public key of a secure sum")
    return binascii.unhexlify(line.strip().removeprefix(_PREFIX))


def verified(public: bytes, signature: bytes, text: bytes) -> bool:
    """Whether the owner of a public key signed the text."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True
