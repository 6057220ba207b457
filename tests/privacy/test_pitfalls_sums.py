"""Pitfall 44: a server that relays the messages of a secure sum gets one sum, and nothing else."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from support import goes_red
from support.sums import hellos, masked, members, met, opened, signed, terms, vectors

from fedmed.secure_sum import (
    Collector,
    Hello,
    Identity,
    Member,
    Signed,
    SumRefused,
    Unmasking,
    masks,
)
from fedmed.secure_sum import collector as collecting
from fedmed.secure_sum import member as module


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except SumRefused:
        return True
    return False


def test_pitfall_44_a_mask_from_32_bits_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own unfolds each mask from a generator of 32 bits: a server tries them all."""

    def check() -> None:
        key = bytes(range(32))
        own = np.zeros(64, np.uint32)
        masks.add(own, [(key, False)])
        assert np.unique(own).size == 64
        for place in range(32):  # every byte of the key counts
            other = bytearray(key)
            other[place] ^= 1
            words = np.zeros(64, np.uint32)
            masks.add(words, [(bytes(other), False)])
            assert not np.any(words == own), place

    check()

    def folded(vector: np.ndarray, keys: list[tuple[bytes, bool]]) -> None:
        for key, away in keys:
            seed = np.random.RandomState(int.from_bytes(key[:4], "big"))
            words = seed.randint(0, 2**32, vector.size, dtype=np.uint32)
            vector += -words if away else words

    monkeypatch.setattr(masks, "add", folded)
    goes_red(check)


def test_pitfall_44_a_mask_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two vectors under one mask tell their difference, in one step or in two."""

    def check() -> None:
        about = terms(4, 3, count=1000)
        everybody = met(about)
        zeros = np.zeros(1000, np.uint32)
        first = everybody["a"].mask(1, zeros.copy()).vector
        assert refused(lambda: everybody["a"].mask(1, zeros.copy()))
        others = [everybody["a"].mask(step, zeros.copy()).vector for step in (2, 3)]
        for one, other in pairwise([first, *others]):
            assert np.count_nonzero(one == other) < 5
        # The pair's part alone differs from step to step as well.
        assert everybody["a"]._pair("b", 2) != everybody["a"]._pair("b", 3)

    check()
    derive = masks.derived

    def without_steps(secret: bytes, text: bytes) -> bytes:
        return derive(secret, text[:32] + bytes(c for c in text[32:] if chr(c) not in "0123456789"))

    with monkeypatch.context() as patch:
        patch.setattr(masks, "derived", without_steps)
        goes_red(check)
    monkeypatch.setattr(Member, "step", property(lambda self: 0, lambda self, value: None))
    goes_red(check)


def test_pitfall_44_a_server_that_relays_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        everybody = members(terms())
        told = hellos(everybody)
        between = Identity.new()
        keys = [
            Hello(name="b", meeting=1, public=bytes(range(32)), signature=told["b"].signature),
            Hello(name="b", meeting=1, public=told["c"].public, signature=told["c"].signature),
        ]
        text = everybody["a"].terms.signed_text("hello", "b", 1, keys[0].public)
        keys.append(
            Hello(name="b", meeting=1, public=bytes(range(32)), signature=between.sign(text))
        )
        for key in keys:
            assert refused(lambda key=key: everybody["a"].meet({**told, "b": key}))  # type: ignore[misc]  # the default binds this turn
        assert refused(lambda: everybody["a"].mask(1, np.zeros(7, np.uint32)))
        everybody["a"].meet(told)
        # A hello of an earlier meeting, which the server kept, is none of this one.
        later = hellos(everybody, meeting=2)
        assert refused(lambda: everybody["a"].meet({**later, "b": told["b"]}))

    check()
    monkeypatch.setattr(module, "verified", lambda *_: True)
    goes_red(check)


def test_pitfall_44_two_sets_of_survivors_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference of two sums of one step is one member's vector."""

    def check() -> None:
        about = terms(5, 4)
        everybody, given = met(about), vectors(about, np.random.default_rng(1))
        sent = masked(everybody, given)
        collector = Collector(about, 1, 1)
        for name, answer in sent.items():
            collector.add(name, answer)
        signed(collector, everybody)
        opened(collector, everybody, collector.survivors)
        without_e = Collector(about, 1, 1)
        for name in "abcd":
            without_e.add(name, sent[name])
        for name in "abcd":
            assert refused(lambda name=name: everybody[name].sign(1, list("abcd")))  # type: ignore[misc]  # the default binds this turn
            assert refused(lambda name=name: everybody[name].open(without_e.ask(name)))  # type: ignore[misc]  # the default binds this turn

    check()
    sign = Member.sign

    def forgetful(self: Member, step: int, survivors: list[str]) -> Signed:
        self._signed = ()
        return sign(self, step, survivors)

    monkeypatch.setattr(Member, "sign", forgetful)
    goes_red(check)


def test_pitfall_44_an_old_step_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        about = terms(5, 4)
        everybody, generator = met(about), np.random.default_rng(1)
        collector = Collector(about, 1, 1)
        for name, answer in masked(everybody, vectors(about, generator)).items():
            collector.add(name, answer)
        signed(collector, everybody)
        asked = collector.ask("a")
        masked(everybody, vectors(about, generator), step=2)
        assert refused(lambda: everybody["a"].open(asked))
        assert refused(lambda: everybody["a"].sign(1, collector.survivors))
        pretended = Unmasking(step=2, survivors=asked.survivors, signatures=asked.signatures,
                              boxes=asked.boxes)  # fmt: skip
        everybody["a"].sign(2, collector.survivors)
        assert refused(lambda: everybody["a"].open(pretended))  # signatures are of their step

    check()
    monkeypatch.setattr(module, "survivors_text", lambda terms, meeting, step, who: b"always")
    monkeypatch.setattr(Member, "_cipher", lambda self, sender, receiver, step: _Open())
    goes_red(check)


class _Open:
    """A box without a lock."""

    def encrypt(self, nonce: bytes, data: bytes, about: object) -> bytes:
        return data

    decrypt = encrypt


def test_pitfall_44_a_late_answer_stays_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others gave their masks with e away: its vector, come late, still has its own mask."""

    def check() -> None:
        about = terms(5, 4, count=1000)
        everybody, given = met(about), vectors(about, np.random.default_rng(1))
        sent = masked(everybody, given)
        collector = Collector(about, 1, 1)
        for name in "abcd":
            collector.add(name, sent[name])
        signed(collector, everybody)
        told = opened(collector, everybody, "abcd")
        assert all("e" not in answer.shares for answer in told)
        assert np.array_equal(collector.total(), sum(given[n] for n in "abcd"))
        late = sent["e"].vector.copy()
        masks.add(late, [(answer.pairs["e"], False) for answer in told])  # e took each away
        assert np.count_nonzero(late == given["e"]) < 5
        masks.add(late, [(bytes(32), True)])
        assert np.count_nonzero(late == given["e"]) < 5
        ask = collector.ask("a")
        ask.survivors.append("e")
        assert refused(lambda: everybody["a"].open(ask))

    check()
    monkeypatch.setattr(module, "self_key", lambda *_: bytes(32))  # a mask that everybody knows
    monkeypatch.setattr(collecting, "self_key", lambda *_: bytes(32))
    goes_red(check)


def test_pitfall_44_below_the_threshold_nothing_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check() -> None:
        about = terms(5, 4)
        everybody, given = met(about), vectors(about, np.random.default_rng(1))
        sent = masked(everybody, given)
        collector = Collector(about, 1, 1)
        for name, answer in sent.items():
            collector.add(name, answer)
        for name in "abc":  # three of five signed
            collector.signed(name, everybody[name].sign(1, collector.survivors))
        assert refused(lambda: everybody["a"].open(collector.ask("a")))
        assert refused(lambda: everybody["d"].sign(1, list("bcd")))

    check()
    monkeypatch.setattr(module, "verified", lambda *_: True)
    goes_red(check)
