"""What make_plan promises: all steps paid for, delta below 1/n, nothing that depends on replies."""

import dataclasses
import re

import pytest
from support import goes_red, make, refuses

from fedmed.privacy import accounting
from fedmed.privacy import plan as plans
from fedmed.privacy.plan import GradientPlan, ImagePlan, NoPrivacy, UpdatePlan, make_plan

DP_SGD = make(
    train={"rounds": 3, "batch-size": 20, "local-epochs": 2.0},
    privacy={"arm": "dp-sgd", "epsilon": 2.0},
)


def check_every_local_step_is_paid_for(plan: GradientPlan) -> None:
    """3 rounds of 2 passes over 200 patients at 20 a step: 60 steps at most epsilon 2."""
    assert plan.steps == 60
    assert accounting.epsilon(plan.noise_multiplier, 0.1, 60, 1e-5) <= 2.0


def test_calibration_is_for_all_local_steps_not_for_rounds() -> None:
    plan = make_plan(DP_SGD, 200, "hospital-1")
    assert isinstance(plan, GradientPlan)
    check_every_local_step_is_paid_for(plan)
    # Pitfall 5: calibrated for 3 steps, trained for 60.
    per_round = accounting.noise_multiplier(2.0, 1e-5, 0.1, 3)
    goes_red(
        check_every_local_step_is_paid_for, dataclasses.replace(plan, noise_multiplier=per_round)
    )


def test_dp_sgd_noise_is_scaled_to_one_unit_in_or_out() -> None:
    plan = make_plan(DP_SGD.replaced({"privacy.clipping-norm": 0.3}), 200, "hospital-1")
    assert isinstance(plan, GradientPlan)
    assert plan.noise_standard_deviation == pytest.approx(0.3 * plan.noise_multiplier)
    assert plan.sampling_rate == 0.1


def test_the_plan_of_a_hospital_does_not_depend_on_the_others() -> None:
    alone = make_plan(DP_SGD.replaced({"data.hospitals": 1}), 200, "hospital-1")
    among = make_plan(DP_SGD.replaced({"data.hospitals": 50}), 200, "hospital-1")
    assert alone == among


def check_delta_is_refused() -> None:
    settings = DP_SGD.replaced({"privacy.delta": 0.005})
    refuses(
        lambda: make_plan(settings, 200, "hospital-2"),
        "privacy.delta = 0.005",
        "1/200",
        "hospital-2",
        "patients",
        "use 0.0001 or less",
    )


def test_delta_not_below_one_in_n_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_delta_is_refused()
    monkeypatch.setattr(plans, "_check_delta", lambda *_: None)
    goes_red(check_delta_is_refused)  # pitfall 24


@pytest.mark.parametrize("units", [2, 7, 100, 1000, 12345])
def test_the_remedy_for_delta_is_itself_accepted(units: int) -> None:
    settings = DP_SGD.replaced({"privacy.delta": 1 / units, "train.batch-size": 1})
    with pytest.raises(ValueError, match="is not below") as caught:
        _raise_value_error(lambda: plans._check_delta(1 / units, units, "patients", "h"))
    found = re.search(r"use (\S+) or less", str(caught.value))
    assert found is not None
    assert float(found[1]) < 1 / units
    assert settings.privacy.delta == 1 / units


def _raise_value_error(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except plans.UserError as error:
        raise ValueError(str(error)) from error


@pytest.mark.parametrize("arm", ["local-update", "central-fixed"])
def test_delta_of_a_hospital_level_arm_is_compared_with_the_hospitals(arm: str) -> None:
    settings = make(data={"hospitals": 4}, privacy={"arm": arm, "delta": 0.25})
    refuses(lambda: make_plan(settings, 500, "hospital-1"), "1/4", "4 hospitals")


@pytest.mark.parametrize(("arm", "factor"), [("local-update", 2), ("central-fixed", 1)])
def test_update_plans_reach_their_target_over_all_rounds(arm: str, factor: int) -> None:
    settings = make(
        data={"hospitals": 4},
        train={"rounds": 7},
        privacy={"arm": arm, "epsilon": 3.0, "clipping-norm": 0.2},
    )
    plan = make_plan(settings, 10, "hospital-1")
    assert isinstance(plan, UpdatePlan)
    assert (plan.hospitals, plan.rounds) == (4, 7)
    assert 2.95 < plan.epsilon() <= 3.0
    assert plan.noise_standard_deviation == pytest.approx(factor * 0.2 * plan.noise_multiplier)


def test_a_batch_above_the_patients_is_refused_with_the_largest_allowed() -> None:
    refuses(
        lambda: make_plan(DP_SGD, 19, "hospital-2"),
        "train.batch-size = 20",
        "19 patients of hospital-2",
        "lower it to 19 or less",
    )


def test_a_batch_of_everybody_is_no_sampling() -> None:
    plan = make_plan(DP_SGD, 20, "hospital-1")
    assert isinstance(plan, GradientPlan)
    assert plan.sampling_rate == 1.0
    assert plan.steps == 6


def test_an_empty_hospital_has_no_plan() -> None:
    refuses(lambda: make_plan(DP_SGD, 0, "hospital-3"), "hospital-3 holds no patients")


def test_pixel_laplace_epsilon_is_per_image_unless_a_scale_is_given() -> None:
    by_epsilon = make_plan(make(privacy={"arm": "pixel-laplace", "epsilon": 64.0}), 9, "h")
    assert isinstance(by_epsilon, ImagePlan)
    assert by_epsilon.mechanism.scale == 256 / 64
    assert by_epsilon.epsilon() == pytest.approx(64)
    assert by_epsilon.epsilon(releases=2) == pytest.approx(128)
    given = make(privacy={"arm": "pixel-laplace", "laplace-scale": 0.5})
    by_scale = make_plan(given, 9, "h")
    assert isinstance(by_scale, ImagePlan)
    assert by_scale.mechanism.epsilon_per_pixel == 2
    assert by_scale.epsilon() == 512


def test_the_arm_none_claims_nothing() -> None:
    assert make_plan(make(), 0, "h") == NoPrivacy()
