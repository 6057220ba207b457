"""What a run claims: its unit, the steps really taken, no epsilon that its noise cannot hold."""

import json
from typing import Any

import pytest
from support import goes_red, gradient_plan, make, update_plan

from fedmed.privacy.images import PixelLaplace
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.plan import ImagePlan, NoPrivacy, Plan
from fedmed.privacy.statement import Spend, statement

PLANS: dict[str, tuple[Plan, str, str]] = {
    "none": (NoPrivacy(), "none", "everyone"),
    "pixel-laplace": (ImagePlan(mechanism=PixelLaplace(2.0, 256)), "image", "nobody"),
    "dp-sgd": (gradient_plan(), "patient", "the hospital"),
    "local-update": (update_plan("hospital"), "hospital", "nobody"),
    "central-fixed": (update_plan("server"), "hospital", "the server"),
}


def state(arm: str, taken: int, source: NoiseSource | None = None, **train: Any) -> dict[str, Any]:
    plan = PLANS[arm][0]
    settings = make(privacy={"arm": arm}, train=train)
    spends = {"hospital-1": Spend(plan, taken), "hospital-2": Spend(plan, 1)}
    return statement(settings, spends, "name", source or NoiseSource())


@pytest.mark.parametrize("arm", PLANS)
@pytest.mark.parametrize("source", [NoiseSource(), NoiseSource(3)])
def test_every_statement_can_be_written_as_json(arm: str, source: NoiseSource) -> None:
    json.dumps(state(arm, 1, source), allow_nan=False)


@pytest.mark.parametrize("arm", PLANS)
def test_unit_and_trust_are_named(arm: str) -> None:
    plan, unit, trust = PLANS[arm]
    stated = state(arm, 1)
    assert (stated["unit"], stated["trust"]) == (unit, trust)
    assert unit_of(plan) == unit


@pytest.mark.parametrize("arm", [arm for arm in PLANS if arm != "none"])
def test_no_epsilon_is_claimed_against_who_knows_the_seed(arm: str) -> None:
    def check(stated: dict[str, Any]) -> None:
        assert stated["epsilon"] is None
        assert stated["delta"] is None
        assert stated["epsilon_without_knowledge_of_the_seed"] > 0

    check(state(arm, 1, NoiseSource(3)))
    goes_red(check, state(arm, 1, NoiseSource()))


def test_epsilon_is_of_the_steps_taken_at_the_hospital_that_took_most() -> None:
    def check(stated: dict[str, Any]) -> None:
        assert stated["epsilon"] == gradient_plan().epsilon(6)
        assert (stated["steps_planned"], stated["steps_taken"]) == (8, 6)

    check(state("dp-sgd", 6))
    goes_red(check, state("dp-sgd", 5))
    assert [h["steps"] for h in state("dp-sgd", 6)["hospitals"]] == [6, 1]


def test_images_noised_twice_cost_twice() -> None:
    once, twice = state("pixel-laplace", 1), state("pixel-laplace", 2)
    assert (once["epsilon"], once["epsilon_per_pixel"]) == (128, 0.5)
    assert (twice["epsilon"], twice["epsilon_per_pixel"]) == (256, 1.0)
    assert once["delta"] == 0
    assert any("labels" in line for line in once["not_covered"])


def test_without_privacy_nothing_is_claimed() -> None:
    stated = state("none", 0)
    assert stated["epsilon"] is None
    assert stated["hospitals"] == []
    assert "protects nobody" in stated["summary"]


def test_the_relation_matches_the_placement_of_the_noise() -> None:
    """Pitfall 31: at a hospital its data are replaced; it cannot be hidden that it takes part."""
    assert state("local-update", 1)["neighbouring"].startswith("replace one hospital's data")
    assert state("central-fixed", 1)["neighbouring"].startswith("zero out one hospital's update")
    assert state("dp-sgd", 1)["neighbouring"] == "add or remove one patient"


def test_a_pooled_run_trusts_who_holds_the_data() -> None:
    assert state("dp-sgd", 1, scheme="pooled")["trust"] == "whoever holds the pooled data"


@pytest.mark.parametrize("arm", [arm for arm in PLANS if arm != "none"])
def test_the_summary_names_epsilon_delta_unit_and_trust(arm: str) -> None:
    stated = state(arm, 1)
    for word in (f"epsilon = {stated['epsilon']:.3g}", "delta", stated["unit"], "trust"):
        assert word in stated["summary"]
