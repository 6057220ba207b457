"""How far one hospital may move the model: cut updates, cut weights, and nobody else hurt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import goes_red, gradient_plan, make, update_plan
from support.strategies import NAMES, answers, averaging, model

from fedmed.coordinator.bounds import HELD, Bounds, believed, capped, planned_bounds
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.privacy.mechanisms.updates import norm
from fedmed.privacy.plans import NoPrivacy, Plan

pytestmark = pytest.mark.usefixtures("flower_sender")


def reply(name: str, length: float, size: int = 4) -> Reply:
    """An update of this norm, the same number everywhere."""
    return Reply(name, {"w": torch.full((size,), length / size**0.5, dtype=torch.float64)})


def lengths(bounds: Bounds, sent: dict[str, float], own: float = 1.0) -> dict[str, float]:
    """Norms as they are taken in, in their order."""
    replies = [reply(name, length) for name, length in sent.items()]
    found = bounds.within(iter(replies), sent, lambda: own)
    return {r.hospital: norm(r.update or {}) for r in found}


def check_a_long_one_is_cut(bounds: Bounds) -> None:
    taken = lengths(bounds, {"a": 1.0, "b": 2.0, "hostile": 1e17})
    assert taken == pytest.approx({"a": 1.0, "b": 2.0, "hostile": 20.0})
    [one] = bounds.cut
    assert (one["hospital"], one["bound"]) == ("hostile", 20.0)
    assert one["norm"] == pytest.approx(1e17)


def test_an_update_is_at_most_a_multiple_of_the_others(tmp_path: Path) -> None:
    for spool in (None, tmp_path):
        check_a_long_one_is_cut(Bounds(10.0, spool=spool))
    goes_red(check_a_long_one_is_cut, Bounds(1e6 * 1e12))
    assert not list(tmp_path.iterdir()), "nothing is left on the disk"


def test_a_hostile_one_cannot_have_the_others_cut() -> None:
    """Neither by a huge update nor by none at all, wherever in the list it stands."""
    for hostile in (0.0, 1e-30, 1e30):
        for place in range(3):
            names = ["a", "b"]
            names.insert(place, "hostile")
            sent = {n: hostile if n == "hostile" else 1.0 for n in names}
            bounds = Bounds(10.0)
            for _ in range(3):
                taken = lengths(bounds, sent)
                assert taken["a"] == taken["b"] == pytest.approx(1.0)
                assert taken["hostile"] <= 10.0 + 1e-6


def test_of_two_a_silent_one_cannot_stop_the_other_and_a_loud_one_is_cut() -> None:
    assert lengths(Bounds(10.0), {"a": 3.0, "hostile": 0.0}, own=4.0)["a"] == 3.0
    assert lengths(Bounds(10.0), {"a": 3.0, "hostile": 0.1}, own=2.0)["a"] == pytest.approx(2.0)
    assert lengths(Bounds(10.0), {"a": 3.0, "hostile": 1e9}, own=2.0) == pytest.approx(
        {"a": 3.0, "hostile": 30.0}
    )
    assert lengths(Bounds(10.0), {"pooled": 1e9}, own=2.0) == {"pooled": 1e9}


def test_later_rounds_are_held_to_the_norms_as_they_were_taken_in() -> None:
    bounds = Bounds(10.0)
    for round_number in range(1, 6):
        taken = lengths(bounds, {"a": 1.0, "b": 1.0, "c": 1.5, "hostile": 1e3**round_number})
        assert taken["hostile"] <= 15.0 + 1e-6
    again = Bounds(10.0, norms=dict(bounds.norms))
    assert lengths(again, {"hostile": 1e9, "a": 1.0})["hostile"] == pytest.approx(10.0)


def test_no_update_waits_once_norms_are_known() -> None:
    """One at a time: the next is asked for when the one before has been dealt with."""

    def check(bounds: Bounds) -> None:
        seen = []

        def coming() -> Iterator[Reply]:
            for name in ("a", "b", "c"):
                seen.append(name)
                yield reply(name, 1.0)

        for number, _ in enumerate(bounds.within(coming(), ["a", "b", "c"], lambda: 1.0)):
            assert len(seen) == number + 1

    check(Bounds(10.0, norms={"a": 1.0, "b": 1.0, "c": 1.0}))
    goes_red(check, Bounds(10.0))


def test_a_first_round_of_many_keeps_few_waiting(tmp_path: Path) -> None:
    sent = {f"h{n:02d}": 1.0 + n / 100 for n in range(30)} | {"hostile": 1e9}
    on_disk = []

    def coming() -> Iterator[Reply]:
        for name, length in sent.items():
            on_disk.append(sum(1 for path in tmp_path.rglob("*") if path.is_file()))
            yield reply(name, length)

    bounds = Bounds(10.0, spool=tmp_path)
    order = [r.hospital for r in bounds.within(coming(), sent, lambda: 1.0)]
    assert order == list(sent), "the order is the hospitals', or sums would differ"
    assert max(on_disk) == HELD
    assert [one["hospital"] for one in bounds.cut] == ["hostile"]
    assert not list(tmp_path.iterdir())


def test_arrays_come_back_from_the_disk_as_they_went(tmp_path: Path) -> None:
    sent = [
        Reply(n, {"z": torch.randn(3, 2), "a": torch.randn(()), "m": torch.zeros(0)}, 0.5, 7)
        for n in ("x", "y", "z")
    ]
    assert sent[1].update is not None
    sent[1].update["m"] = sent[1].update["z"][:0]  # equal arrays of a message share their memory
    sent[1].update["a"] = sent[1].update["z"][0, 0]
    found = list(Bounds(10.0, spool=tmp_path).within(iter(sent), "xyz", lambda: 1.0))
    for before, after in zip(sent, found, strict=True):
        assert (after.hospital, after.loss, after.images) == (before.hospital, 0.5, 7)
        assert before.update is not None
        assert after.update is not None
        assert list(after.update) == ["z", "a", "m"]
        assert all(torch.equal(after.update[n], v) for n, v in before.update.items())


# Through a strategy.


def hostile_answers(length: float) -> list[Any]:
    update = {"w": torch.full((2,), length), "b": torch.full((1,), length)}
    given = answers()
    bad = messages.update_content(Reply(NAMES[2], update))
    return [m if m.metadata.src_node_id != 4 else _with(m, bad) for m in given]


def _with(message: Any, content: Any) -> Any:
    message.content = content
    return message


@pytest.mark.parametrize("length", [1e3, 1e17, -1e3])
def test_a_huge_update_moves_the_model_no_further_than_the_bound(length: float) -> None:
    """1e17 was checkpointed, and 1e3 moved a norm of 2.4 to 17,464 without a word."""

    def check(factor: float) -> None:
        strategy = averaging(**{"on-failure": "continue"})
        strategy.bounds = Bounds(factor)
        strategy.aggregate_train(1, hostile_answers(length))
        moved = np.linalg.norm(np.subtract(model(strategy), [1.0, 2.0, 10.0]))
        assert moved < 20
        assert [one["hospital"] for one in strategy.report.cut] == [NAMES[2]]
        assert strategy.report.hospitals == 3
        assert strategy.report.norms[NAMES[2]] == pytest.approx(40.0)

    check(10.0)
    goes_red(check, 1e30)


def test_honest_updates_are_the_same_with_and_without_a_bound(tmp_path: Path) -> None:
    plain, bounded = averaging(), averaging()
    bounded.bounds = Bounds(10.0, spool=tmp_path)
    for strategy in (plain, bounded):
        strategy.aggregate_train(1, answers())
    assert model(plain) == model(bounded) == [-1.0, 5.0, 13.0]
    assert bounded.report.cut == []


# Where a plan says how long an update can be.


def check_planned(bounds: dict[str, float], plan: Any, dimension: int) -> None:
    """Updates of norm C with the plan's noise are within, and four times as much is not."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(200, dimension, generator=generator) * plan.noise_standard_deviation
    noise[:, 0] += plan.clipping_norm
    sizes = noise.norm(dim=1)
    assert float(sizes.max()) <= bounds["h"]
    assert 4 * float(sizes.max()) > bounds["h"], "a bound that bounds nothing"


@pytest.mark.parametrize("dimension", [10, 1000])
def test_local_update_is_bounded_by_clipping_norm_and_noise(dimension: int) -> None:
    """False alarms of 200 draws: below 2e-7 by the tail that the bound allows (1e-9 each)."""
    plan = update_plan("hospital", clipping_norm=0.5)
    settings = make(privacy={"arm": "local-update"})
    found = planned_bounds(settings, {"h": plan}, dimension)
    check_planned(found, plan, dimension)
    goes_red(check_planned, {"h": 0.5}, plan, dimension)
    strategy_bounds = Bounds(1e3, lambda: found)
    taken = lengths(strategy_bounds, {"h": 1e9, "other": 1.0, "third": 1.0})
    assert taken["h"] == pytest.approx(found["h"])


def test_dp_sgd_is_bounded_by_its_steps_where_nothing_else_moves_the_model() -> None:
    """50 runs of 8 steps of momentum SGD on gradients of norm C; each exceeds with 2e-9 at most."""
    plan = gradient_plan(steps_per_round=8, noise_multiplier=0.7, clipping_norm=2.0)
    settings = make(
        privacy={"arm": "dp-sgd"}, train={"momentum": 0.8, "learning-rate": 0.1, "batch-size": 6}
    )
    dimension = 500
    found = planned_bounds(settings, {"h": plan}, dimension)["h"]
    generator = torch.Generator().manual_seed(5)
    moved = []
    for _ in range(50):
        at, speed = torch.zeros(dimension), torch.zeros(dimension)
        for _ in range(8):
            units = torch.poisson(torch.tensor([6.0]), generator=generator)
            signal = torch.zeros(dimension)
            signal[0] = 2.0 * units
            noise = plan.noise_standard_deviation * torch.randn(dimension, generator=generator)
            speed = 0.8 * speed + (signal + noise) / plan.expected_batch
            at = at - 0.1 * speed
        moved.append(float(at.norm()))
    assert max(moved) <= found
    assert found < 5 * max(moved)
    for other in ({"optimizer": "adam"}, {"weight-decay": 0.1}, {"proximal": 0.1}):
        changed = make(privacy={"arm": "dp-sgd"}, train=other)
        assert planned_bounds(changed, {"h": plan}, dimension) == {}


def test_arms_without_a_bound_of_their_own_have_none() -> None:
    plans: dict[str, Plan] = {"a": NoPrivacy(), "b": update_plan("server")}
    assert planned_bounds(make(), plans, 10) == {}


# Declared sizes.


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ({"a": 24, "b": 24, "c": 999}, 0.5, {"a": 0.25, "b": 0.25, "c": 0.5}),
        ({"a": 24, "b": 24, "c": 999}, 1.0, {"a": 24 / 1047, "b": 24 / 1047, "c": 999 / 1047}),
        ({"a": 1000, "b": 10}, 0.5, {"a": 0.5, "b": 0.5}),
        ({"a": 1000, "b": 900, "c": 10, "d": 5}, 0.4, {"a": 0.4, "b": 0.4, "c": 2 / 15}),
        ({"a": 500, "b": 300, "c": 300}, 0.5, {"a": 5 / 11}),
        ({"a": 5, "b": 5, "c": 5}, 1 / 3, {"a": 1 / 3}),
        ({"a": 9}, 0.5, {"a": 1.0}),
    ],
)
def test_no_hospital_has_more_than_its_share_of_the_weight(
    sizes: dict[str, int], share: float, expected: dict[str, float]
) -> None:
    def check(weights: dict[str, float]) -> None:
        total = sum(weights.values())
        for name, value in expected.items():
            assert weights[name] / total == pytest.approx(value)

    check(capped(sizes, share))
    if share < 0.6 and max(sizes.values()) > 900:
        goes_red(check, {name: float(size) for name, size in sizes.items()})


def test_random_sizes_are_capped_and_the_small_keep_theirs() -> None:
    draw = np.random.default_rng(8)
    for _ in range(300):
        count = int(draw.integers(1, 9))
        sizes = {str(n): int(draw.integers(1, 10 ** draw.integers(1, 8))) for n in range(count)}
        share = float(draw.uniform(0.05, 1))
        weights = capped(sizes, share)
        largest = max(weights.values()) / sum(weights.values())
        assert largest <= max(share, 1 / count) * (1 + 1e-9)
        if share * count > 1:
            below = [n for n in sizes if weights[n] < max(weights.values())]
            assert all(weights[n] == sizes[n] for n in below)


def test_a_size_is_believed_up_to_a_multiple_of_the_others() -> None:
    assert believed({"a": 24, "b": 30, "c": 10**9}, 10.0) == {"a": 24.0, "b": 30.0, "c": 300.0}
    assert believed({"a": 24}, 10.0) == {"a": 24.0}
