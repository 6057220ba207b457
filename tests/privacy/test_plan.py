"""What make_plan promises: all steps paid for, delta below 1/n, nothing that depends on replies."""

import dataclasses
import math
import re
from typing import Any

import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from support import ADAPTIVE, accepted_choices, goes_red, gradient_plan, make, refuses, update_plan

from fedmed.base.errors import UserError
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.step import gaussian, group_gaussian, laplace, replace_gaussian
from fedmed.privacy.plans import making as plans
from fedmed.privacy.plans import part
from fedmed.privacy.plans.base import check_noise
from fedmed.privacy.plans.making import (
    GradientPlan,
    ImagePlan,
    NoPrivacy,
    StackedPlan,
    UpdatePlan,
    declared_size,
    image_mechanism,
    make_plan,
)

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
        call()  # type: ignore[operator]  # a parameter of the test
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
    assert by_epsilon.epsilon(taken=2) == pytest.approx(128)
    given = make(privacy={"arm": "pixel-laplace", "laplace-scale": 0.5})
    by_scale = make_plan(given, 9, "h")
    assert isinstance(by_scale, ImagePlan)
    assert by_scale.mechanism.epsilon_per_pixel == 2
    assert by_scale.epsilon() == 512


def test_the_arm_none_claims_nothing() -> None:
    assert make_plan(make(), 0, "h") == NoPrivacy()


# A noise that is given, and what would make it keep the target.


def test_with_a_noise_given_epsilon_is_its_limit() -> None:
    settings = DP_SGD.replaced({"privacy.noise-multiplier": 5.0})
    plan = make_plan(settings, 200, "hospital-1")
    assert isinstance(plan, GradientPlan)
    assert plan.noise_multiplier == 5.0
    assert plan.epsilon() == accounting.epsilon(5.0, 0.1, 60, 1e-5)
    assert plan.epsilon() < 2.0


def test_a_noise_too_small_names_choices_that_are_each_accepted() -> None:
    settings = DP_SGD.replaced({"privacy.noise-multiplier": 1.7})
    refuses(
        lambda: make_plan(settings, 200, "hospital-2"),
        "privacy.noise-multiplier = 1.7",
        "hospital-2",
        "above privacy.epsilon = 2",
    )
    found = accepted_choices(settings, lambda changed: make_plan(changed, 200, "hospital-2"))
    assert sorted(found) == [
        "privacy.epsilon",
        "privacy.noise-multiplier",
        "train.batch-size",
        "train.rounds",
    ]
    # And nearest: a little less of each is refused again.
    for key, worse in (
        ("privacy.epsilon", found["privacy.epsilon"] * 0.998),
        ("privacy.noise-multiplier", found["privacy.noise-multiplier"] * 0.998),
        ("train.rounds", int(found["train.rounds"]) + 1),
    ):
        nearly = settings.replaced({key: worse})
        refuses(lambda s=nearly: make_plan(s, 200, "hospital-2"), "above privacy.epsilon")


@pytest.mark.parametrize("arm", ["local-update", "central-fixed", "central-adaptive"])
def test_a_noise_too_small_for_all_rounds_names_choices_too(arm: str) -> None:
    settings = make(
        data={"hospitals": 4},
        train={"rounds": 20},
        privacy={"arm": arm, "epsilon": 5.0, "noise-multiplier": 2.0},
    )
    found = accepted_choices(settings, lambda changed: make_plan(changed, 10, "hospital-1"))
    assert sorted(found) == ["privacy.epsilon", "train.rounds"]
    more = settings.replaced({"train.rounds": int(found["train.rounds"]) + 1})
    refuses(lambda: make_plan(more, 10, "hospital-1"), "above privacy.epsilon")


# Declared public sizes.


def test_a_declared_size_is_what_rate_steps_divisor_and_delta_rest_on() -> None:
    settings = DP_SGD.replaced({"privacy.public-size": "hospital-1=400,hospital-2=100"})

    def check(units: int) -> None:
        plan = make_plan(settings, units, "hospital-1")
        assert isinstance(plan, GradientPlan)
        assert plan.declared
        assert plan.units == 400
        assert plan.sampling_rate == 20 / 400
        assert plan.steps_per_round == 40
        assert plan.expected_batch == 20
        assert plan == make_plan(settings, 399, "hospital-1"), "one patient more changes nothing"

    check(200)
    check(1)
    exact = make_plan(DP_SGD, 200, "hospital-1")
    assert isinstance(exact, GradientPlan)
    assert (exact.declared, exact.units) == (False, 200)
    # The size of a policy goes before that of the settings.
    assert part(make_plan(settings, 200, "hospital-1", 300), GradientPlan).units == 300  # type: ignore[union-attr]  # it is there


def test_delta_is_compared_with_the_declared_size() -> None:
    settings = DP_SGD.replaced({"privacy.public-size": "400", "privacy.delta": 1 / 300})
    refuses(lambda: make_plan(settings, 200, "hospital-1"), "1/400", "hospital-1 has 400")
    small = DP_SGD.replaced({"privacy.public-size": "100", "privacy.delta": 1 / 300})
    make_plan(small, 200, "hospital-1")
    # Nor does a small declared size make room for a delta above one in the true number.
    refuses(lambda: make_plan(small, 1000, "hospital-1"), "1/1000", "hospital-1 has 1000")


def test_the_pooled_data_are_as_large_as_all_hospitals_together() -> None:
    named = {"privacy.public-size": "hospital-1=400,hospital-2=100", "train.scheme": "pooled"}
    assert declared_size(DP_SGD.replaced(named), "pooled") == 500
    each = {"privacy.public-size": "150", "train.scheme": "pooled", "data.hospitals": 3}
    assert declared_size(DP_SGD.replaced(each), "pooled") == 450


@pytest.mark.parametrize("text", ["hospital-2=100", "many", "hospital-1=", "hospital-1=0", "1.5"])
def test_a_size_that_cannot_be_read_is_refused(text: str) -> None:
    settings = DP_SGD.replaced({"privacy.public-size": text})
    refuses(lambda: make_plan(settings, 200, "hospital-1"), "privacy.public-size", "hospital-1")


# The image unit.

IMAGES = DP_SGD.replaced({"privacy.unit": "image", "privacy.images-per-patient": 3})


def test_the_image_unit_gives_the_patients_epsilon_from_its_cap() -> None:
    def check(settings: Any) -> None:
        plan = make_plan(settings, 200, "hospital-1")
        assert isinstance(plan, GradientPlan)
        sigma = plan.noise_multiplier
        assert plan.epsilon() == accounting.epsilon(sigma, 0.1, 60, 1e-5, "replace-one") <= 2.0
        assert plan.epsilon() > 1.9 * accounting.epsilon(sigma, 0.1, 60, 1e-5)
        patient = accounting.composed_epsilon(((group_gaussian(sigma, 0.1, 3), 60),), 1e-5)
        assert plan.per_patient() == patient
        assert plan.cost("patient") == group_gaussian(sigma, 0.1, 3)
        assert plan.cost("image") == replace_gaussian(sigma, 0.1)

    check(IMAGES)
    goes_red(check, IMAGES.replaced({"privacy.images-per-patient": 2}))
    patient = make_plan(DP_SGD, 200, "hospital-1")
    assert patient.per_patient() is None
    assert patient.cost("image") is None


# Adaptive clipping: the noise of its estimate is paid for.


def two_gaussians(plan: UpdatePlan) -> float:
    """Epsilon of what a round really releases: the noised sum and the noised count."""
    assert plan.count_multiplier is not None
    round_ = ComposedDpEvent(
        [GaussianDpEvent(plan.update_multiplier), GaussianDpEvent(plan.count_multiplier)]
    )
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(SelfComposedDpEvent(round_, plan.rounds))
    found: float = accountant.get_epsilon(plan.delta)
    return found


class ChargesTheUpdateAlone(UpdatePlan):
    """The clip estimate is released for nothing."""

    @property
    def step(self) -> Any:
        return gaussian(self.update_multiplier)


class ReleasesTheCountClean(UpdatePlan):
    """The whole budget goes to the update, and the estimate is noised as if it had some."""

    @property
    def update_multiplier(self) -> float:
        return self.noise_multiplier


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_both_gaussians_of_an_adaptive_round_are_charged(share: float) -> None:
    adaptive = dataclasses.replace(ADAPTIVE, share_of_budget=share)
    plan = update_plan("server", rounds=9, noise_multiplier=3.0, adaptive=adaptive)

    def check(plan: UpdatePlan) -> None:
        assert plan.epsilon() == pytest.approx(two_gaussians(plan), rel=1e-3)

    check(plan)
    goes_red(check, ChargesTheUpdateAlone(**vars(plan)))
    goes_red(check, ReleasesTheCountClean(**vars(plan)))
    assert plan.update_multiplier > 3.0
    assert update_plan("server", noise_multiplier=3.0).update_multiplier == 3.0


def test_an_adaptive_plan_reaches_its_target_over_all_rounds() -> None:
    settings = make(
        data={"hospitals": 4},
        train={"rounds": 7},
        privacy={"arm": "central-adaptive", "epsilon": 3.0, "clip-share": 0.2, "clip-rate": 0.3},
    )
    plan = make_plan(settings, 10, "hospital-1")
    assert isinstance(plan, UpdatePlan)
    assert plan.adaptive is not None
    assert (plan.adaptive.quantile, plan.adaptive.rate) == (0.5, 0.3)
    assert two_gaussians(plan) == pytest.approx(3.0, rel=0.01)
    assert plan.placement == "server"


def test_a_hospitals_account_is_charged_for_a_patients_whole_hospital() -> None:
    """A patient's change replaces the hospital's update: 2C, also under central noise."""
    assert update_plan("hospital", noise_multiplier=4.0).cost("patient") == gaussian(4.0)
    assert update_plan("server", noise_multiplier=4.0).cost("patient") == gaussian(2.0)
    assert update_plan("server", noise_multiplier=4.0).cost("hospital") == gaussian(4.0)
    assert update_plan("server").cost("pixels") is None


def test_a_hospital_may_declare_one_patient() -> None:
    assert declared_size(make(privacy={"public-size": "a=1,b=20"}), "a") == 1
    refuses(lambda: declared_size(make(privacy={"public-size": "a=0"}), "a"), "'0' is not a whole")


# Noised images under a private training.


def test_stacked_mechanisms_are_one_plan_of_two_parts() -> None:
    settings = DP_SGD.replaced(
        {"privacy.image-mechanism": "pixel-laplace", "privacy.laplace-scale": 40.0}
    )
    plan = make_plan(settings, 200, "hospital-1")
    assert isinstance(plan, StackedPlan)
    training = part(plan, GradientPlan)
    assert training == make_plan(DP_SGD, 200, "hospital-1"), "the images take nothing from it"
    image = part(plan, ImagePlan)
    assert image is not None
    assert image.mechanism == PixelLaplace(40.0, 256)
    assert (plan.unit, plan.payer, plan.steps, plan.delta) == ("patient", "hospital", 60, 1e-5)
    assert plan.epsilon() == training.epsilon()
    by_image = settings.replaced({"privacy.unit": "image", "privacy.images-per-patient": 3})
    of_patient = make_plan(by_image, 200, "hospital-1").per_patient()
    assert of_patient is not None
    assert of_patient > training.epsilon()

    def check(found: float | None) -> None:
        both = ((laplace(40.0, 256), 1), *training.spent())
        # The model is computed from the noised images: about pixels it adds nothing to them.
        assert found == min(accounting.composed_epsilon(both, 1e-5), image.at_delta(1e-5))
        assert found != training.epsilon()

    check(plan.composed())
    goes_red(check, plan.epsilon())


def test_images_that_claim_nothing_add_no_claim_to_the_training() -> None:
    settings = DP_SGD.replaced(
        {"privacy.image-mechanism": "brightness-shift", "privacy.laplace-scale": 1.0}
    )
    plan = make_plan(settings, 200, "hospital-1")
    assert isinstance(plan, StackedPlan)
    assert plan.composed() is None
    alone = make_plan(make(privacy={"arm": "brightness-shift", "laplace-scale": 1.0}), 9, "h")
    assert (alone.unit, alone.epsilon(), alone.step) == ("none", None, None)


def test_images_of_a_patient_cost_that_many_times_one() -> None:
    settings = make(
        privacy={"arm": "pixel-laplace", "laplace-scale": 16.0, "images-per-patient": 3}
    )
    plan = make_plan(settings, 9, "h")
    assert plan.epsilon() == 16
    assert plan.per_patient() == 48
    uncapped = settings.replaced({"privacy.images-per-patient": 0})
    assert make_plan(uncapped, 9, "h").per_patient() is None
    assert plan.cost("patient") is None, "labels are in the clear"


def test_dp_pix_is_scaled_for_its_neighbourhood() -> None:
    """Fan 2018: m / (b^2 epsilon) on [0, 1]."""
    settings = make(privacy={"arm": "dp-pix", "epsilon": 0.5, "cell": 4, "neighbourhood": 24})
    mechanism = image_mechanism(settings)
    assert mechanism is not None
    assert mechanism.claims["neighbourhood"] == pytest.approx(0.5)
    assert mechanism.claims["image"] == pytest.approx(16 / (24 / (16 * 0.5)))
    assert image_mechanism(make()) is None


def test_the_noise_to_signal_of_a_step_is_that_of_the_plan() -> None:
    assert gradient_plan(noise_multiplier=3.0).noise_to_signal(400) == 3 * 20 / 6
    assert update_plan("server", noise_multiplier=3.0).noise_to_signal(400) == 3 * 20 / 3
    at_hospital = update_plan("hospital", noise_multiplier=3.0).noise_to_signal(300)
    assert at_hospital == pytest.approx(2 * 3 * 10)


def test_no_noise_at_all_is_no_plan() -> None:
    with pytest.raises((UserError, ValueError)):
        gradient_plan(noise_multiplier=0.0).epsilon()


def test_noise_is_64_steps_of_rounding_above_its_sum_and_far_from_either_end() -> None:
    fine, tiny, huge = 64 * 2.0**-52, 1e-30, 1e30

    def accepts(deviation: float, bound: float, divisor: float = 1.0, **grid: float) -> bool:
        try:
            check_noise(deviation, bound, divisor, **grid)
        except UserError:
            return False
        return True

    assert accepts(fine, 1.0)
    assert not accepts(math.nextafter(fine, 0.0), 1.0)
    assert accepts(64 * 2.0**-10, 1.0, grid=2.0**-10)
    assert not accepts(63 * 2.0**-10, 1.0, grid=2.0**-10)
    assert accepts(1.1 * tiny, tiny)
    assert not accepts(tiny, tiny)
    assert not accepts(1.1 * tiny, tiny, 2.0), "nor after the division"
    assert accepts(0.9 * huge, 0.9 * huge)
    assert not accepts(huge, 1.0)
    assert not accepts(0.9 * huge, huge)
    assert not accepts(math.nan, 1.0)
