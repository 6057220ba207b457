"""What histograms cost evaluation patients, on which account, and what a policy says of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import goes_red, gradient_plan, make, refuses

from fedmed.config import Settings
from fedmed.evaluation.pooled.histograms import Spec, equal_width
from fedmed.privacy import accounting
from fedmed.privacy.ledger.deciding import against_evaluation, request_for
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import SIMULATION, Policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.evaluation import (
    EvaluationPlan,
    check_delta,
    evaluation_account,
    evaluation_bins,
    evaluation_cap,
    evaluation_plan,
    evaluation_request,
    ledger_run,
    noise_for,
    noised,
)


def settings(arm: str = "dp-sgd", **evaluation: Any) -> Settings:
    return make(
        privacy={"arm": arm, "epsilon": 4.0, "delta": 1e-4},
        evaluation={"where": "hospitals", **evaluation},
    )


def planned(**changes: Any) -> EvaluationPlan:
    found = evaluation_plan(settings(**changes))
    assert found is not None
    return found


def test_noise_is_calibrated_to_epsilon_or_there_is_none() -> None:
    for arm in ("pixel-laplace", "dp-pix", "dp-sgd", "local-update", "central-adaptive"):
        plan = planned(arm=arm)
        assert accounting.epsilon(plan.noise_multiplier, 1.0, 1, 1e-4) == pytest.approx(4, rel=1e-3)
        assert plan.spent_epsilon() <= 4
        assert 4 < plan.spent_epsilon("replace-one") < 12
    for arm in ("none", "brightness-shift"):
        assert evaluation_plan(settings(arm)) is None
    assert planned(epsilon=1.0, delta=1e-5).noise_multiplier > 2 * planned().noise_multiplier


def test_defaults_of_cap_and_bins_depend_on_what_is_protected() -> None:
    assert (evaluation_cap(settings()), evaluation_cap(settings("none"))) == (1, 0)
    assert evaluation_cap(settings(**{"images-per-patient": 3})) == 3
    capped = make(privacy={"arm": "none", "images-per-patient": 2})
    assert evaluation_cap(capped) == 2
    assert (evaluation_bins(settings()), evaluation_bins(settings("none"))) == (32, 256)
    assert evaluation_bins(settings(bins=7)) == 7


def test_the_noise_of_a_cell_is_the_multiplier_times_all_overlapping_families() -> None:
    plan = planned(**{"images-per-patient": 2})
    spec = Spec(edges=equal_width(4), attributes=("sex", "age"), cap=2)
    assert plan.deviation(spec) == pytest.approx(plan.noise_multiplier * 2 * math.sqrt(3))
    with pytest.raises(ValueError, match="cap of 3"):
        plan.deviation(Spec(edges=(0.5,), cap=3))
    counts = {f: np.zeros(spec.shape(f)) for f in spec.families}
    released = noised(counts, 5.0, NoiseSource(0).normals())
    values = np.concatenate([cells.ravel() for cells in released.values()])
    assert values.size == sum(math.prod(spec.shape(f)) for f in spec.families)
    assert values.std() == pytest.approx(5, rel=0.25)
    assert not np.array_equal(released["all"].ravel()[:8], released["sex"].ravel()[:8])


def test_another_request_and_another_hospital_meet_other_noise() -> None:
    """Pitfalls 6 and 29, where noise is reproducible."""

    def first(source: NoiseSource, hospital: str, request: str) -> float:
        return float(noise_for(source, hospital, request).draw(1)[0])

    seeded = NoiseSource(3)
    draws = [first(seeded, h, r) for h in ("h1", "h2") for r in ("a", "b")]
    assert len(set(draws)) == 4
    assert draws[0] == first(seeded, "h1", "a")
    assert first(NoiseSource(), "h1", "a") != first(NoiseSource(), "h1", "a")


def check_unit(plan: EvaluationPlan, unit: str, distance: float) -> None:
    """The mechanism of a unit is Gaussian with the noise over how far that unit moves the cells."""
    spec = Spec(edges=equal_width(4), attributes=("sex",), cap=plan.cap)
    step = plan.cost(unit)
    assert step is not None
    assert step.noise <= plan.deviation(spec) / distance + 1e-12


@pytest.mark.parametrize("cap", [1, 2, 5])
def test_an_image_moves_two_cells_of_each_family_at_most(cap: int) -> None:
    """A removed image lets another in under the cap: one cell less, one more, in two families."""
    plan = planned(**{"images-per-patient": cap})
    for unit in ("image", "pixels"):
        check_unit(plan, unit, math.sqrt(2 * 2))
    check_unit(plan, "patient", cap * math.sqrt(2))
    assert plan.cost("hospital") is None
    if cap == 1:
        careless = EvaluationPlan(epsilon=4, delta=1e-4, cap=1, noise_multiplier=1.0)
        goes_red(check_unit, careless, "image", 2.0 * careless.noise_multiplier + 2)


def test_delta_must_be_below_one_over_the_patients() -> None:
    check_delta(planned(delta=1e-3), 999, "hospital-1")
    check_delta(planned(delta=0.5), 0, "hospital-1")
    refuses(
        lambda: check_delta(planned(delta=1e-3), 1000, "hospital-1"),
        "evaluation.delta = 0.001",
        "1000 evaluation patients",
        "use 0.0001",
    )


LIMITED = {"maximum_epsilon": 6.0, "delta": 1e-4}


def check_account(policy: Policy, fixed: bool, expected: str) -> None:
    assert evaluation_account("h", policy, fixed_split=fixed)[0] == expected


def test_which_account_pays() -> None:
    """Apart from training's only without a limit, or where the site says so and can mean it."""
    check_account(SIMULATION, False, "h/patient/evaluation")
    check_account(Policy(evaluation="shared"), False, "h/patient")
    check_account(Policy(account="lungs", unit="patient"), False, "lungs/evaluation")
    check_account(Policy(**LIMITED), True, "h/patient")
    check_account(Policy(**LIMITED, evaluation="separate"), True, "h/patient/evaluation")
    # A setting that draws the split could train tomorrow on whom it evaluates today.
    check_account(Policy(**LIMITED, evaluation="separate"), False, "h/patient")
    goes_red(check_account, Policy(**LIMITED), False, "h/patient/evaluation")


def why(policy: Policy, ledger: Ledger, arm: str = "dp-sgd", run: str = "r", **changes: Any) -> str:
    given = settings(arm, **changes)
    plan = gradient_plan(delta=1e-4)
    return against_evaluation(
        given, plan, evaluation_plan(given), policy, ledger, run, fixed_split=True
    )


def test_a_policy_may_forbid_histograms_even_exact_ones(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "h.sqlite")
    assert why(SIMULATION, ledger) == ""
    for arm in ("dp-sgd", "none"):
        assert "does not allow" in why(Policy(evaluation="refuse"), ledger, arm)


def test_training_is_counted_before_histograms_on_the_same_account(tmp_path: Path) -> None:
    """A training of epsilon 4.5 leaves room under 8 for histograms of 4, and under 7 none."""
    ledger = Ledger(tmp_path / "h.sqlite")
    assert 4.4 < gradient_plan(delta=1e-4).epsilon() < 4.6
    assert why(Policy(maximum_epsilon=8.0, delta=1e-4), ledger) == ""
    assert "after this training" in why(Policy(maximum_epsilon=7.0, delta=1e-4), ledger)
    # A training that is admitted as the account's only plan leaves nothing.
    assert "one plan took all" in why(Policy(maximum_epsilon=4.6, delta=1e-4), ledger)
    apart = Policy(maximum_epsilon=7.0, delta=1e-4, evaluation="separate")
    assert why(apart, ledger) == ""
    assert "limit" in why(apart, ledger, epsilon=7.5)
    assert not ledger.path.exists(), "a question writes nothing"


def test_a_run_that_goes_on_counts_what_it_has_taken_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "h.sqlite")
    policy = Policy(maximum_epsilon=8.0, delta=1e-4)
    plan = gradient_plan(delta=1e-4)
    request = request_for(settings(), "h", plan, policy)
    ledger.open_plan("r", request, policy.limit)
    for number in (1, 2):
        ledger.reserve("r", number, "m", plan.steps_per_round, limit=policy.limit)
    assert why(policy, ledger) == ""
    assert "after this training" in why(policy, ledger, run="another")


def test_the_release_is_charged_as_one_step_of_its_own_plan(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "h.sqlite")
    plan = planned()
    request = evaluation_request(settings(), "h", plan, SIMULATION, fixed_split=False)
    assert (request.account, request.unit, request.steps) == ("h/patient/evaluation", "patient", 1)
    ledger.open_plan(ledger_run("r"), request)
    ledger.reserve(ledger_run("r"), 0, "m", 1)
    assert ledger.state("h/patient") == ([], [])
    (opened,), total = ledger.state("h/patient/evaluation")
    assert opened["relation"] == "add-or-remove"
    assert total == list(plan.step.rdp())
    assert why(Policy(maximum_epsilon=0.5, delta=1e-4), ledger) == "", (
        "opened: each step is checked"
    )
    ledger.verify()


def test_a_unit_that_histograms_do_not_protect_is_refused_under_a_limit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "h.sqlite")
    policy = Policy(account="site", unit="hospital", maximum_epsilon=50.0, delta=1e-4)
    assert "one hospital no guarantee" in why(policy, ledger)
