"""The unmasked sum is the plain sum, bit for bit, whoever leaves; and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from support import refuses
from support.sums import NAMES, hellos, masked, members, met, opened, signed, summed, terms, vectors

from fedmed.secure_sum import (
    Collector,
    Identity,
    Masked,
    Opened,
    Signed,
    SumRefused,
    Terms,
    Unmasking,
    masks,
    read_public,
    shares,
)
from fedmed.secure_sum.messages import Note, hellos_text, read_hellos


def test_the_sum_is_exact_with_and_without_those_who_leave() -> None:
    """60 steps of 4 to 8 members; ``experiments/secure_sum.py`` makes 10,000."""
    generator = np.random.default_rng(1)
    for _ in range(12):
        size = int(generator.integers(4, 9))
        about = terms(size, (size + 1) // 2 + 1, 1, count=int(generator.integers(1, 100_000)))
        everybody = met(about)
        for step in range(1, 6):
            given = vectors(about, generator)
            gone = generator.choice(size, int(generator.integers(0, size - about.threshold + 1)))
            there = {n: v for k, (n, v) in enumerate(given.items()) if k not in gone}
            total = summed(everybody, there, step)
            assert np.array_equal(total, sum(there.values(), np.zeros(about.count, np.uint32)))


def test_who_leaves_after_it_sent_its_vector_is_in_the_sum() -> None:
    about = terms(5, 4)
    given = vectors(about, np.random.default_rng(2))
    total = summed(met(about), given, silent=["c"])
    assert np.array_equal(total, sum(given.values(), np.zeros(7, np.uint32)))
    few = {name: given[name] for name in "abcd"}
    refuses(
        lambda: summed(met(terms(5, 4)), few, silent=["d"]), "3 members opened", error=SumRefused
    )
    about = terms(6, 4)
    five = vectors(about, np.random.default_rng(3))
    del five["f"]
    refuses(
        lambda: summed(met(about), five, silent=["e"]), "e left before", "with f", error=SumRefused
    )


def test_no_vector_looks_like_itself() -> None:
    """What leaves a member has nothing to do with its numbers: zeros leave as noise.

    False alarm: one masked word in 50,000 being zero fewer than 1 or more than 20 times: < 1e-9.
    """
    about = terms(count=50_000)
    everybody = met(about)
    sent = masked(everybody, {name: np.zeros(50_000, np.uint32) for name in about.members})
    for answer in sent.values():
        assert np.count_nonzero(answer.vector == 0) < 20
        assert abs(float(answer.vector.mean()) / 2**31 - 1.0) < 0.02
    assert not np.array_equal(sent["a"].vector, sent["b"].vector)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": 2, "threshold": 2, "colluding": 0}, "2 members: of fewer than 3"),
        ({"threshold": 3}, "two sets could be unmasked in one step; use 4 to 5"),
        ({"threshold": 6}, "use 4 to 5"),
        ({"colluding": 4, "threshold": 5}, "leave nobody to hide among"),
        ({"count": 0}, "use 1 to"),
    ],
)
def test_terms_that_protect_nothing_are_refused(changes: dict[str, int], words: str) -> None:
    refuses(lambda: terms(**changes), words, error=SumRefused)
    with pytest.raises(SumRefused, match="named twice"):
        Terms(run="r", members=("a", "a", "b"), threshold=3, colluding=0, count=1)


def test_a_member_without_pinned_keys_does_not_begin() -> None:
    about = terms()
    everybody = members(about)
    public = {name: member.identity.public for name, member in everybody.items()}
    own = everybody["a"]
    del public["c"]
    refuses(
        lambda: type(own)("a", about, own.identity, public),
        "key of c is not pinned",
        error=SumRefused,
    )
    twice = {**public, "c": public["b"]}
    refuses(
        lambda: type(own)("a", about, own.identity, twice), "the same pinned key", error=SumRefused
    )


@pytest.mark.parametrize("change", [{"count": 8}, {"about": "other grid"}, {"threshold": 5}])
def test_peers_with_other_terms_do_not_meet(change: dict[str, object]) -> None:
    about = terms()
    everybody = members(about)
    told = hellos(everybody)
    other = type(everybody["e"])(
        "e", terms(**change), everybody["e"].identity, everybody["e"].peers
    )
    told["e"] = other.hello(1)
    refuses(
        lambda: everybody["a"].meet(told),
        "e: its key for this meeting is not signed",
        error=SumRefused,
    )


def test_a_wrong_share_is_noticed_and_named() -> None:
    about = terms(5, 4)
    everybody, given = met(about), vectors(about, np.random.default_rng(4))
    collector = Collector(about, 1, 1)
    for name, answer in masked(everybody, given).items():
        collector.add(name, answer)
    signed(collector, everybody)
    asked = collector.ask("a")
    asked.boxes["b"] = bytes(32)
    refuses(lambda: everybody["a"].open(asked), "the share of b does not verify", error=SumRefused)
    for answer in [everybody[name].open(collector.ask(name)) for name in "abcd"]:
        if answer.name == "d":
            answer.shares["c"] = bytes(16)
        collector.opened(answer.name, answer)
    refuses(collector.total, "the shares of c's mask do not verify", error=SumRefused)


def test_what_a_member_wrote_down_goes_on_where_it_was() -> None:
    """As a simulation does, whose members live in other processes from message to message."""
    about = terms(4, 3)
    everybody, given = met(about), vectors(about, np.random.default_rng(5))

    def moved() -> None:
        for name, member in everybody.items():
            text = member.to_json()
            everybody[name] = type(member)(name, about, member.identity, member.peers)
            everybody[name].restore(text)

    collector = Collector(about, 1, 1)
    moved()
    for name, answer in masked(everybody, given).items():
        collector.add(name, answer)
    moved()
    signed(collector, everybody)
    moved()
    opened(collector, everybody, collector.survivors)
    assert np.array_equal(collector.total(), sum(given.values(), np.zeros(7, np.uint32)))
    refuses(lambda: everybody["a"].mask(1, given["a"]), "a mask is used once", error=SumRefused)


def test_messages_come_back_from_text_and_nothing_else_does() -> None:
    about = terms(4, 3)
    everybody = met(about)
    note = everybody["a"].mask(1, np.zeros(7, np.uint32)).note
    assert Note.from_text(note.to_text()) == note
    told = hellos(everybody, meeting=2)
    assert read_hellos(hellos_text(told)) == told
    ask = Unmasking(step=1, survivors=["a"], signatures={"a": b"x"}, boxes={})
    assert Unmasking.from_text(ask.to_text()) == ask
    for text in (
        "",
        "[]",
        "{}",
        '{"name": 1, "step": 1, "signature": ""}',
        "[" * 100_000,
        '{"name": "a", "step": -1, "signature": ""}',
        '{"name": "a", "step": true, "signature": ""}',
        '{"name": "a", "step": 1, "signature": "0"}',
        "x" * (5 << 20),
    ):
        with pytest.raises(SumRefused):
            Signed.from_text(text)
    with pytest.raises(SumRefused):
        read_hellos(hellos_text({"b": told["a"]}))
    with pytest.raises(SumRefused):
        Opened.from_text('{"name": "a", "step": 1, "shares": [], "pairs": {}}')


def test_keys_are_read_or_refused() -> None:
    identity = Identity.new()
    assert read_public(identity.public_line + "\n") == identity.public
    assert Identity.from_pem(identity.pem).public == identity.public
    assert Identity.derived(b"s", "a").public == Identity.derived(b"s", "a").public
    assert Identity.derived(b"s", "a").public != Identity.derived(b"s", "b").public
    refuses(lambda: Identity.from_pem(b"nothing"), "no private key", error=SumRefused)
    refuses(lambda: read_public("fedmed-sum-ed25519 00"), "no public key", error=SumRefused)


def test_a_collector_takes_nothing_that_does_not_fit() -> None:
    about = terms(4, 3)
    everybody, given = met(about), vectors(about, np.random.default_rng(6))
    sent = masked(everybody, given)
    collector = Collector(about, 1, 1)
    collector.add("a", sent["a"])
    refuses(lambda: collector.add("a", sent["a"]), "added already", error=SumRefused)
    refuses(lambda: Collector(about, 1, 2).add("b", sent["b"]), "answers step 1", error=SumRefused)
    refuses(lambda: Collector(about, 2, 1).add("b", sent["b"]), "meeting 1", error=SumRefused)
    short = Masked(vector=np.zeros(3, np.uint32), note=sent["b"].note)
    refuses(lambda: collector.add("b", short), "another form", error=SumRefused)
    assert not collector.enough
    refuses(collector.total, "below the threshold of 3", error=SumRefused)


def test_shares_and_masks_have_known_answers() -> None:
    """The keystream is AES-256 in counter mode: its first block of NIST's SP 800-38A key."""
    told = {who: {"": share} for who, share in shares.split(b"x" * 16, 3, NAMES[:3]).items()}
    assert shares.joined(told, NAMES[:3]) == {"": b"x" * 16}
    words = np.zeros(4, np.uint32)
    masks.add(words, [(bytes(32), False)])
    assert words.tobytes().hex() == "dc95c078a2408989ad48a21492842087"  # AES-256 of zeros


def test_the_sum_loads_neither_flower_nor_torch() -> None:
    code = (
        "import sys, fedmed.secure_sum; print([m for m in ('flwr', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
