"""The plans of all members from the cohort's rows: caps, declared sizes, units, policies."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import accepted_choices, goes_red, make, needed_by, refuses, use_tiny_models

from fedmed.base.errors import UserError
from fedmed.config import ARMS, Data, Settings
from fedmed.data import network as network_module
from fedmed.data.cohort import Cohort, validate
from fedmed.data.network import Network, load_network
from fedmed.data.stores import ArrayStore
from fedmed.federation import members
from fedmed.federation.members import (
    epsilon_after,
    make_member_plan,
    make_plans,
    member_shard,
    patients_of,
    public_sizes,
    units_of,
)
from fedmed.privacy import accounting
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.plans import Plan, part
from fedmed.privacy.plans.making import GradientPlan

SETTINGS = make(
    data={"patients": 60, "hospitals": 2},
    train={"rounds": 2, "batch-size": 8, "local-epochs": 1.0},
    privacy={"arm": "dp-sgd", "delta": 1e-3},
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_tiny_models(monkeypatch)
    yield
    load_network.cache_clear()
    network_module.training_shard.cache_clear()


def gradient(plan: Plan) -> GradientPlan:
    found = part(plan, GradientPlan)
    assert found is not None
    return found


def films(monkeypatch: pytest.MonkeyPatch, patients: list[str | None]) -> Settings:
    """One hospital with one film for each entry, all of them for training."""
    table = pd.DataFrame(
        {
            "image": [f"x/{row}" for row in range(len(patients))],
            "label": [row % 2 for row in range(len(patients))],
            "patient_id": pd.Series(patients, dtype="string"),
            "split": "train",
        }
    )
    pixels = np.random.default_rng(0).integers(0, 256, (len(table), 16, 16), dtype=np.uint8)
    cohort = Cohort("made", validate(table, "made"), ArrayStore({"x": pixels}))

    def in_one_hospital(table: pd.DataFrame, data: Data) -> pd.Series:
        return pd.Series("hospital-1", index=table.index)

    def separate(cohort: Cohort, data: Data) -> Cohort:
        own = pd.Series([f"unknown-{r}" for r in range(len(cohort))], dtype="string")
        known = cohort.table["patient_id"]
        return cohort.with_table(cohort.table.assign(patient_id=known.fillna(own)))

    monkeypatch.setattr(network_module, "load", lambda data: cohort)
    monkeypatch.setattr(network_module, "assign_splits", separate)
    monkeypatch.setattr(network_module, "assign_hospitals", in_one_hospital)
    load_network.cache_clear()
    network_module.training_shard.cache_clear()
    return SETTINGS.replaced({"data.hospitals": 1, "data.unknown-patients": "separate"})


# The cap on images of one patient.

SIX_OF_A = ["a", "a", "b", "a", "a", "c", "a", "b", "a"]


@pytest.mark.parametrize("cap", [1, 2, 4])
def test_no_shard_holds_more_of_a_patient_than_the_cap(
    cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = films(monkeypatch, SIX_OF_A).replaced(
        {"privacy.unit": "image", "privacy.images-per-patient": cap, "train.batch-size": 1}
    )

    def check() -> None:
        shard = member_shard(settings, "hospital-1")
        counts = shard.table["patient_id"].value_counts().to_dict()
        assert counts == {"a": min(6, cap), "b": min(2, cap), "c": 1}
        assert len(shard.images) == len(shard.table)
        plan = gradient(make_member_plan(settings, "hospital-1"))
        assert plan.units == units_of(settings, "hospital-1") == len(shard)
        assert plan.images_per_patient == cap

    check()
    original = Network.training
    monkeypatch.setattr(Network, "training", lambda self, name, cap=0: original(self, name))
    network_module.training_shard.cache_clear()
    goes_red(check)


def test_which_images_are_kept_is_decided_by_the_patients_own_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one patient's images would decide about another's, and one more patient costs more."""
    cap = {"privacy.unit": "image", "privacy.images-per-patient": 2, "train.batch-size": 1}
    settings = films(monkeypatch, SIX_OF_A).replaced(cap)
    kept = member_shard(settings, "hospital-1").table
    without_b = ["a" if p == "a" else "d" for p in SIX_OF_A]
    other = films(monkeypatch, list(without_b)).replaced(cap)
    again = member_shard(other, "hospital-1").table
    mine = set(kept[kept["patient_id"] == "a"]["image"])
    assert mine == set(again[again["patient_id"] == "a"]["image"])
    assert len(mine) == 2


def test_the_cap_bounds_what_a_patient_can_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = films(monkeypatch, [f"p{n // 3}" for n in range(30)]).replaced(
        {"privacy.unit": "image", "privacy.images-per-patient": 3, "train.batch-size": 3}
    )
    plan = make_member_plan(settings, "hospital-1")
    assert plan.unit == "image"
    patient, image = plan.per_patient(), plan.epsilon()
    assert patient is not None
    assert image is not None
    assert image <= 8 < patient
    fewer = settings.replaced({"privacy.images-per-patient": 2})
    two = make_member_plan(fewer, "hospital-1").per_patient()
    assert two is not None
    assert two < patient


# Patients whom nobody knows.


def test_unknown_patients_refuse_the_patient_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = films(monkeypatch, ["a", "b", None, None, "c"] * 4)

    def check() -> None:
        refuses(
            lambda: make_member_plan(settings, "hospital-1"),
            "privacy.unit = 'patient'",
            "8 images of made have no patient",
            "privacy.unit = 'image'",
        )

    check()
    remedy = {"privacy.unit": "image", "privacy.images-per-patient": 4}
    assert make_member_plan(settings.replaced(remedy), "hospital-1").unit == "image"
    known = dataclasses.replace(load_network(settings.data), unknown_patients=0)
    monkeypatch.setattr(members, "load_network", lambda data: known)
    goes_red(check)


def test_other_arms_take_unknown_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = films(monkeypatch, ["a", None])
    hospital_unit = settings.replaced({"privacy.arm": "local-update", "privacy.delta": 0.5})
    assert make_member_plan(hospital_unit, "hospital-1").unit == "hospital"


# Declared sizes.


def test_a_declared_size_takes_the_place_of_the_exact_one() -> None:
    exact = gradient(make_member_plan(SETTINGS, "hospital-1"))
    assert exact.units == units_of(SETTINGS, "hospital-1") == patients_of(SETTINGS, "hospital-1")
    declared = SETTINGS.replaced({"privacy.public-size": "hospital-1=40,hospital-2=30"})

    def check(settings: Settings) -> None:
        plans = {name: gradient(plan) for name, plan in make_plans(settings).items()}
        assert {name: plan.units for name, plan in plans.items()} == {
            "hospital-1": 40,
            "hospital-2": 30,
        }
        assert plans["hospital-1"].sampling_rate == 8 / 40
        assert plans["hospital-1"].steps_per_round == 5
        assert all(plan.declared for plan in plans.values())

    check(declared)
    goes_red(check, SETTINGS)
    assert public_sizes(declared) == {"hospital-1": 40, "hospital-2": 30}


@pytest.mark.parametrize("arm", list(ARMS))
def test_sizes_weigh_where_nothing_is_protected_or_they_are_declared(arm: str) -> None:
    """Sabotage: an arm that protects sizes weighs by the true ones."""
    by_size = {"train.weighting": "size", "privacy.arm": arm, "privacy.epsilon": 8.0}
    by_size |= needed_by(arm)
    sizes = "hospital-1=40,hospital-2=30"
    if ARMS[arm].one_noise:
        for declared in ("", sizes):
            with pytest.raises(UserError, match=r"train\.weighting.*use 'equal'"):
                SETTINGS.replaced({**by_size, "privacy.public-size": declared})
    elif ARMS[arm].protects:
        with pytest.raises(UserError, match=r"train\.weighting.*privacy\.public-size"):
            SETTINGS.replaced(by_size)
        settings = SETTINGS.replaced({**by_size, "privacy.public-size": sizes})
        assert public_sizes(settings) == {"hospital-1": 40, "hospital-2": 30}
    else:
        settings = SETTINGS.replaced(by_size)
        images = {name: len(member_shard(settings, name)) for name in ("hospital-1", "hospital-2")}
        assert public_sizes(settings) == images
        assert 40 not in images.values()


def test_a_hospitals_own_policy_declares_its_size(tmp_path: Path) -> None:
    (tmp_path / "hospital-1.toml").write_text("public-size = 55\n")
    plans = make_plans(SETTINGS.replaced({"run.policies": str(tmp_path)}))
    assert gradient(plans["hospital-1"]).units == 55
    assert gradient(plans["hospital-2"]).units == units_of(SETTINGS, "hospital-2")
    given = make_member_plan(SETTINGS, "hospital-2", Policy(public_size=66))
    assert gradient(given).units == 66


# The limit on a step's noise.


def limited(**changes: Any) -> Settings:
    return SETTINGS.replaced(
        {
            "privacy.public-size": "400",
            "train.rounds": 6,
            "privacy.epsilon": 2.0,
            "privacy.delta": 1e-4,
            **changes,
        }
    )


def test_a_plan_of_noise_alone_is_impossible_and_what_is_proposed_is_accepted() -> None:
    parameters = members.trained_parameters(SETTINGS.model, 16)
    assert parameters == 305
    plan = make_member_plan(limited(), "hospital-1")
    ratio = plan.noise_to_signal(parameters)
    assert ratio is not None
    key = "privacy.maximum-noise-to-signal"
    make_member_plan(limited(**{key: ratio * 1.001}), "hospital-1")
    settings = limited(**{key: ratio * 0.8})
    refuses(
        lambda: make_member_plan(settings, "hospital-1"),
        f"hospital-1: the noise of a step is {ratio:.3g} times its signal",
        key,
    )
    found = accepted_choices(settings, lambda changed: make_member_plan(changed, "hospital-1"))
    assert sorted(found) == ["privacy.epsilon", "train.batch-size", "train.rounds"]


def test_a_limit_that_nothing_reaches_says_so() -> None:
    settings = limited(**{"privacy.maximum-noise-to-signal": 1e-6})
    refuses(
        lambda: make_member_plan(settings, "hospital-1"),
        "above privacy.maximum-noise-to-signal = 1e-06; ",
    )
    quiet = settings.replaced({"privacy.arm": "none"})
    make_member_plan(quiet, "hospital-1")


# Policies.


def test_a_policy_that_belongs_to_no_hospital_is_refused(tmp_path: Path) -> None:
    """A misspelt name would leave a hospital without its limit."""
    settings = SETTINGS.replaced({"run.policies": str(tmp_path)})
    (tmp_path / "hospital-2.toml").write_text("maximum-epsilon = 20\n")
    (tmp_path / "pooled.toml").write_text("maximum-epsilon = 20\n")

    def check() -> None:
        refuses(
            lambda: make_plans(settings),
            "hospital-3.toml belongs to no hospital",
            "hospital-1, hospital-2",
        )

    goes_red(check)  # the two names above are right
    (tmp_path / "hospital-3.toml").write_text("maximum-epsilon = 20\n")
    check()


def test_a_policy_that_cannot_be_read_stops_the_plan(tmp_path: Path) -> None:
    settings = SETTINGS.replaced({"run.policies": str(tmp_path)})
    (tmp_path / "hospital-1.toml").write_text("maximum_epsilon = 20\n")
    refuses(lambda: make_plans(settings), "hospital-1.toml", "maximum_epsilon", "maximum-epsilon")
    absent = SETTINGS.replaced({"run.policies": str(tmp_path / "none")})
    refuses(lambda: make_plans(absent), "run.policies", "no such folder")


@pytest.mark.parametrize("target", [2.0, 8.0])
def test_equal_hospitals_get_the_same_noise_and_others_their_own(target: float) -> None:
    settings = SETTINGS.replaced(
        {
            "privacy.public-size": "hospital-1=400,hospital-2=200",
            "privacy.epsilon": target,
        }
    )
    plans = {name: gradient(plan) for name, plan in make_plans(settings).items()}
    for plan in plans.values():
        assert 0.99 * target < plan.epsilon() <= target
        found = accounting.epsilon(
            plan.noise_multiplier, plan.sampling_rate, plan.steps, plan.delta
        )
        assert found == plan.epsilon()
    assert plans["hospital-1"].noise_multiplier < plans["hospital-2"].noise_multiplier


def test_epsilon_after_a_round_is_that_of_the_worst_member() -> None:
    """By the mistakes: an equal share per round, one member's plan, one round's epsilon."""
    plans = make_plans(SETTINGS.replaced({"train.rounds": 4}))
    settings = SETTINGS.replaced({"train.rounds": 4})
    found = [epsilon_after(settings, plans.values(), number) for number in range(5)]
    for number, value in enumerate(found):
        each = [gradient(p).epsilon(number * p.steps_per_round) for p in plans.values()]
        assert value == max(each)
    assert found[0] == 0
    assert found[4] is not None
    assert found[1] is not None
    assert found[1] > found[4] / 4


def test_long_runs_have_fifty_points_of_epsilon_and_the_last() -> None:
    settings = SETTINGS.replaced({"train.rounds": 120})
    plans = [SimplePlan()]
    known = [n for n in range(121) if epsilon_after(settings, plans, n) is not None]  # type: ignore[arg-type]  # plans of one kind; SimplePlan has what is read
    assert known == list(range(0, 121, 3))
    assert epsilon_after(settings.replaced({"train.rounds": 121}), plans, 121) == 121  # type: ignore[arg-type]  # plans of one kind; SimplePlan has what is read


def test_noise_that_can_be_repeated_spends_nothing_that_is_claimed() -> None:
    settings = SETTINGS.replaced({"privacy.reproducible-noise": True})
    assert epsilon_after(settings, [SimplePlan()], 2) is None  # type: ignore[list-item]  # plans of one kind; SimplePlan has what is read


@dataclasses.dataclass
class SimplePlan:
    """One step a round, each of epsilon 1."""

    steps: int = 1000
    steps_per_round: int = 1
    delta: float = 0.0

    def epsilon(self, taken: int, delta: float | None = None) -> float:
        return float(taken)

    def facts(self, scheme: str) -> str:
        return scheme
