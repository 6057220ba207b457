"""A hospital's part of a sum: what leaves it whatever its data are like, and its site's keys."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import make, refuses, summed_plan, tiny_network, tiny_shard
from support.sums import hellos, members, terms

from fedmed.base.errors import UserError
from fedmed.hospital import rounds
from fedmed.hospital.guard.sums import GuardSums
from fedmed.hospital.rounds import Round
from fedmed.hospital.secure_sums import answer
from fedmed.models import trainable
from fedmed.privacy.mechanisms.grid import Vector
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.secure_sum import Identity, NotMet, SumRefused, Unmasking, hellos_text
from fedmed.site.file import read_site
from fedmed.site.sum_keys import read_identity, read_peers, template


def stepped(plan: Any, source: NoiseSource | None = None) -> tuple[Vector, int]:
    model = tiny_network()
    shard = tiny_shard()
    parameters = {n: p.detach().clone() for n, p in trainable(model).items()}
    settings = make(privacy={"arm": "central-dp-sgd"})
    units = len(shard.patients())
    plan = summed_plan(plan, units=units, rate=1.0)
    turn = Round("hospital-1", settings, plan, source or NoiseSource(3), 1)
    count = sum(value.numel() for value in parameters.values())
    return turn.step(model, shard, parameters, plan), count


def test_a_share_of_noise_is_on_what_leaves_and_at_the_server_none() -> None:
    exact, count = stepped("server")
    assert exact.shape == (count,)
    assert exact.dtype == np.uint32
    assert np.array_equal(exact, stepped("server")[0])
    noised, _ = stepped("shares")
    assert not np.array_equal(noised, exact)
    noise = (noised - exact).view(np.int32).astype(float)
    wanted = summed_plan("shares").grid(count).deviation
    # 5 standard deviations of a variance of so many draws: false alarm 6e-7.
    assert noise.std() / wanted == pytest.approx(1, abs=5 / np.sqrt(2 * count))


@pytest.mark.parametrize("placement", ["server", "shares"])
def test_pitfall_36_what_goes_wrong_with_the_data_leaves_as_a_sum_of_nobody(
    placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise FloatingPointError("a film that overflows")

    monkeypatch.setattr(rounds, "clipped_sum", broken)
    vector, count = stepped(placement)
    assert vector.shape == (count,)
    assert bool(vector.any()) == (placement == "shares")  # noise all the same

    def overflowing(model: Any, *_: Any) -> Any:
        sums = {n: torch.full_like(p, float("inf")) for n, p in trainable(model).items()}
        return sums, rounds.LocalResult(1, None)

    monkeypatch.setattr(rounds, "clipped_sum", overflowing)
    assert bool(stepped(placement)[0].any()) == (placement == "shares")


def site(folder: Path, *others: str) -> Any:
    """A site's file, its key, and the pinned keys of its peers ``others``."""
    identity = Identity.new()
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "sum.key").write_bytes(identity.pem)
    peers = {name: Identity.derived(b"peers", name) for name in others}
    lines = [f'"{name}" = "{peer.public_line}"' for name, peer in peers.items()]
    (folder / "sum-peers.toml").write_text(
        "\n".join([template("a", identity.public_line), *lines, ""])
    )
    (folder / "site.toml").write_text(
        'name = "a"\npolicy = "p.toml"\nledger = "state/l.sqlite"\nsocket = "g.sock"\n'
        '[data]\nsource = "phantom"\n'
    )
    return read_site(folder / "site.toml")


def test_a_site_s_keys_are_its_own_and_those_it_pinned(tmp_path: Path) -> None:
    own = site(tmp_path, "b", "c")
    assert set(read_peers(own)) == {"b", "c"}
    assert read_peers(own)["b"] == Identity.derived(b"peers", "b").public
    assert GuardSums(own).names(make()) == ["a", "b", "c"]
    path = tmp_path / "sum-peers.toml"
    text = path.read_text()
    path.write_text(text + '"d" = "ssh-ed25519 AAAA"\n')
    refuses(lambda: read_peers(own), "sum-peers.toml: d:", "no public key", "ask d for it")
    path.write_text(text + f'"d" = "{Identity.derived(b"peers", "b").public_line}"\n')
    refuses(lambda: read_peers(own), "b and d have the same key; ask both again")
    path.write_text(text + '"d" = 1\n')
    refuses(lambda: read_peers(own), "write d =")
    (tmp_path / "state" / "sum.key").write_text("nothing")
    refuses(lambda: read_identity(own), "sum.key: it holds no private key", "fedmed site init")
    (tmp_path / "state" / "sum.key").unlink()
    refuses(lambda: read_identity(own), "sum.key", "fedmed site init", error=UserError)


def test_a_guard_that_begins_again_has_no_keys_and_says_so(tmp_path: Path) -> None:
    about = terms(3, 3, 1)
    own = site(tmp_path, "b", "c")
    guard = GuardSums(own)
    public = {"a": read_identity(own).public} | {
        name: Identity.derived(b"peers", name).public for name in "bc"
    }
    others = {
        name: type(members(about)["a"])(name, about, Identity.derived(b"peers", name), public)
        for name in "bc"
    }
    told = hellos(others)
    with guard.opened(about, "a") as member:
        answer(member, "hello", "1")
        told["a"] = member.hello(2)
    for name in others:
        told[name] = others[name].hello(2)
    with guard.opened(about, "a") as member:
        assert answer(member, "meet", hellos_text(told)) == "{}"
        member.mask(1, np.zeros(7, np.uint32))
    with guard.opened(about, "a") as member:
        asked = Unmasking(step=1, survivors=["a", "b", "c"], signatures={}, boxes={})
        assert '"signature"' in answer(member, "sign", asked.to_text())
        refuses(lambda: answer(member, "open", asked.to_text()), "0 signatures", error=SumRefused)
        refuses(lambda: answer(member, "hello", "x"), "no number", error=SumRefused)
    again = GuardSums(own)
    with again.opened(about, "a") as member:
        refuses(lambda: member.mask(2, np.zeros(7, np.uint32)), "not met", error=NotMet)
    with again.opened(terms(3, 3, 1, count=9), "a") as member:
        assert member.terms.count == 9  # another sum of the run: nothing of the first is kept
        refuses(lambda: member.mask(2, np.zeros(9, np.uint32)), "not met", error=NotMet)
