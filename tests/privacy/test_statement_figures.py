"""Every printed figure is the worst hospital's at the one stated delta: random mixes, by seed.

Each is held against a brute force over the hospitals, from the numbers that the mix was drawn of.
"""

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from support import goes_red, gradient_plan, make, update_plan

from fedmed.config import Settings
from fedmed.federation.members import epsilon_after
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.images import DPPix, PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import Mechanism, group_gaussian, laplace
from fedmed.privacy.plans import GradientPlan, ImagePlan, Plan, StackedPlan
from fedmed.privacy.statement import figures
from fedmed.privacy.statement.contents import check, statement
from fedmed.privacy.statement.figures import Figures, Spend

ASKED = 1e-5
FIGURES = set(Figures.model_fields) - {"epsilon_by_pixels"}
Mix = tuple[Settings, dict[str, Spend]]


def _gradient(draw: random.Random, unit: str) -> GradientPlan:
    return gradient_plan(
        unit=unit,
        units=draw.choice([24, 40, 90]),
        expected_batch=draw.choice([4, 6, 9]),
        noise_multiplier=draw.uniform(0.8, 3.0),
        delta=draw.choice([1e-3, 1e-5, 1e-6]),
        images_per_patient=draw.randint(1, 3) if unit == "image" else 0,
    )


def _images(draw: random.Random) -> ImagePlan:
    scale = draw.uniform(1.0, 40.0)
    mechanism = draw.choice([PixelLaplace(scale, 64), DPPix(scale, 2, 3, 8)])
    return ImagePlan(mechanism=mechanism, images_per_patient=draw.randint(1, 3))


def _plan(draw: random.Random, arm: str) -> Plan:
    if arm == "images":
        return _images(draw)
    if arm == "local-update":
        noise, delta = draw.uniform(1.0, 4.0), draw.choice([1e-3, 1e-5])
        return update_plan("hospital", noise_multiplier=noise, delta=delta, rounds=3)
    if arm == "stacked":
        return StackedPlan(image=_images(draw), training=_gradient(draw, "patient"))
    return _gradient(draw, arm)


def mix(seed: int) -> Mix:
    """Two to four hospitals of one arm, each with noise, delta, cap and steps of its own."""
    draw = random.Random(seed)
    arm = ("patient", "image", "local-update", "images", "stacked")[seed % 5]
    keys = {
        "patient": {"arm": "dp-sgd"},
        "image": {"arm": "dp-sgd", "unit": "image", "images-per-patient": 2},
        "local-update": {"arm": "local-update"},
        "images": {"arm": "pixel-laplace", "images-per-patient": 2},
        "stacked": {"arm": "dp-sgd", "image-mechanism": "pixel-laplace", "laplace-scale": 20.0},
    }[arm]
    spends = {}
    for number in range(draw.randint(2, 4)):
        plan = _plan(draw, arm)
        taken = plan.steps if draw.random() < 0.5 else draw.randint(1, plan.steps)
        spends[f"hospital-{number}"] = Spend(plan, taken)
    return make(privacy={"delta": ASKED, **keys}), spends


def stated(mixed: Mix) -> dict[str, Any]:
    settings, spends = mixed
    return statement(settings, spends, "name", NoiseSource(), parameters=305)


def brute_force(spends: dict[str, Spend]) -> dict[str, float | None]:
    """The largest of every figure, from each hospital's mechanism and steps at the asked delta."""
    found: dict[str, list[float]] = {}
    for spend in spends.values():
        for name, value in _alone(spend.plan, spend.taken).items():
            found.setdefault(name, []).append(value)
    return {name: max(values) for name, values in found.items()}


def _alone(plan: Plan, taken: int) -> dict[str, float]:
    image = next((p for p in plan.parts if isinstance(p, ImagePlan)), None)
    claims = {} if image is None else image.mechanism.claims
    if isinstance(plan, ImagePlan):
        pure = claims["image"] * taken
        assert plan.step is not None
        release = ((laplace(plan.step.noise, plan.step.group), taken),)
        return {
            "epsilon": pure,
            "epsilon_planned": claims["image"],
            "epsilon_replace_one": pure,
            "epsilon_patient": pure * plan.images_per_patient,
            "epsilon_at_delta": accounting.composed_epsilon(release, ASKED),
            "epsilon_per_pixel": claims["pixel"] * taken,
            "images_per_patient": plan.images_per_patient,
            "noise_to_signal": math.sqrt(2) * plan.mechanism.scale,  # type: ignore[attr-defined]  # both have one
        }
    assert plan.step is not None
    spent = ((plan.step, taken),)
    risk = accounting.risk(spent, ASKED)
    found = {
        "epsilon": accounting.composed_epsilon(spent, ASKED),
        "epsilon_planned": accounting.composed_epsilon(((plan.step, plan.steps),), ASKED),
        "epsilon_rdp": accounting.rdp_epsilon(accounting.rdp(spent), ASKED),
        "epsilon_replace_one": plan.replace_one(taken, ASKED) or 0.0,
        "mu": risk.mu,
        "advantage": risk.advantage,
        "tpr_at_fpr_001": risk.tpr_at_fpr_001,
        "noise_to_signal": plan.noise_to_signal(305) or 0.0,
    }
    if plan.unit == "image":
        assert isinstance(plan, GradientPlan)
        cap = plan.images_per_patient
        group = group_gaussian(plan.noise_multiplier, plan.sampling_rate, cap)
        found["epsilon_patient"] = accounting.composed_epsilon(((group, taken),), ASKED)
        found["images_per_patient"] = cap
    if isinstance(plan, StackedPlan):
        assert plan.image.step is not None
        alone = accounting.composed_epsilon(((plan.image.step, 1),), ASKED)
        both = accounting.composed_epsilon(((plan.image.step, 1), *spent), ASKED)
        found["epsilon_with_noised_images"] = min(alone, both)
        found["epsilon_per_pixel"] = claims["pixel"]
    return found


def check_every_figure(told: dict[str, Any], spends: dict[str, Spend]) -> None:
    expected = brute_force(spends)
    for name, value in expected.items():
        assert told[name] == pytest.approx(value, rel=1e-9), name
    for name in {*FIGURES, "epsilon_per_pixel"} - set(expected):
        assert told[name] is None, name
    pure = all(spend.plan.delta == 0 for spend in spends.values())
    assert told["delta"] == (0 if pure else ASKED)
    for record, spend in zip(told["hospitals"], spends.values(), strict=True):
        assert record["delta"] == told["delta"]
        assert record["own_delta"] == spend.plan.delta
        alone = _alone(spend.plan, spend.taken)
        for name in set(alone) & set(record):
            assert record[name] == pytest.approx(alone[name], rel=1e-9), name


@pytest.mark.parametrize("seed", range(15))
def test_every_figure_is_the_worst_of_the_hospitals_at_one_delta(seed: int) -> None:
    settings, spends = mix(seed)
    told = stated((settings, spends))
    check(json.loads(json.dumps(told, allow_nan=False)))
    check_every_figure(told, spends)


def first_of(members: Any) -> Figures:
    return Figures(**{name: getattr(members[0], name) for name in Figures.model_fields})


def of_the_largest_epsilon(members: Any) -> Figures:
    return first_of([max(members, key=lambda record: record.epsilon or 0.0)])


@pytest.mark.parametrize("sabotage", [first_of, of_the_largest_epsilon])
def test_one_hospital_in_the_place_of_the_worst_is_noticed(
    sabotage: Callable[[Any], Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [mix(seed) for seed in range(0, 15, 5)]
    for case in cases:
        check_every_figure(stated(case), case[1])
    monkeypatch.setattr(figures, "worst", sabotage)

    def all_of_them() -> None:
        for case in cases:
            check_every_figure(stated(case), case[1])

    goes_red(all_of_them)


def test_figures_at_a_hospitals_own_delta_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = mix(5)
    check_every_figure(stated(case), case[1])
    monkeypatch.setattr(figures, "at", lambda plan, delta: plan.delta or None)
    goes_red(lambda: check_every_figure(stated(case), case[1]))


def test_a_delta_that_would_mean_nothing_at_a_large_hospital_is_not_stated() -> None:
    small, large = gradient_plan(delta=1e-2), gradient_plan(units=2000, delta=1e-4)
    assert figures.stated_delta(1e-2, [small]) == 1e-2
    assert figures.stated_delta(1e-2, [small, large]) == 1e-4
    assert figures.stated_delta(1e-2, [ImagePlan(mechanism=PixelLaplace(1.0, 9))]) == 0.0


def test_a_figure_that_one_hospital_lacks_is_not_the_runs() -> None:
    capped, open_ended = (
        ImagePlan(mechanism=PixelLaplace(2.0, 9), images_per_patient=cap) for cap in (2, 0)
    )
    settings = make(privacy={"arm": "pixel-laplace"})
    told = statement(
        settings, {"a": Spend(capped, 1), "b": Spend(open_ended, 1)}, "n", NoiseSource()
    )
    assert told["epsilon_patient"] is None, "b has no bound"
    assert told["images_per_patient"] is None
    other = ImagePlan(mechanism=DPPix(2.0, 2, 3, 8))
    told = statement(settings, {"a": Spend(other, 1), "b": Spend(capped, 1)}, "n", NoiseSource())
    assert set(told["epsilon_by_pixels"]) == {"pixel"}, "b claims no neighbourhood"
    assert "b: Laplace noise of scale 2" in told["mechanism"], "each hospital's own words"


def check_rounds(settings: Settings, plans: list[Plan]) -> None:
    spent = [((plan.step, plan.steps_per_round),) for plan in plans if plan.step is not None]
    worst = max(accounting.composed_epsilon(own, ASKED) for own in spent)
    assert epsilon_after(settings, plans, 1) == worst


def test_what_a_round_spent_is_the_worst_at_the_stated_delta(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make(privacy={"arm": "dp-sgd", "delta": ASKED}, train={"rounds": 2})
    plans: list[Plan] = [
        gradient_plan(noise_multiplier=2.0),
        gradient_plan(noise_multiplier=1.0, delta=1e-2),
        gradient_plan(noise_multiplier=1.5, delta=1e-6),
    ]
    check_rounds(settings, plans)
    assert epsilon_after(settings, [*plans, update_plan("hospital")], 1) is None
    monkeypatch.setattr("fedmed.federation.members.at", lambda plan, delta: plan.delta)
    goes_red(check_rounds, settings, plans)


def test_spent_mechanisms_compose_to_each_hospitals_figure() -> None:
    for seed in (0, 1, 2):
        for record in stated(mix(seed))["hospitals"]:
            spent = tuple((Mechanism.from_json(i["step"]), i["count"]) for i in record["spent"])
            found = accounting.composed_epsilon(spent, record["delta"])
            assert found == pytest.approx(record["epsilon"])


@pytest.mark.parametrize("seed", range(6))
def test_hospitals_with_different_protections_have_figures_of_their_own_alone(seed: int) -> None:
    draw = random.Random(100 + seed)
    plans = [_gradient(draw, "patient"), _images(draw), _gradient(draw, "image")]
    draw.shuffle(plans)
    spends = {f"h-{i}": Spend(plan, draw.randint(1, plan.steps)) for i, plan in enumerate(plans)}
    told = stated((make(privacy={"arm": "dp-sgd", "delta": ASKED}), spends))
    check(json.loads(json.dumps(told, allow_nan=False)))
    assert (told["facts"], told["epsilon"], told["delta"], told["mu"]) == (None, None, None, None)
    assert told["unit"] == "none"
    for record, spend in zip(told["hospitals"], spends.values(), strict=True):
        assert record["facts"] == spend.plan.facts("federated").model_dump(mode="json")
        assert record["delta"] == (ASKED if spend.plan.delta else 0)
        alone = _alone(spend.plan, spend.taken)
        for name in set(alone) & set(record):
            assert record[name] == pytest.approx(alone[name], rel=1e-9), name
        assert record["guarantee"]["unit"] == record["facts"]["unit"]
    hidden = statement(make(privacy={"arm": "dp-sgd"}), spends, "name", NoiseSource(3))
    for record in hidden["hospitals"]:
        assert {record[name] for name in FIGURES} == {None}
        assert record["epsilon_at_own_delta"] is None
        assert record["spent"], "to check by"
