"""Shares of a secret: joined here as PyCryptodome joins them, many secrets at a time."""

import random

import pytest
from Crypto.Protocol.SecretSharing import Shamir
from support import refuses

from fedmed.secure_sum import SumRefused, shares


@pytest.mark.parametrize(("count", "threshold"), [(3, 2), (5, 4), (20, 14), (255, 3)])
def test_many_secrets_are_joined_as_each_alone(count: int, threshold: int) -> None:
    draw = random.Random(count)
    members = [f"m{number:03}" for number in range(count)]
    secrets = {f"s{number}": draw.randbytes(16) for number in range(6)} | {"s0": bytes(16)}
    told = {name: shares.split(secret, threshold, members) for name, secret in secrets.items()}
    tellers = draw.sample(members, threshold)
    given = {who: {name: told[name][who] for name in secrets} for who in tellers}
    assert shares.joined(given, members) == secrets
    numbered = [(members.index(who) + 1, given[who]["s3"]) for who in tellers]
    assert bytes(Shamir.combine(numbered)) == secrets["s3"]


def test_anything_joins_as_it_does_there() -> None:
    """Also what is no sharing of anything: the field and the weights are the same."""
    draw = random.Random(4)
    members = [f"m{number}" for number in range(9)]
    for _ in range(50):
        tellers = draw.sample(members, draw.randint(2, 9))
        given = {who: {"a": draw.randbytes(16), "b": b"\xff" * 16} for who in tellers}
        joined = shares.joined(given, members)
        for name in ("a", "b"):
            numbered = [(members.index(who) + 1, given[who][name]) for who in tellers]
            assert joined[name] == bytes(Shamir.combine(numbered))


def test_one_wrong_share_spoils_its_secret_alone() -> None:
    members = ["a", "b", "c"]
    told = {name: shares.split(name * 16, 2, members) for name in (b"x", b"y")}
    given = {who: {name.decode(): told[name][who] for name in told} for who in ("a", "b")}
    given["b"]["x"] = bytes(16)
    joined = shares.joined(given, members)
    assert joined["y"] == b"y" * 16
    assert joined["x"] != b"x" * 16


def test_a_share_of_another_length_or_missing_is_refused() -> None:
    good = {"x": bytes(16)}
    refuses(lambda: shares.joined({"a": good, "b": {"x": bytes(15)}}, "ab"), "b", error=SumRefused)
    refuses(lambda: shares.joined({"a": good, "b": {}}, "ab"), "b", "missing", error=SumRefused)
