"""Mistakes of accounting: each test is named after one, and fails where it is made on purpose."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from support import goes_red, make, refuses, tiny_shard, update_plan
from support.pitfalls import (
    LedgerInMemory,
    batch_sizes,
    flat,
    model,
    settings_of,
    some_rows,
    tiny_hospital,
)

from fedmed.config import Settings
from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.strategies import Start
from fedmed.coordinator.summing import WeightedSum
from fedmed.data.shard import Shard
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply
from fedmed.hospital import hospital as module
from fedmed.hospital import rounds
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
from fedmed.privacy import accounting
from fedmed.privacy.accounting import solve
from fedmed.privacy.ledger import filtering
from fedmed.privacy.ledger.deciding import request_for
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import Mechanism, gaussian
from fedmed.privacy.plans import GradientPlan, ImagePlan, Plan, UpdatePlan
from fedmed.privacy.plans import making as plans
from fedmed.privacy.plans.making import make_plan

DELTA = 1e-5
MEMBERS = {node: f"hospital-{node - 1}" for node in range(2, 7)}


pytestmark = pytest.mark.usefixtures("tiny_hospitals_on_one_thread")


def dp_sgd(**privacy: Any) -> Settings:
    """50 rounds of one pass over 2000 patients in batches of 64, noise multiplier 1."""
    train = {"rounds": 50, "batch-size": 64, "local-epochs": 1.0}
    values = {"arm": "dp-sgd", "noise-multiplier": 1.0, "epsilon": 10.0} | privacy
    return make(train=train, privacy=values)


def gaussian_delta(sigma: float, epsilon: float, steps: int = 1) -> float:
    """Exact delta of Gaussian noise at sensitivity 1 (Balle and Wang 2018, theorem 8)."""
    scaled = sigma / math.sqrt(steps)
    first = norm.logcdf(1 / (2 * scaled) - epsilon * scaled)
    second = epsilon + norm.logcdf(-1 / (2 * scaled) - epsilon * scaled)
    return float(math.exp(first) - math.exp(second))


def check_all_rounds_add_up() -> None:
    plan = make_plan(dp_sgd(), 2000, "hospital-1")
    assert plan.epsilon() == pytest.approx(8.37, abs=0.02)  # PLD
    request = request_for(dp_sgd(), "hospital-1", plan, Policy())
    total: list[float] = []
    for _ in range(50):
        total = filtering.after(request, plan.steps_per_round, total)
    assert accounting.rdp_epsilon(total, DELTA) == pytest.approx(
        9.2, abs=0.1
    )  # whole orders: a little above RDP's 9.1


def test_pitfall_01_no_round_has_a_fresh_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    check_all_rounds_add_up()
    with monkeypatch.context() as patch:
        patch.setattr(
            GradientPlan, "spent", lambda self, taken=None: ((self.step, self.steps_per_round),)
        )
        goes_red(check_all_rounds_add_up)
    fresh = filtering.after
    monkeypatch.setattr(filtering, "after", lambda request, steps, _: fresh(request, steps, []))
    goes_red(check_all_rounds_add_up)


def server_after(updates: dict[str, float], multiplier: float) -> torch.Tensor:
    """The model after one round from zero; every hospital's update is one number repeated."""
    zeros = {"w": torch.zeros(20_000)}
    plan = update_plan("server", hospitals=5, clipping_norm=0.5, noise_multiplier=multiplier)
    strategy = CentralGaussian(
        Start(make(data={"hospitals": 5}).train, MEMBERS, messages.encode_arrays({})),
        zeros,
        plan,
        LedgerInMemory(),
        NoiseSource(),
    )
    strategy.combine(
        1, [Reply(name, {"w": torch.full((20_000,), value)}) for name, value in updates.items()]
    )
    return strategy.models()["global"]["w"]


def check_noise_covers_the_largest_hospital() -> None:
    """Noise over what one hospital's update can do is 1; five standard errors: 1e-6."""
    quiet = dict.fromkeys(MEMBERS.values(), 0.0)
    noise = float(server_after(quiet, 1.0).std())
    for name in quiet:
        moved = float(server_after(quiet | {name: 1e3}, 1e-12).norm())
        assert noise / moved > 1 - 5 / (2 * 20_000) ** 0.5


def test_pitfall_02_noise_for_equal_weights_is_not_added_to_weights_by_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hospitals of 10000 and 4 x 500 patients: by size the effective multiplier is 0.24."""
    check_noise_covers_the_largest_hospital()
    real = WeightedSum.add

    def by_size(self: WeightedSum, hospital: str, update: Any, weight: float = 1.0) -> None:
        size = 10_000 if hospital == "hospital-1" else 500
        real(self, hospital, update, weight * 5 * size / 12_000)

    monkeypatch.setattr(WeightedSum, "add", by_size)
    goes_red(check_noise_covers_the_largest_hospital)

    def check(weighting: str) -> None:
        refuses(
            lambda: make(train={"weighting": weighting}, privacy={"arm": "central-fixed"}),
            "train.weighting",
            "use 'equal'",
        )

    check("size")
    goes_red(check, "equal")


def check_every_step_was_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 rounds of 2 passes over 24 patients at 6 a step: 24 steps, epsilon 4 over all of them."""
    settings = settings_of("dp-sgd", rounds=3, local_epochs=2.0)
    settings = settings.replaced({"privacy.epsilon": 4.0})
    plan = make_plan(settings, 24, "hospital-1")
    assert isinstance(plan, GradientPlan)
    one = tiny_hospital("dp-sgd", settings=settings, plan=plan)
    taken: list[int] = []
    step = torch.optim.SGD.step
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", lambda *a, **k: (taken.append(1), step(*a, **k)))
        for number in (1, 2, 3):
            one.train("run", number, model(number), {})
    assert len(taken) == one.ledger.steps("run") == plan.steps
    truth = accounting.epsilon(plan.noise_multiplier, 6 / 24, len(taken), plan.delta)
    assert truth <= 4.0


def test_pitfall_05_noise_is_calibrated_for_every_local_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_every_step_was_paid_for(monkeypatch)
    real = solve.noise

    def for_rounds(question: solve.Question, target: float) -> float:
        one_step = question.batch / question.units
        return real(dataclasses.replace(question, epochs=one_step), target)

    with monkeypatch.context() as patch:
        patch.setattr(solve, "noise", for_rounds)
        goes_red(check_every_step_was_paid_for, monkeypatch)
    monkeypatch.setattr(GradientPlan, "steps", property(lambda self: self.rounds))
    with pytest.raises(Refusal):  # a plan that counts rounds is used up by the first of them
        check_every_step_was_paid_for(monkeypatch)


def check_the_accounted_rate_is_the_one_that_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 batches of 24 patients at a rate of 1/4; five standard errors, false alarm 6e-7."""
    settings = settings_of("dp-sgd", rounds=3).replaced({"data.hospitals": 5})
    plan = make_plan(settings, 24, "hospital-1")
    assert isinstance(plan, GradientPlan)
    longer = dataclasses.replace(plan, steps_per_round=600)
    drawn = np.mean(batch_sizes(monkeypatch, longer, 24)) / 24
    charged = request_for(settings, "hospital-1", plan, Policy()).step
    assert charged is not None
    assert abs(drawn - charged.rate) < 5 * math.sqrt(0.25 * 0.75 / 24 / 600)


def test_pitfall_08_rates_of_hospitals_and_batches_are_not_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_the_accounted_rate_is_the_one_that_is_drawn(monkeypatch)
    monkeypatch.setattr(
        GradientPlan,
        "step",
        property(lambda self: gaussian(self.noise_multiplier, self.sampling_rate / 5)),
    )
    goes_red(check_the_accounted_rate_is_the_one_that_is_drawn, monkeypatch)


def check_laplace_scale_is_the_l1_sensitivity() -> None:
    """Black and white images: the output's log-likelihood ratio is at most epsilon, and near it."""
    plan = make_plan(make(privacy={"arm": "pixel-laplace", "epsilon": 8.0}), 9, "hospital-1")
    assert isinstance(plan, ImagePlan)
    assert isinstance(plan.mechanism, PixelLaplace)
    black, white = np.zeros((50, 16, 16), np.uint8), np.full((50, 16, 16), 255, np.uint8)
    rng = NoiseSource().numpy()
    # Mean absolute deviation of a Laplace draw is its scale; 12800 draws, 5 errors: 6e-7.
    scale = float(np.abs(plan.mechanism.apply(black, rng)).mean())
    assert abs(scale / plan.mechanism.scale - 1) < 5 / math.sqrt(black.size)
    assert float(np.abs(white / 255 - black / 255)[0].sum()) / plan.mechanism.scale <= 8.0


def check_many_steps_are_clipped_as_one_update() -> None:
    """36 local steps: what is noised for a sensitivity of C has a norm of C, not 36 of them."""
    one = tiny_hospital(
        "central-fixed",
        plan=update_plan("server", clipping_norm=1e-3),
        settings=settings_of("central-fixed", local_epochs=9.0),
    )
    assert float(flat(one.train("run", 1, model(), {}).update).norm()) <= 1e-3 * (1 + 1e-5)


def test_pitfall_11_the_scale_follows_the_norm_and_the_number_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_laplace_scale_is_the_l1_sensitivity()
    with monkeypatch.context() as patch:
        patch.setattr(
            PixelLaplace,
            "for_epsilon",
            classmethod(lambda cls, e, pixels, *_: cls(pixels**0.5 / e, pixels)),  # L2 norm
        )
        goes_red(check_laplace_scale_is_the_l1_sensitivity)
    check_many_steps_are_clipped_as_one_update()
    clip = rounds.clip
    monkeypatch.setattr(rounds, "clip", lambda update, bound: clip(update, 36 * bound))
    goes_red(check_many_steps_are_clipped_as_one_update)


# What one unit can do to what is noised, in clipping norms, under the relation that is printed.
_MOVES = {"add-or-remove": 1, "zero-out": 1, "replace": 2}


def check_clip_noise_and_accountant_agree(plan: GradientPlan | UpdatePlan) -> None:
    sensitivity = _MOVES[plan.facts("federated").relation] * plan.clipping_norm
    assert plan.noise_standard_deviation == pytest.approx(plan.step.noise * sensitivity)


def test_pitfall_18_clip_noise_and_accountant_mean_the_same_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradient = make_plan(dp_sgd(**{"clipping-norm": 0.3}), 2000, "hospital-1")
    updates = [update_plan(where, clipping_norm=0.3) for where in ("hospital", "server")]
    assert isinstance(gradient, GradientPlan)
    for plan in (gradient, *updates):
        check_clip_noise_and_accountant_agree(plan)
    # One accountant for both relations would be right for neither.
    assert gradient.replace_one() > 1.5 * gradient.epsilon()
    assert updates[0].replace_one() == updates[0].epsilon()
    assert updates[1].replace_one() > 1.5 * updates[1].epsilon()
    with monkeypatch.context() as patch:
        patch.setattr(UpdatePlan, "sensitivity_at", lambda self, clipping_norm: clipping_norm)
        goes_red(check_clip_noise_and_accountant_agree, updates[0])
    facts = GradientPlan.facts
    monkeypatch.setattr(
        GradientPlan,
        "facts",
        lambda self, s: facts(self, s).model_copy(update={"relation": "replace"}),
    )
    goes_red(check_clip_noise_and_accountant_agree, gradient)


def check_sigma_is_exact(epsilon: float, rounds: int) -> None:
    """Enough for all rounds together, and 2 % less is not."""
    settings = make(
        data={"hospitals": 4},
        train={"rounds": rounds},
        privacy={"arm": "central-fixed", "epsilon": epsilon},
    )
    plan = make_plan(settings, 10, "hospital-1")
    assert isinstance(plan, UpdatePlan)
    assert gaussian_delta(plan.noise_multiplier, epsilon, rounds) <= DELTA
    assert gaussian_delta(0.98 * plan.noise_multiplier, epsilon, rounds) > DELTA


def test_pitfall_19_sigma_is_not_the_classical_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dwork and Roth 2014, theorem A.1, holds for epsilon < 1 and for one release."""
    cases = [(12.0, 1), (0.5, 1), (2.0, 20)]
    for case in cases:
        check_sigma_is_exact(*case)
    monkeypatch.setattr(
        accounting, "noise_multiplier", lambda e, d, *_: math.sqrt(2 * math.log(1.25 / d)) / e
    )
    for case in cases:
        goes_red(check_sigma_is_exact, *case)


def sum_without(shard: Shard, left_out: str | None) -> torch.Tensor:
    """The sum of clipped gradients that DP-SGD releases, noise aside, without one patient."""
    rows = np.flatnonzero((shard.table["patient_id"] != left_out).to_numpy(dtype=bool))
    plan = GradientPlan(
        unit="patient",
        units=6,
        declared=True,
        expected_batch=6,  # everybody in every step
        steps_per_round=1,
        rounds=2,
        clipping_norm=0.1,
        noise_multiplier=1e-9,
        delta=DELTA,
    )
    settings = settings_of("dp-sgd", learning_rate=1.0)
    one = tiny_hospital("dp-sgd", shard=some_rows(shard, rows), plan=plan, settings=settings)
    return flat(one.train("run", 1, model(), {}).update) * 6


def check_a_patient_moves_the_sum_by_the_clipping_norm() -> None:
    """Four films each; one film is drawn, so only the patient's being there is bounded by C."""
    shard = tiny_shard(24, films=4)
    equal = shard.images.copy()
    equal[:] = equal[0]  # whichever film is drawn: the sums can be compared
    shard = dataclasses.replace(shard, images=equal, table=shard.table.assign(label=1))
    moved = float((sum_without(shard, None) - sum_without(shard, "p3")).norm())
    assert 0.05 < moved <= 0.1 * (1 + 1e-4)


def test_pitfall_20_epsilon_of_a_patient_is_not_that_of_an_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    privacy = {"unit": "image", "images-per-patient": 4, "epsilon": 15.0}
    plan = make_plan(dp_sgd(**privacy), 2000, "hospital-1")

    def check(plan: Plan) -> None:
        """Four records of a person: far above the epsilon of one, even of one replaced."""
        image, patient = plan.epsilon(), plan.per_patient()
        assert image is not None
        assert patient is not None
        assert patient > 3 * image
        charged = request_for(dp_sgd(**privacy), "hospital-1", plan, Policy(unit="patient")).step
        assert charged is not None
        assert charged.group == 4, "an account of patients pays the patient's price"

    check(plan)
    refuses(lambda: dp_sgd(unit="image"), "privacy.images-per-patient")
    with monkeypatch.context() as patch:
        patch.setattr(GradientPlan, "cost", lambda self, unit: self.step)
        goes_red(check, plan)
    check_a_patient_moves_the_sum_by_the_clipping_norm()
    monkeypatch.setattr(Shard, "patients", lambda self: [np.array([i]) for i in range(len(self))])
    goes_red(check_a_patient_moves_the_sum_by_the_clipping_norm)


def check_spend_outlives_the_process(open_ledger: Any) -> None:
    """Two rounds are planned; after a restart the third is refused."""
    first = tiny_hospital("local-update", ledger=open_ledger())
    first.train("run", 1, model(1), {})
    first.train("run", 2, model(2), {})
    restarted = tiny_hospital("local-update", ledger=open_ledger())
    assert restarted.ledger.steps("run") == 2
    refuses(lambda: restarted.train("run", 3, model(3), {}), "budget", error=Refusal)


def test_pitfall_22_the_ledger_does_not_live_in_memory(tmp_path: Path) -> None:
    check_spend_outlives_the_process(lambda: Ledger(tmp_path / "ledger.sqlite"))
    goes_red(check_spend_outlives_the_process, LedgerInMemory)


def test_pitfall_24_delta_is_below_one_over_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        settings = dp_sgd(delta=1 / 2000)
        refuses(lambda: make_plan(settings, 2000, "hospital-1"), "privacy.delta", "1/2000")
        hospitals = make(data={"hospitals": 4}, privacy={"arm": "central-fixed", "delta": 0.25})
        refuses(lambda: make_plan(hospitals, 2000, "hospital-1"), "1/4", "4 hospitals")

    check()
    monkeypatch.setattr(plans, "_check_delta", lambda *_: None)
    goes_red(check)


def check_changed_data_open_no_fresh_budget(folder: Path) -> None:
    """A limit with room for one run: a film added to the data does not make room for another."""
    limited = Policy(maximum_epsilon=4.5, delta=1e-3, arms=["dp-sgd"])
    train = {"settings": settings_of("dp-sgd"), "ledger": Ledger(folder / "ledger.sqlite")}
    first: Hospital = tiny_hospital("dp-sgd", policy=limited, **train)
    first.train("run-1", 1, model(), {})
    plan = dataclasses.replace(first.plan, declared=True)  # type: ignore[type-var]  # one of several dataclasses
    for shard in (tiny_shard(25), tiny_shard(seed=1)):
        again = tiny_hospital("dp-sgd", policy=limited, shard=shard, plan=plan, **train)
        run = f"run-{shard.key}"
        refuses(lambda a=again, r=run: a.train(r, 1, model(), {}), "policy", error=Refusal)


def test_pitfall_28_a_budget_is_not_keyed_by_a_hash_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_changed_data_open_no_fresh_budget(tmp_path / "a")
    real = module.request_for

    def by_hash(*arguments: Any) -> filtering.Charge:
        return dataclasses.replace(real(*arguments), account=arguments[-1])

    monkeypatch.setattr(module, "request_for", by_hash)
    goes_red(check_changed_data_open_no_fresh_budget, tmp_path / "b")


def check_hospital_level_claim(arm: str) -> None:
    """Everybody knows who takes part: replacement at 2C (or zeroing out at C), no amplification."""
    settings = make(data={"hospitals": 10}, privacy={"arm": arm, "epsilon": 3.0})
    plan = make_plan(settings, 10, "hospital-1")
    assert isinstance(plan, UpdatePlan)
    facts = plan.facts("federated")
    assert facts.sampling == "everyone"
    assert facts.relation in ("replace", "zero-out")
    widest = _MOVES[facts.relation] * plan.clipping_norm
    sigma = plan.noise_standard_deviation / widest
    assert gaussian_delta(sigma, plan.epsilon() * (1 + 1e-6), plan.rounds) <= plan.delta


def check_everybody_is_asked(strategy_of: type[CentralGaussian]) -> None:
    grid = InlineGrid(lambda message, context: message, 5, {})  # type: ignore[arg-type]  # never called
    strategy = strategy_of(
        Start(make(data={"hospitals": 5}).train, MEMBERS, messages.encode_arrays({})),
        model(),
        update_plan("server", hospitals=5),
        LedgerInMemory(),
        NoiseSource(),
    )
    empty = messages.encode_arrays({})
    sent = list(strategy.configure_train(1, empty, None, grid))  # type: ignore[arg-type]  # no config is read
    assert sorted(m.metadata.dst_node_id for m in sent) == sorted(MEMBERS)


class SamplesHospitals(CentralGaussian):
    """Asks two of five, which everyone can see."""

    def configure_train(self, *arguments: Any) -> list[Any]:
        return list(super().configure_train(*arguments))[:2]


def test_pitfall_31_no_hospital_level_claim_rests_on_a_secret_membership(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for arm in ("local-update", "central-fixed"):
        check_hospital_level_claim(arm)
    check_everybody_is_asked(CentralGaussian)
    goes_red(check_everybody_is_asked, SamplesHospitals)
    with monkeypatch.context() as patch:
        patch.setattr(UpdatePlan, "sensitivity_at", lambda self, clipping_norm: clipping_norm)
        goes_red(check_hospital_level_claim, "local-update")
    amplified: Any = property(lambda self: Mechanism(kind="gaussian", noise=1.0, rate=0.5))
    monkeypatch.setattr(UpdatePlan, "step", amplified)
    monkeypatch.setattr(accounting, "noise_multiplier", lambda *_: 1.0)
    for arm in ("local-update", "central-fixed"):
        goes_red(check_hospital_level_claim, arm)
