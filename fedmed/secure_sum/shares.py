"""Shamir's shares (1979) of a secret of 16 bytes, in GF(2^128).

Secrets are split by PyCryptodome. It joins one secret at a time and works out the weights of the
shares anew for each; here all secrets that the same members tell shares of have those weights in
common, so that a server's work for a step is a weighted sum for each secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from Crypto.Protocol.SecretSharing import Shamir

from fedmed.secure_sum.errors import SumRefused

SECRET: Final = 16  # bytes
_BITS: Final = 128


def split(secret: bytes, threshold: int, members: Sequence[str]) -> dict[str, bytes]:
    """A share of 16 bytes for each member, any ``threshold`` of which give the secret back.

    >>> told = split(bytes(16), 2, ["a", "b", "c"])
    >>> joined({"c": {"s": told["c"]}, "a": {"s": told["a"]}}, ["a", "b", "c"]) == {"s": bytes(16)}
    True
    """
    made = Shamir.split(threshold, len(members), secret, ssss=False)
    return {members[number - 1]: bytes(share) for number, share in made}


def joined(told: Mapping[str, Mapping[str, bytes]], members: Sequence[str]) -> dict[str, bytes]:
    """Secrets by name, from what exactly a threshold of members tell: shares by the secret's name.

    A secret is anything where one of its shares is wrong. Raises :class:`SumRefused` where a share
    is of another length or is not told by all.
    """
    names = list(next(iter(told.values()), {}))
    totals = dict.fromkeys(names, 0)
    numbers = {teller: members.index(teller) + 1 for teller in told}
    for teller, weight in zip(told, _weights(list(numbers.values())), strict=True):
        shares = told[teller]
        if shares.keys() != totals.keys() or any(len(s) != SECRET for s in shares.values()):
            raise SumRefused(f"a share of {teller} that is missing, or not of {SECRET} bytes")
        multiples = _multiples(weight)
        for name, share in shares.items():
            totals[name] ^= _product(multiples, int.from_bytes(share, "big"))
    return {name: total.to_bytes(SECRET, "big") for name, total in totals.items()}


def _weights(points: Sequence[int]) -> list[int]:
    """What the values at these points count in the value at 0 (Lagrange).

    That of x_j is the product of x_m / (x_j + x_m) over all other x_m; in this field a difference
    is a sum. All denominators are inverted together (Montgomery's trick).
    """
    tops, bottoms = [], []
    for own in points:
        top = bottom = 1
        for other in points:
            if other != own:
                top, bottom = _times(top, other), _times(bottom, own ^ other)
        tops.append(top)
        bottoms.append(bottom)
    upto = [1]
    for bottom in bottoms:
        upto.append(_times(upto[-1], bottom))
    left, weights = _inverse(upto[-1]), [0] * len(points)
    for place in reversed(range(len(points))):
        weights[place] = _times(tops[place], _times(left, upto[place]))
        left = _times(left, bottoms[place])
    return weights


def _times(one: int, other: int) -> int:
    return _product(_multiples(one), other)


def _inverse(value: int) -> int:
    """value^(2^128 - 2), by squares: the product of value^(2^i) for i of 1 to 127."""
    result, square = 1, value
    for _ in range(_BITS - 1):
        square = _times(square, square)
        result = _times(result, square)
    return result


def _multiples(value: int) -> list[int]:
    """The products of a number with 0 to 15, not reduced."""
    table = [0] * 16
    for bit in range(4):
        for low in range(1 << bit):
            table[(1 << bit) + low] = table[low] ^ (value << bit)
    return table


def _product(multiples: Sequence[int], other: int) -> int:
    """The product of a number, by its multiples, with another, modulo 1 + x + x^2 + x^7 + x^128."""
    product = 0
    for shift in range(other.bit_length() // 4 * 4, -1, -4):
        product = (product << 4) ^ multiples[(other >> shift) & 15]
    while product >> _BITS:
        high = product >> _BITS
        low = product & ((1 << _BITS) - 1)
        product = low ^ high ^ (high << 1) ^ (high << 2) ^ (high << 7)
    return product
