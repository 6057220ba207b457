"""What all runs of a comparison cost together: the same data were touched by every one of them."""

from collections.abc import Mapping
from typing import Any

import pytest
from support import goes_red, gradient_plan, make, update_plan

from fedmed.evaluation.pooled.histograms import Spec
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.images import BrightnessShift, PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import gaussian, group_gaussian, replace_gaussian
from fedmed.privacy.plans.evaluation import evaluation_plan
from fedmed.privacy.plans.making import ImagePlan, NoPrivacy, Plan
from fedmed.privacy.statement import totals
from fedmed.privacy.statement.contents import Spend, Total, statement
from fedmed.privacy.statement.evaluation import evaluation_record

DELTA = 1e-5
STEP = gaussian(1.0, 0.25)  # of support.gradient_plan
Statements = dict[str, dict[str, Any]]


def stated(
    arm: str,
    members: Mapping[str, tuple[Plan, int]],
    source: NoiseSource | None = None,
    **privacy: Any,
) -> dict[str, Any]:
    pooled = "pooled" in members
    settings = make(
        privacy={"arm": arm, **privacy}, train={"scheme": "pooled" if pooled else "federated"}
    )
    spends = {name: Spend(plan, taken) for name, (plan, taken) in members.items()}
    return statement(settings, spends, arm, source or NoiseSource())


def dp_sgd(first: int, second: int) -> dict[str, Any]:
    plan = gradient_plan()
    return stated("dp-sgd", {"hospital-1": (plan, first), "hospital-2": (plan, second)})


def pooled(steps: int) -> dict[str, Any]:
    return stated("dp-sgd", {"pooled": (gradient_plan(noise_multiplier=3.0), steps)})


def noised(scale: float) -> dict[str, Any]:
    return stated("pixel-laplace", {"hospital-1": (ImagePlan(mechanism=PixelLaplace(scale, 9)), 1)})


def clean() -> dict[str, Any]:
    return stated("none", {"hospital-1": (NoPrivacy(), 0)})


def shifted() -> dict[str, Any]:
    plan = ImagePlan(mechanism=BrightnessShift(1.0))
    return stated("brightness-shift", {"hospital-1": (plan, 1)})


def total(unit: str, runs: Statements) -> Total:
    (found,) = [t for t in totals.totals(runs) if t.unit == unit]
    return found


def test_arms_and_seeds_on_the_same_patients_add_up() -> None:
    def check(runs: Statements) -> None:
        found = total("patient", runs)
        assert found.epsilon == accounting.composed_epsilon(((STEP, 14),), DELTA)
        assert found.delta == DELTA
        assert found.runs == ["dp-sgd/seed-0", "dp-sgd/seed-1"]
        assert found.neighbouring == "add or remove one patient"

    # hospital-1: 8 + 6 steps; hospital-2: 4 + 8.
    runs = {"dp-sgd/seed-0": dp_sgd(8, 4), "dp-sgd/seed-1": dp_sgd(6, 8)}
    check(runs)
    # As if every run had patients of its own; as if the worst of each run were one hospital.
    goes_red(check, {"dp-sgd/seed-0": dp_sgd(8, 4), "dp-sgd/seed-1": dp_sgd(0, 8)})
    goes_red(check, {"dp-sgd/seed-0": dp_sgd(8, 4), "dp-sgd/seed-1": dp_sgd(8, 6)})


def test_the_total_is_of_the_hospital_that_spent_most_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check() -> None:
        for first, second in ((8, 2), (2, 8), (5, 8)):
            found = total("patient", {"a/seed-0": dp_sgd(first, second)})
            most = ((STEP, max(first, second)),)
            assert found.epsilon == accounting.composed_epsilon(most, DELTA)

    check()
    real = totals._epsilon
    monkeypatch.setattr(
        totals, "_epsilon", lambda costs, member, *rest: real(costs, "hospital-1", *rest)
    )
    goes_red(check)


def test_a_total_is_at_the_smallest_delta_of_its_runs() -> None:
    """A delta of one run may be no delta at all for the units of another."""
    update = update_plan("hospital", delta=1e-2)
    settings = make(privacy={"arm": "local-update", "delta": 1e-2})
    other = statement(settings, {"hospital-1": Spend(update, 2)}, "name", NoiseSource())
    runs = {"a/seed-0": dp_sgd(8, 4), "b/seed-0": other}
    both = tuple(sorted(((STEP, 8), (gaussian(1.0), 2)), key=str))
    found = total("patient", runs)
    assert (found.delta, found.epsilon) == (DELTA, accounting.composed_epsilon(both, DELTA))


def test_a_pooled_run_holds_every_hospitals_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        found = total("patient", {"dp-sgd/seed-0": dp_sgd(8, 4), "pooled-dp-sgd/seed-0": pooled(5)})
        both = tuple(sorted(((STEP, 8), (gaussian(3.0, 0.25), 5)), key=str))
        assert found.epsilon == accounting.composed_epsilon(both, DELTA)

    check()
    monkeypatch.setattr(totals, "POOLED", "nobody")
    goes_red(check)


def test_pooled_runs_alone_have_a_total() -> None:
    found = total("patient", {"pooled-dp-sgd/seed-0": pooled(5), "pooled-dp-sgd/seed-1": pooled(5)})
    expected = accounting.composed_epsilon(((gaussian(3.0, 0.25), 10),), DELTA)
    assert found.epsilon == expected


def test_images_are_noised_once_for_all_seeds_of_one_scale() -> None:
    def check(runs: Statements) -> None:
        found = total("image", runs)
        assert found.epsilon == pytest.approx(9 / 2.0)
        assert found.delta == 0
        assert found.runs == list(runs)

    check({f"pixel-laplace/seed-{seed}": noised(2.0) for seed in range(3)})
    goes_red(check, {"a/seed-0": noised(2.0), "b/seed-0": noised(3.0)})
    assert total("image", {"a/seed-0": noised(2.0), "b/seed-0": noised(3.0)}).epsilon == (
        pytest.approx(4.5 + 3.0)
    )


def test_what_bounds_nothing_is_named_and_never_counted_as_nothing() -> None:
    secret = NoiseSource(3)
    seeded = stated("dp-sgd", {"hospital-1": (gradient_plan(), 8)}, secret)
    runs = {
        "none/seed-0": clean(),
        "brightness-shift/seed-0": shifted(),
        "pixel-laplace/seed-0": noised(2.0),
        "seeded/seed-0": seeded,
        "dp-sgd/seed-0": dp_sgd(8, 4),
    }

    def check(found: Total) -> None:
        assert found.runs == ["dp-sgd/seed-0"]
        assert found.not_bounded_by == [name for name in runs if name != "dp-sgd/seed-0"]

    check(total("patient", runs))
    # A sum that takes in what protects nobody, and one that leaves it out in silence.
    goes_red(check, total("patient", {n: r for n, r in runs.items() if n != "none/seed-0"}))
    assert total("image", runs).not_bounded_by == [n for n in runs if n != "pixel-laplace/seed-0"]
    assert totals.totals({"none/seed-0": clean()}) == []
    assert totals.totals({}) == []


def test_a_hospitals_update_covers_its_patients() -> None:
    local = stated("local-update", {"hospital-1": (update_plan("hospital"), 2)})
    central = stated("central-fixed", {"hospital-1": (update_plan("server"), 2)})

    def check(unit: str, runs: Statements, doubled: float) -> None:
        expected = accounting.composed_epsilon(((gaussian(doubled), 2),), DELTA)
        assert total(unit, runs).epsilon == expected

    for unit in ("patient", "image", "hospital"):
        check(unit, {"local-update/seed-0": local}, 1.0)
        # Zeroing out an update is half of replacing it.
        check(unit, {"central-fixed/seed-0": central}, 0.5)
        goes_red(check, unit, {"central-fixed/seed-0": central}, 1.0)


def test_under_the_image_unit_the_cap_gives_the_patients_total() -> None:
    plan = gradient_plan(unit="image", images_per_patient=3)
    keys = {"unit": "image", "images-per-patient": 3}
    runs = {"dp-sgd/seed-0": stated("dp-sgd", {"hospital-1": (plan, 4)}, **keys)}

    def check(group: int) -> None:
        expected = accounting.composed_epsilon(((group_gaussian(1.0, 0.25, group), 4),), DELTA)
        assert total("patient", runs).epsilon == expected

    check(3)
    goes_red(check, 1)
    replaced = accounting.composed_epsilon(((replace_gaussian(1.0, 0.25), 4),), DELTA)
    assert total("image", runs).epsilon == replaced


def test_the_total_is_never_below_any_run_in_it() -> None:
    runs = {"dp-sgd/seed-0": dp_sgd(8, 4), "pooled-dp-sgd/seed-0": pooled(5)}
    assert total("patient", runs).epsilon > max(r["epsilon"] for r in runs.values())


def evaluated(epsilon: float = 4.0, arm: str = "dp-sgd", source: NoiseSource | None = None) -> Any:
    """A statement of a run whose two hospitals sent histograms."""
    settings = make(
        privacy={"arm": arm, "delta": DELTA},
        evaluation={"where": "both", "epsilon": epsilon, "delta": DELTA},
    )
    told = clean() if arm == "none" else dp_sgd(8, 4)
    record = evaluation_record(
        settings,
        Spec(edges=(0.5,), cap=0 if arm == "none" else 1),
        source or NoiseSource(),
        hospitals=["hospital-1", "hospital-2"],
        missing={},
    )
    return {**told, "evaluation": record.model_dump()}


def test_evaluation_patients_have_a_total_of_their_own() -> None:
    runs = {f"dp-sgd/seed-{n}": evaluated() for n in (0, 1)}
    runs["none/seed-0"] = evaluated(arm="none")
    runs["seeded/seed-0"] = evaluated(source=NoiseSource(1))
    runs["server/seed-0"] = dp_sgd(8, 4)
    found = {(t.unit, t.of): t for t in totals.totals(runs)}
    own = found["patient", "evaluation"]
    step = evaluation_plan(make(privacy={"arm": "dp-sgd", "epsilon": 4.0, "delta": DELTA}))
    assert step is not None
    assert own.epsilon == accounting.composed_epsilon(((step.step, 2),), DELTA)
    assert own.runs == ["dp-sgd/seed-0", "dp-sgd/seed-1"]
    assert own.not_bounded_by == ["none/seed-0", "seeded/seed-0"]
    assert own.neighbouring == "add or remove one evaluation patient"
    without = {name: {**run, "evaluation": None} for name, run in runs.items()}
    assert totals.totals(without) == [t for t in found.values() if t.of == "training"]
