"""The table of arms, and that its facts are those of the plans which are made from it."""

import dataclasses

import pytest
from support import needed_by

from fedmed.config import ARMS, READ_BY, Settings
from fedmed.config.arms import Arm
from fedmed.privacy.mechanisms.images import MECHANISMS
from fedmed.privacy.plans import (
    FeaturePlan,
    GradientPlan,
    ImagePlan,
    NoPrivacy,
    Plan,
    SummedPlan,
    UnnoisedPlan,
    UpdatePlan,
)
from fedmed.privacy.plans.making import make_plan
from fedmed.privacy.statement.facts import neighbours

PLANS = {
    "none": NoPrivacy,
    "image": ImagePlan,
    "features": FeaturePlan,
    "gradient": GradientPlan,
    "unnoised": UnnoisedPlan,
    "summed": SummedPlan,
    "update": UpdatePlan,
}


def plan_of(name: str) -> Plan:
    own = {"privacy.arm": name, "privacy.epsilon": 8.0, "privacy.delta": 1e-3}
    own["data.hospitals"] = 5
    return make_plan(Settings().replaced(own | needed_by(name)), 500, "hospital-1")


def agrees(row: Arm, plan: Plan) -> None:
    facts = plan.facts("federated")
    assert isinstance(plan, PLANS[row.plan])
    assert row.protects == (facts.unit != "none")
    assert row.at_server == (plan.payer == "server")
    assert (row.noise,) == (facts.noise or (row.noise,))
    if row.protects:
        assert facts.unit in row.unit
        assert neighbours(facts.unit, facts.relation, facts.changes) in row.relation
        assert all(party in row.trusted for party in facts.trusted)
        assert (row.trusted == "nobody") == (not facts.trusted)
    else:
        assert row.unit == row.relation == "none"
        assert row.trusted == "everyone" == facts.trusted[0]
        assert row.unclaimed


@pytest.mark.parametrize("name", list(ARMS))
def test_a_row_tells_what_its_plan_promises(name: str) -> None:
    """Rows decide who noises, plans what is counted: both say the same."""
    agrees(ARMS[name], plan_of(name))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("central-fixed", {"noise": "updates"}),
        ("local-update", {"noise": "sum"}),
        ("brightness-shift", {"protects": True}),
        ("dp-sgd", {"trusted": "nobody"}),
        ("local-update", {"relation": "zero out one hospital's update"}),
        ("pixel-laplace", {"plan": "update"}),
    ],
)
def test_a_row_that_tells_something_else_is_found(name: str, change: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        agrees(dataclasses.replace(ARMS[name], **change), plan_of(name))  # type: ignore[arg-type]  # by name


def test_only_arms_that_noise_at_the_hospital_are_a_sites_own_choice() -> None:
    assert [arm.name for arm in ARMS.values() if arm.own] == [
        *("pixel-laplace", "dp-pix", "feature-laplace", "dp-sgd", "local-update")
    ]
    assert all(arm.noised_at_home for arm in ARMS.values() if arm.own)


def test_every_key_that_an_arm_reads_is_a_key() -> None:
    assert set(READ_BY) <= set(Settings().to_flat())
    assert READ_BY["privacy.cell"] == ("dp-pix",)
    assert "none" not in READ_BY["privacy.epsilon"]


def test_every_arm_that_noises_images_has_its_mechanism_and_no_other_has() -> None:
    assert list(MECHANISMS) == [arm.name for arm in ARMS.values() if arm.plan == "image"]
