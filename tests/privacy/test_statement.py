"""What a run claims: its unit, the steps really taken, no epsilon that its noise cannot hold."""

import json
from typing import Any

import pytest
from pydantic import ValidationError
from support import (
    ADAPTIVE,
    goes_red,
    gradient_plan,
    make,
    needed_by,
    summed_plan,
    update_plan,
)

from fedmed.config import ARMS
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.features import FeatureLaplace
from fedmed.privacy.mechanisms.images import BrightnessShift, DPPix, PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import Mechanism, gaussian, group_gaussian, laplace
from fedmed.privacy.plans.making import (
    FeaturePlan,
    ImagePlan,
    NoPrivacy,
    Plan,
    StackedPlan,
    UnnoisedPlan,
    make_plan,
)
from fedmed.privacy.statement.contents import Spend, check, schema, statement

PLANS: dict[str, tuple[Plan, str, str]] = {
    "none": (NoPrivacy(), "none", "everyone"),
    "pixel-laplace": (ImagePlan(mechanism=PixelLaplace(2.0, 256)), "image", "nobody"),
    "feature-laplace": (
        FeaturePlan(mechanism=FeatureLaplace(epsilon=4.0, norm=1.0, components=3), units=24),
        *("patient", "nobody"),
    ),
    "dp-sgd": (gradient_plan(), "patient", "the hospital"),
    "distributed-dp-sgd": (
        summed_plan("shares"),
        *("patient", "the hospital and all but a stated number of the other hospitals"),
    ),
    "central-dp-sgd": (summed_plan("server"), "patient", "the hospital and the server"),
    "clipped-sgd": (
        UnnoisedPlan(sampling=gradient_plan().sampling, clipping_norm=1.0),
        *("none", "everyone"),
    ),
    "sampled-sgd": (
        UnnoisedPlan(sampling=gradient_plan().sampling, clipping_norm=None),
        *("none", "everyone"),
    ),
    "local-update": (update_plan("hospital"), "hospital", "nobody"),
    "central-fixed": (update_plan("server"), "hospital", "the server"),
    "central-adaptive": (update_plan("server", adaptive=ADAPTIVE), "hospital", "the server"),
    "dp-pix": (ImagePlan(mechanism=DPPix(2.0, 4, 16, 16)), "image", "nobody"),
    "brightness-shift": (ImagePlan(mechanism=BrightnessShift(2.0)), "none", "everyone"),
}
CLAIMING = [arm for arm, (_, unit, _) in PLANS.items() if unit != "none"]


def state(arm: str, taken: int, source: NoiseSource | None = None, **train: Any) -> dict[str, Any]:
    plan = PLANS[arm][0]
    settings = make(train=train).replaced({"privacy.arm": arm, **needed_by(arm)})
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
    assert plan.unit == unit


@pytest.mark.parametrize("arm", CLAIMING)
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


def test_a_hospital_that_took_no_step_spent_nothing() -> None:
    stated = state("dp-sgd", 0)
    assert stated["hospitals"][0]["epsilon"] == 0.0
    assert stated["epsilon"] == gradient_plan().epsilon(1), "the other one's"


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


@pytest.mark.parametrize("arm", CLAIMING)
def test_the_summary_names_epsilon_delta_unit_and_trust(arm: str) -> None:
    stated = state(arm, 1)
    for word in (f"epsilon = {stated['epsilon']:.3g}", "delta", stated["unit"], "trust"):
        assert word in stated["summary"]


def test_only_a_run_that_ended_early_is_told_what_the_whole_plan_costs() -> None:
    steps = PLANS["dp-sgd"][0].steps
    assert "ended it early" in state("dp-sgd", steps - 1)["summary"]
    assert "ended it early" not in state("dp-sgd", steps)["summary"]


def test_every_arm_is_here() -> None:
    assert sorted(PLANS) == sorted(ARMS)


@pytest.mark.parametrize("arm", PLANS)
@pytest.mark.parametrize("source", [NoiseSource(), NoiseSource(3)])
def test_every_statement_keeps_the_schema(arm: str, source: NoiseSource) -> None:
    def keeps(stated: dict[str, Any]) -> None:
        try:
            check(json.loads(json.dumps(stated)))
        except ValidationError as error:
            raise AssertionError(str(error)) from error

    stated = state(arm, 1, source)
    keeps(stated)
    assert sorted(schema()["properties"]) == sorted(stated)
    goes_red(keeps, {**stated, "epsilon_of_something_else": 1.0})
    goes_red(keeps, {**stated, "epsilon": -1.0})
    goes_red(keeps, {**stated, "unit": "pixel"})
    goes_red(keeps, {key: value for key, value in stated.items() if key != "not_covered"})
    if stated["hospitals"]:
        extra = [{**stated["hospitals"][0], "labels": [0, 1]}]
        goes_red(keeps, {**stated, "hospitals": extra})


def test_brightness_shift_claims_nothing() -> None:
    """Pitfall 12: published code called this local differential privacy."""
    stated = state("brightness-shift", 1)
    assert stated["epsilon"] is None
    assert stated["epsilon_per_pixel"] is None
    assert stated["epsilon_by_pixels"] == {}
    assert "no differential privacy" in stated["mechanism"]
    assert stated["summary"].startswith("What this run does to the images gives no guarantee.")
    assert "protects nobody" in stated["summary"]
    assert stated["trust"] == "everyone", "whoever gets an update or the model could learn"
    alone = state("brightness-shift", 1, scheme="local-only")
    assert alone["trust"] == "everyone who gets a hospital's model"
    assert "gives no guarantee" not in state("none", 1)["summary"]


def test_dp_pix_names_each_of_its_epsilons() -> None:
    """16 means of 4 x 4 pixels at scale 2: 8 per image, 16/(16 x 2) per 16 pixels, 1/32 each."""
    stated = state("dp-pix", 1)
    assert stated["epsilon"] == 8
    assert stated["epsilon_by_pixels"] == {"pixel": 1 / 32, "neighbourhood": 0.5}
    assert stated["epsilon_per_pixel"] == 1 / 32
    assert 0 < stated["epsilon_at_delta"] < 8


def test_what_each_hospital_spent_can_be_composed_again() -> None:
    def again(stated: dict[str, Any]) -> None:
        for member in stated["hospitals"]:
            spent = tuple((Mechanism.from_json(i["step"]), i["count"]) for i in member["spent"])
            found = accounting.composed_epsilon(spent, member["delta"])
            assert found == pytest.approx(member["epsilon"])

    stated = state("dp-sgd", 6)
    again(stated)
    stated["hospitals"][0]["spent"][0]["count"] = 5
    goes_red(again, stated)


def test_the_attackers_gain_is_of_the_hospital_that_took_most() -> None:
    def of_six(stated: dict[str, Any]) -> None:
        risk = accounting.risk(((gaussian(1.0, 0.25), 6),), 1e-5)
        assert stated["mu"] == risk.mu
        assert stated["advantage"] == risk.advantage
        assert stated["tpr_at_fpr_001"] == risk.tpr_at_fpr_001

    of_six(state("dp-sgd", 6))
    goes_red(of_six, state("dp-sgd", 4))
    hidden = state("dp-sgd", 6, NoiseSource(3))
    assert (hidden["mu"], hidden["advantage"], hidden["tpr_at_fpr_001"]) == (None, None, None)


def test_the_other_relations_stand_beside_epsilon() -> None:
    stated = state("dp-sgd", 6)
    spent = ((gaussian(1.0, 0.25), 6),)
    assert stated["epsilon_replace_one"] == accounting.composed_epsilon(spent, 1e-5, "replace-one")
    assert stated["epsilon_replace_one"] > stated["epsilon"]
    assert stated["epsilon_rdp"] >= stated["epsilon"]
    assert stated["epsilon_patient"] is None, "the unit is the patient already"


def of_images(taken: int, cap: int = 3) -> dict[str, Any]:
    plan = gradient_plan(unit="image", images_per_patient=cap, noise_multiplier=3.0)
    settings = make(privacy={"arm": "dp-sgd", "unit": "image", "images-per-patient": cap})
    return statement(settings, {"hospital-1": Spend(plan, taken)}, "name", NoiseSource())


def test_under_the_image_unit_the_patients_epsilon_is_given_from_the_cap() -> None:
    def check_patient(stated: dict[str, Any]) -> None:
        expected = accounting.composed_epsilon(((group_gaussian(3.0, 0.25, 3), 6),), 1e-5)
        assert stated["epsilon_patient"] == expected
        assert stated["epsilon_patient"] > stated["epsilon"]
        assert stated["images_per_patient"] == 3
        assert "up to 3 images" in stated["summary"]
        assert "at most 3 image(s)" in stated["sampling"]

    check_patient(of_images(6))
    goes_red(check_patient, of_images(6, cap=1))
    assert of_images(6)["unit"] == "image"


def test_sizes_that_enter_the_guarantee_are_named() -> None:
    exact = state("dp-sgd", 1)
    assert "exact sizes" in exact["sizes"]
    assert any("number of patients and images" in line for line in exact["not_covered"])
    assert [h["size_declared"] for h in exact["hospitals"]] == [False, False]
    plan = gradient_plan(declared=True)
    spends = {"hospital-1": Spend(plan, 1)}
    declared = statement(make(privacy={"arm": "dp-sgd"}), spends, "name", NoiseSource())
    assert "declared public" in declared["sizes"]
    assert not any("number of patients and images" in line for line in declared["not_covered"])
    assert [h["size"] for h in declared["hospitals"]] == [24]


def stacked(taken: int) -> dict[str, Any]:
    image = ImagePlan(mechanism=PixelLaplace(50.0, 256))
    plan = StackedPlan(image=image, training=gradient_plan())
    settings = make(
        privacy={"arm": "dp-sgd", "image-mechanism": "pixel-laplace", "laplace-scale": 50.0}
    )
    return statement(settings, {"hospital-1": Spend(plan, taken)}, "name", NoiseSource())


def test_noised_images_under_a_private_training_are_stated_together() -> None:
    """The training's epsilon holds; whoever sees the images too is met by the composition."""

    def check_both(stated: dict[str, Any]) -> None:
        assert stated["unit"] == "patient"
        assert stated["epsilon"] == gradient_plan().epsilon(6)
        both = ((laplace(50.0, 256), 1), (gaussian(1.0, 0.25), 6))
        alone = accounting.composed_epsilon(both[:1], 1e-5)
        together = accounting.composed_epsilon(both, 1e-5)
        assert stated["epsilon_with_noised_images"] == min(alone, together)
        assert stated["epsilon_by_pixels"] == {"pixel": 1 / 50}
        assert "then DP-SGD" in stated["mechanism"]
        assert "Laplace noise of scale 50" in stated["mechanism"]

    check_both(stacked(6))
    goes_red(check_both, stacked(5))
    goes_red(check_both, state("dp-sgd", 6))
    check(stacked(6))


def test_refused_hospitals_are_named() -> None:
    spends = {"hospital-1": Spend(gradient_plan(), 1)}
    settings = make(privacy={"arm": "dp-sgd"})
    stated = statement(settings, spends, "name", NoiseSource(), refused=["hospital-2"])
    assert stated["refused"] == ["hospital-2"]
    assert [h["hospital"] for h in stated["hospitals"]] == ["hospital-1"]


def test_a_budget_so_large_that_mu_is_infinite_still_has_a_statement() -> None:
    """Epsilon 50 at delta 1e-3 in one round: no bell curve of finite width covers it."""
    settings = make(
        train={"rounds": 1}, privacy={"arm": "local-update", "epsilon": 50.0, "delta": 1e-3}
    )
    plan = make_plan(settings, 60, "hospital-1")
    stated = statement(settings, {"hospital-1": Spend(plan, 1)}, "name", NoiseSource())
    check(json.loads(json.dumps(stated, allow_nan=False)))
    assert stated["mu"] is None
    assert stated["advantage"] > 0.99
