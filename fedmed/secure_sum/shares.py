"""Shamir's shares (1979) of a secret of 16 bytes, by PyCryptodome, in GF(2^128)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from Crypto.Protocol.SecretSharing import Shamir

from fedmed.secure_sum.errors import SumRefused

SECRET: Final = 16  # bytes


def split(secret: bytes, threshold: int, members: Sequence[str]) -> dict[str, bytes]:
    """A share of 16 bytes for each member, any ``threshold`` of which give the secret back.

    >>> told = split(bytes(16), 2, ["a", "b", "c"])
    >>> joined({"c": told["c"], "a": told["a"]}, ["a", "b", "c"]) == bytes(16)
    True
    """
    made = Shamir.split(threshold, len(members), secret, ssss=False)
    return {members[number - 1]: bytes(share) for number, share in made}


def joined(shares: Mapping[str, bytes], members: Sequence[str]) -> bytes:
    """The secret of exactly a threshold of shares, or anything where one of them is wrong."""
    if any(len(share) != SECRET for share in shares.values()):
        raise SumRefused(f"a share that is not of {SECRET} bytes")
    numbered = [(members.index(name) + 1, share) for name, share in shares.items()]
    return bytes(Shamir.combine(numbered, ssss=False))
