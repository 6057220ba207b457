"""Where a release of features goes wrong: each mistake's test, and broken code that fails it."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import goes_red
from support.probes import (
    EPSILON,
    hospital,
    plan_of,
    probe,
    sent,
    settings_of,
    two_films,
    with_other_films,
)

from fedmed.data.pools import Pool
from fedmed.data.shard import Shard
from fedmed.hospital import hospital as module
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
from fedmed.models.features import FeatureNetwork, standardise
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms import features as mechanism_module
from fedmed.privacy.mechanisms.features import LEVELS, FeatureLaplace, Released
from fedmed.privacy.mechanisms.geometric import excess, liar
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.training import released_features as released
from fedmed.training.cached_features import featured

SETTINGS = settings_of()
MECHANISM = plan_of(SETTINGS).mechanism
KNOWN = NoiseSource(1)  # the same noise again, so that what changes is the data


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    module._model.cache_clear()
    yield
    module._model.cache_clear()


def release(
    shard: Shard,
    network: FeatureNetwork | None = None,
    places: int = 12,
    member: str = "hospital-1",
) -> NDArray[Any]:
    """Rows (places, k + 1) of a first release with noise that is known: vectors and labels."""
    model, plan = network or probe(SETTINGS), plan_of(SETTINGS, places)
    with TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMED_HOME", home)
        made = released.released_features(
            model, shard, SETTINGS, plan, KNOWN, lambda *_: None, member=member
        )
    return np.column_stack([np.asarray(made.images), made.labels])


def rows_that_differ(first: NDArray[Any], second: NDArray[Any]) -> int:
    """In how many rows two releases differ, in whatever order they come."""
    ours, theirs = ({row.tobytes() for row in rows} for rows in (first, second))
    return max(len(ours - theirs), len(theirs - ours))


def paid(ledger: Ledger) -> float:
    """Pure epsilon of one patient that a ledger shows."""
    plans = {row.run: row.body["step"] for row in ledger.rows() if row.kind == "plan"}
    taken = [row.run for row in ledger.rows() if row.kind == "reserve"]
    return sum(1 / plans[run]["noise"] for run in taken)


def update(one: Hospital, network: FeatureNetwork, run: str = "a run", number: int = 1) -> bytes:
    """A round's update."""
    reply = one.train(run, number, *sent(network))
    assert reply.update is not None
    assert (reply.loss, reply.images) == (None, None)
    return b"".join(reply.update[name].numpy().tobytes() for name in sorted(reply.update))


def check_one_patient_changes_one_row(places: int = 12) -> None:
    whole, shard = release(two_films(), places=places), two_films()
    other = release(with_other_films(shard, "p3"), places=places)
    assert rows_that_differ(whole, other) == 1
    assert len(whole) == places


def test_a_projection_from_private_images_shows_them_in_everybodys_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_one_patient_changes_one_row()
    real = released._vectors

    def on_own(model: Any, shard: Shard, *rest: Any) -> Any:
        standardise(model, torch.from_numpy(np.array(featured(model, shard, 1).images)))
        return real(model, shard, *rest)

    monkeypatch.setattr(released, "_vectors", on_own)
    goes_red(check_one_patient_changes_one_row)


def test_a_patient_with_two_films_is_released_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_patient_changes_one_row(24)
    monkeypatch.setattr(Shard, "patients", lambda self: [np.array([i]) for i in range(len(self))])
    goes_red(check_one_patient_changes_one_row, 24)


def test_the_order_of_places_tells_nothing_of_who_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One patient less would move all later ones: the rows are a function of their set alone."""

    def check() -> None:
        rows = release(two_films(), places=12)
        steps = np.rint(rows[:, :-1] / MECHANISM.width).astype(np.int64)
        drawn = [
            Released(one, bool(label)).packed()
            for one, label in zip(steps, rows[:, -1], strict=True)
        ]
        assert drawn == sorted(drawn)
        assert len(set(drawn)) == 12

    check()
    monkeypatch.setattr(released, "sorted", list, raising=False)
    goes_red(check)


def test_empty_places_of_two_hospitals_are_not_alike() -> None:
    """Hospitals of a simulation share a pool: equal rows at two of them would be nobody's."""

    def check(other: str) -> None:
        ours, theirs = (release(two_films(), places=20, member=m) for m in ("hospital-1", other))
        patients = len(two_films().patients())
        assert rows_that_differ(ours, theirs) == 20 - patients

    check("hospital-2")
    goes_red(check, "hospital-1")


def test_how_many_there_are_is_fixed_in_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patient who is added takes one place, whether some are free or all are taken."""

    def check_a_patient_more_changes_one_row() -> None:
        shard = two_films()
        rows = np.flatnonzero(shard.table["patient_id"] != "p5")
        fewer = Shard("fewer", shard.images[rows], shard.table.iloc[rows].reset_index(drop=True))
        for places in (8, 12, 20):
            first, second = release(shard, places=places), release(fewer, places=places)
            assert len(first) == len(second) == places
            assert rows_that_differ(first, second) <= 1

    check_a_patient_more_changes_one_row()
    monkeypatch.setattr(
        released,
        "_taking_part",
        # By one permutation of all of them: pitfall 38.
        lambda shard, places: [
            ("", shard.patients()[i])
            for i in np.random.default_rng(0).permutation(len(shard.patients()))[:places]
        ],
    )
    goes_red(check_a_patient_more_changes_one_row)


def test_a_second_request_gets_the_first_ones_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another round, another run, and after a restart; and it costs nothing again."""

    def check_drawn_once(folder: Path) -> None:
        network = probe(SETTINGS)
        first = update(hospital(folder), network)
        assert update(hospital(folder), network, number=2) == first
        assert update(hospital(folder), network, "another run") == first
        assert paid(hospital(folder).ledger) == pytest.approx(EPSILON)

    check_drawn_once(tmp_path)

    def redrawn(self: Pool, items: Any, draw: Any) -> Any:
        return (draw(place) for place in range(len(items)))

    monkeypatch.setattr(Pool, "values", redrawn)
    monkeypatch.setattr(Pool, "new", lambda self, items: "always")
    goes_red(check_drawn_once, tmp_path / "again")


def check_vector_and_label_spend_what_is_charged() -> None:
    vector = 2 * LEVELS * MECHANISM.rate + excess(MECHANISM.rate, MECHANISM.bits, 3)
    lie = Fraction(liar(MECHANISM.label_epsilon).threshold, 1 << 256)
    label = math.log(float((1 - lie) / lie))
    assert vector + label <= MECHANISM.step.pure_epsilon()


def test_a_label_that_is_left_out_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    check_vector_and_label_spend_what_is_charged()
    monkeypatch.setattr(FeatureLaplace, "vector_epsilon", property(lambda self: self.epsilon))
    goes_red(check_vector_and_label_spend_what_is_charged)


def check_clipped_before_the_noise() -> None:
    """With the same noise, two patients' releases are as far apart as their clipped vectors."""
    near, far = np.array([0.1, 0.2, -0.1]), np.array([1e9, -1e12, 1e3])
    for key in "abc":
        moved = MECHANISM.release(far, True, KNOWN, key).steps
        moved = moved - MECHANISM.release(near, False, KNOWN, key).steps
        assert moved.tolist() == (MECHANISM.rounded(far) + MECHANISM.rounded(near)).tolist()
        assert np.abs(moved).sum() <= 2 * LEVELS
        # The furthest apart: the same films with the other label.
        both = [MECHANISM.release(far, label, KNOWN, key).steps for label in (True, False)]
        assert 1.999 * LEVELS < np.abs(both[0] - both[1]).sum() <= 2 * LEVELS


def test_a_vector_that_is_clipped_after_its_noise_or_never(monkeypatch: pytest.MonkeyPatch) -> None:
    check_clipped_before_the_noise()
    clipped, real = FeatureLaplace.rounded, FeatureLaplace.release

    def unbounded(self: FeatureLaplace, vector: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.trunc(np.clip(vector / self.width, -1e9, 1e9)).astype(np.int64)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureLaplace, "rounded", unbounded)
        goes_red(check_clipped_before_the_noise)

    def after(self: FeatureLaplace, vector: Any, answer: bool, *rest: Any) -> Released:
        noised = real(self, 0 * vector, answer, *rest)
        return Released(clipped(self, vector + self.vectors(noised.steps)), noised.answer)

    monkeypatch.setattr(FeatureLaplace, "release", after)
    goes_red(check_clipped_before_the_noise)


def test_noise_of_floats_has_low_bits_that_tell_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 25: every result that one value has, any other has too: whole steps of one grid."""

    def check_whole_steps() -> None:
        drawn = [MECHANISM.release(np.full(3, 0.1), True, KNOWN, str(n)).steps for n in range(50)]
        assert all(steps.dtype == np.int64 for steps in drawn)
        assert all((np.abs(steps) < 2 ** (MECHANISM.bits - 1)).all() for steps in drawn)

    check_whole_steps()
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        mechanism_module,
        "discrete_laplace",
        lambda values, rate, *_: values + rng.laplace(0, 1 / rate, values.shape),
    )
    goes_red(check_whole_steps)


def check_another_projection_is_paid_for(folder: Path) -> None:
    """Or anything else that a film goes through: a server may choose all of it."""
    update(hospital(folder), probe(SETTINGS))
    for place, public in enumerate((1, 2), start=2):
        update(hospital(folder), probe(SETTINGS, public=public), number=place - 1)
        assert paid(hospital(folder).ledger) == pytest.approx(place * EPSILON)
    moved = probe(SETTINGS)
    with torch.no_grad():
        moved.centre[0] += 1e-6
    update(hospital(folder), moved)
    assert paid(hospital(folder).ledger) == pytest.approx(4 * EPSILON)


def test_a_second_projection_for_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_another_projection_is_paid_for(tmp_path)
    pay = module._pay

    def once(ledger: Ledger, *rest: Any) -> None:
        if not ledger.rows():
            pay(ledger, *rest)

    monkeypatch.setattr(module, "_pay", once)
    goes_red(check_another_projection_is_paid_for, tmp_path / "once")


def test_a_server_that_sends_ten_projections_is_refused_at_the_limit(tmp_path: Path) -> None:
    """The policy's limit has room for one of epsilon 8, whichever comes first."""
    policy = Policy(maximum_epsilon=8.0, arms=["feature-laplace"])
    update(hospital(tmp_path, policy=policy), probe(SETTINGS))
    for public in range(1, 10):
        with pytest.raises(Refusal) as refusal:
            update(hospital(tmp_path, policy=policy), probe(SETTINGS, public=public))
        assert refusal.value.code == "policy"
    assert paid(hospital(tmp_path).ledger) == pytest.approx(EPSILON)
    # What was paid for is still to be had.
    update(hospital(tmp_path, policy=policy), probe(SETTINGS), "another run")


class Killed(BaseException):
    """The process ends."""


def test_noise_that_is_drawn_before_it_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever kills the process in time would have it for nothing."""

    def die(*_: object) -> None:
        raise Killed

    def check_paid(folder: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(FeatureLaplace, "release", die)
            with pytest.raises(Killed):
                update(hospital(folder), probe(SETTINGS))
        assert paid(hospital(folder).ledger) == pytest.approx(EPSILON)

    check_paid(tmp_path)
    # Nothing of it left, so that drawing it now is what was paid for.
    update(hospital(tmp_path), probe(SETTINGS))
    assert paid(hospital(tmp_path).ledger) == pytest.approx(EPSILON)
    real = released.released_features

    def afterwards(*given: Any, before: Any, **named: Any) -> Shard:
        heard: list[Any] = []
        made = real(*given, before=lambda *about: heard.append(about), **named)
        before(*heard[0])
        return made

    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "another home"))
    monkeypatch.setattr(module, "released_features", afterwards)
    goes_red(check_paid, tmp_path / "afterwards")


def test_another_film_or_label_of_a_known_patient_is_paid_for(tmp_path: Path) -> None:
    """Pitfall 28: a film that is added or encoded again opens no fresh budget."""
    update(hospital(tmp_path), probe(SETTINGS))
    shard = with_other_films(two_films(), "p3")
    update(hospital(tmp_path, shard=shard), probe(SETTINGS), "another run")
    assert paid(hospital(tmp_path).ledger) == pytest.approx(2 * EPSILON)
    assert {row.account for row in hospital(tmp_path).ledger.rows()} == {"hospital-1/patient"}


@pytest.mark.parametrize("factor", [1e15, 0.0, -1e-30])
def test_a_projection_made_to_overflow_changes_no_reply(factor: float, tmp_path: Path) -> None:
    network = probe(SETTINGS)
    with torch.no_grad():
        network.project *= factor
    numbers = np.frombuffer(update(hospital(tmp_path), network), dtype=np.float32)
    assert numbers.shape == (4,)
    assert np.isfinite(numbers).all()
