"""What a secure sum is about: fixed before it begins, and signed by every member."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from fedmed.secure_sum.errors import SumRefused

MODULUS_BITS: Final = 32
"""Sums are modulo 2^32: unsigned integers of four bytes."""

_VERSION: Final = "fedmed-sum-1"
_MOST_MEMBERS: Final = 255
_MOST_NUMBERS: Final = 2**29


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Who sums how many numbers in a run, and how many of them must be there.

    ``members`` are all who may take part, in a fixed order. Fewer than ``threshold`` of them unmask
    nothing. Against a server with up to ``colluding`` members no two sets of survivors can both be
    unmasked in one step, which needs threshold > (members + colluding) / 2. ``about`` is the digest
    of what else members must agree on, such as the grid that their numbers are on.

    Raises :class:`SumRefused` for terms under which the protocol protects nothing.
    """

    run: str
    members: tuple[str, ...]
    threshold: int
    colluding: int
    count: int  # numbers in each member's vector
    about: str = ""

    def __post_init__(self) -> None:
        everybody = len(self.members)
        if len(set(self.members)) < everybody or not all(self.members):
            raise SumRefused("a member is named twice, or has no name")
        if not 3 <= everybody <= _MOST_MEMBERS:
            raise SumRefused(
                f"{everybody} members: of fewer than 3 the sum tells the others' numbers, and more "
                f"than {_MOST_MEMBERS} have no shares"
            )
        if not 0 <= self.colluding < everybody - 1:
            raise SumRefused(
                f"{self.colluding} colluding of {everybody} members leave nobody to hide among"
            )
        if not self.threshold <= everybody or 2 * self.threshold <= everybody + self.colluding:
            least = (everybody + self.colluding) // 2 + 1
            raise SumRefused(
                f"a threshold of {self.threshold} of {everybody} members with {self.colluding} "
                f"colluding: two sets could be unmasked in one step; use {least} to {everybody}"
            )
        if not 1 <= self.count <= _MOST_NUMBERS:
            raise SumRefused(f"{self.count} numbers in a vector; use 1 to {_MOST_NUMBERS}")

    def digest(self) -> bytes:
        """SHA-256 of everything above: what each signature and each key is bound to."""
        text = json.dumps([_VERSION, MODULUS_BITS, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).digest()

    def signed_text(self, what: str, *parts: str | int | bytes) -> bytes:
        """An unambiguous text for a signature or a key: the terms, what it is, and its parts."""
        told = [part.hex() if isinstance(part, bytes) else part for part in parts]
        return self.digest() + json.dumps([what, *told]).encode()

    def check_survivors(self, survivors: Iterable[str]) -> tuple[str, ...]:
        """The survivors in the members' order; raises where a set is no set of enough members."""
        given = list(survivors)
        chosen = tuple(name for name in self.members if name in given)
        if len(chosen) != len(given):
            raise SumRefused("survivors that are no members, or twice the same")
        if len(chosen) < self.threshold:
            raise SumRefused(
                f"{len(chosen)} survivors, below the threshold of {self.threshold}: nothing is "
                "unmasked"
            )
        return chosen
