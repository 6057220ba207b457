"""A hospital's answer to a plan: what it says no to, and that what it says still fits does fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, gradient_plan, make, update_plan

from fedmed.privacy import accounting
from fedmed.privacy.ledger.deciding import Decision, against_evaluation, decide, request_for
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.plans import GradientPlan, ImagePlan, Plan, StackedPlan
from fedmed.privacy.plans.evaluation import EvaluationPlan

SETTINGS = make(privacy={"arm": "dp-sgd"})
LIMITED = Policy(maximum_epsilon=8.0, delta=1e-5)
PLAN = gradient_plan(units=240, noise_multiplier=0.8, rounds=4)  # 16 steps at a rate of 1/40


def answer(ledger: Ledger, plan: Plan = PLAN, policy: Policy = LIMITED, **asked: Any) -> Decision:
    settings = asked.pop("settings", SETTINGS)
    return decide(settings, "h", plan, policy, ledger, **{"patients": 100, **asked})


def spend(ledger: Ledger, plan: GradientPlan, run: str = "before") -> None:
    """Open a plan and take all its steps."""
    request = request_for(SETTINGS, ledger.path.stem, plan, LIMITED)
    ledger.open_plan(run, request, LIMITED.limit)
    ledger.reserve(run, 1, "m", plan.steps, limit=LIMITED.limit)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "h.sqlite")


def test_a_policys_no_is_not_a_matter_of_the_budget(ledger: Ledger) -> None:
    reproducible = make(privacy={"arm": "dp-sgd", "reproducible-noise": True})
    refused = [
        answer(ledger, policy=Policy(arms=["local-update"])),
        answer(ledger, settings=reproducible),
        answer(ledger, policy=Policy(minimum_cohort=101)),
        answer(ledger, policy=Policy(maximum_epsilon=8.0, unit="pixels")),
    ]
    words = ("the arm dp-sgd", "reproducible", "smaller than", "one pixels no guarantee")
    for decision, word in zip(refused, words, strict=True):
        assert (decision.accepts, decision.allowed) == (False, False)
        assert (decision.rounds, decision.epsilon) == (0, 0.0)
        assert word in decision.reason


def test_what_no_rule_is_against_is_accepted(ledger: Ledger) -> None:
    reproducible = make(privacy={"arm": "dp-sgd", "reproducible-noise": True})
    simulated = Policy(allow_reproducible_noise=True)
    for decision in (
        answer(ledger, policy=Policy(minimum_cohort=100)),
        answer(ledger, settings=reproducible, policy=simulated),
        answer(ledger),
        answer(ledger, update_plan("server"), policy=Policy(maximum_epsilon=8.0, arms=["dp-sgd"])),
    ):
        assert decision == Decision(accepts=True)


def check_room(refused: Decision, ledger: Ledger) -> None:
    """What still fits is accepted, and more is not."""
    assert (refused.accepts, refused.allowed) == (False, True)
    assert refused.rounds > 0
    assert answer(ledger, replace(PLAN, rounds=refused.rounds)).accepts
    assert not answer(ledger, replace(PLAN, rounds=refused.rounds + 1)).accepts
    assert f"{refused.rounds} round(s) at this noise" in refused.reason

    def at(epsilon: float, plan: GradientPlan) -> Decision:
        noise = accounting.noise_multiplier(epsilon, 1e-5, plan.sampling_rate, plan.steps)
        return answer(ledger, replace(plan, noise_multiplier=noise))

    assert 0 < refused.epsilon < 8
    assert at(refused.epsilon, TOO_LONG).accepts
    assert not at(refused.epsilon + 8 / 2**7, TOO_LONG).accepts, "found to 1/256 of the limit"


TOO_LONG = replace(PLAN, rounds=400)


def test_a_plan_that_is_too_much_is_told_what_still_fits(ledger: Ledger) -> None:
    spend(ledger, PLAN)
    found = answer(ledger, TOO_LONG)
    check_room(found, ledger)
    goes_red(check_room, replace(found, rounds=found.rounds + 1), ledger)
    goes_red(check_room, replace(found, epsilon=found.epsilon * 1.1), ledger)


def test_an_account_that_is_empty_has_room_for_the_whole_limit(ledger: Ledger) -> None:
    found = answer(ledger, replace(PLAN, noise_multiplier=0.3, rounds=200))
    assert (found.accepts, found.epsilon) == (False, 8.0)


def test_after_a_plan_that_took_all_nothing_fits(ledger: Ledger) -> None:
    alone = gradient_plan(
        units=6, expected_batch=6, steps_per_round=69, rounds=1, noise_multiplier=5.0
    )
    assert answer(ledger, alone).accepts, "by its own PLD"
    spend(ledger, alone)
    found = answer(ledger)
    assert (found.accepts, found.rounds, found.epsilon) == (False, 0, 0.0)
    assert "what still fits: nothing" in found.reason


def test_a_run_that_was_opened_goes_on_and_another_does_not(ledger: Ledger) -> None:
    alone = gradient_plan(
        units=6, expected_batch=6, steps_per_round=69, rounds=1, noise_multiplier=5.0
    )
    spend(ledger, alone, "this run")
    assert answer(ledger, alone, run="this run").accepts
    assert not answer(ledger, alone, run="that run").accepts
    assert not answer(ledger, alone).accepts


PIXELS = ImagePlan(mechanism=PixelLaplace(1000.0, 256))
STACKED = StackedPlan(image=PIXELS, training=PLAN)


def test_images_noised_first_are_not_asked_for_a_patients_guarantee(ledger: Ledger) -> None:
    """They only add to a training that is counted; alone, their arm has to be named."""
    assert answer(ledger, STACKED).accepts
    pixels = make(privacy={"arm": "pixel-laplace"})
    alone = answer(ledger, PIXELS, settings=pixels, policy=Policy(maximum_epsilon=8.0))
    assert (alone.accepts, alone.allowed) == (False, False)
    named = Policy(maximum_epsilon=8.0, arms=["pixel-laplace"])
    assert answer(ledger, PIXELS, settings=pixels, policy=named).accepts


def test_noised_images_let_no_training_pass_that_has_no_room(ledger: Ledger) -> None:
    """Neither images without a guarantee for the patient nor images that were released before."""
    long = StackedPlan(image=PIXELS, training=replace(PLAN, noise_multiplier=0.3, rounds=400))
    refused = answer(ledger, long)
    assert (refused.accepts, refused.allowed) == (False, True)
    of_pixels = Policy(maximum_epsilon=1e5, unit="pixels", arms=["dp-sgd"])
    request = request_for(SETTINGS, ledger.path.stem, PIXELS, of_pixels)
    release = replace(request, arm=PIXELS.mechanism.key)
    ledger.open_plan("a release", release, of_pixels.limit)
    ledger.reserve("a release", 0, "", 1, limit=of_pixels.limit)
    known = answer(ledger, long, policy=of_pixels)
    assert "one pixels no guarantee" in known.reason


EVALUATION = EvaluationPlan(epsilon=2.0, delta=1e-5, cap=1, noise_multiplier=2.0)


def against(ledger: Ledger, training: Plan, policy: Policy, **changes: Any) -> str:
    told: dict[str, Any] = {"plan": EVALUATION, "run": "r", "fixed_split": False} | changes
    return against_evaluation(
        SETTINGS, training, told["plan"], policy, ledger, told["run"],
        fixed_split=told["fixed_split"],
    )  # fmt: skip


def test_histograms_are_paid_after_all_of_the_training(ledger: Ledger) -> None:
    """The account has room for either, and not for both: training's steps count as taken."""
    long = replace(PLAN, rounds=200)
    separate = Policy(maximum_epsilon=8.0, evaluation="separate")
    assert answer(ledger, long).accepts
    assert against(ledger, update_plan("server"), LIMITED) == "", "which the server pays"
    assert against(ledger, PLAN, LIMITED) == ""
    assert "after this training" in against(ledger, long, LIMITED)
    assert "after this training" in against(ledger, long, separate), "one patient, two splits"
    assert against(ledger, long, separate, fixed_split=True) == ""
    spend(ledger, long, "r")
    assert "after this training" in against(ledger, long, LIMITED), "nor when it is paid"
    for free in ({"plan": None}, {"policy": Policy()}):
        assert against(ledger, long, **{"policy": LIMITED, **free}) == ""
    assert "does not allow" in against(ledger, PLAN, Policy(evaluation="refuse"))
    hospital = Policy(maximum_epsilon=8.0, account="a", unit="hospital")
    assert "one hospital no guarantee" in against(ledger, PLAN, hospital)
