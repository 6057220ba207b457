"""The plan of a sum over hospitals: its noise, its shares, and who may be against it."""

import math
from typing import Any

import pytest
from support import goes_red, refuses

from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.privacy import accounting
from fedmed.privacy.ledger.deciding import decide
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.step import Mechanism, gaussian
from fedmed.privacy.plans import SummedPlan, part
from fedmed.privacy.plans.making import make_plan


def settings(arm: str = "distributed-dp-sgd", **changes: Any) -> Settings:
    given = {
        "data.hospitals": 5,
        "privacy.arm": arm,
        "privacy.epsilon": 1.0,
        "train.rounds": 50,
        "train.sampling-rate": 0.5,
    }
    return Settings().replaced(given | changes)


def planned(arm: str = "distributed-dp-sgd", **changes: Any) -> SummedPlan:
    plan = part(make_plan(settings(arm, **changes), 400, "hospital-1"), SummedPlan)
    assert plan is not None
    return plan


def test_one_epsilon_for_one_noise_wherever_it_is_added() -> None:
    """Of dp-sgd at this rate and length, but for the share of delta that is kept for the tables."""
    wanted = accounting.noise_multiplier(1.0, 1e-5, 0.5, 50)
    for arm in ("distributed-dp-sgd", "central-dp-sgd"):
        plan = planned(arm)
        assert plan.noise_multiplier == pytest.approx(wanted, rel=1e-3)
        assert plan.noise_multiplier > wanted
        assert plan.epsilon() == pytest.approx(1.0, abs=2e-3)
        assert plan.epsilon() <= 1.0
        assert (plan.steps, plan.steps_per_round, plan.sampling.rate) == (50, 1, 0.5)
    assert planned("central-dp-sgd").payer == "server"
    assert planned().payer == "hospital"


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, math.sqrt(5 / 4)),  # one of five may tell its share
        ({"privacy.colluding": 0}, 1.0),
        ({"privacy.colluding": 2, "privacy.threshold": 5}, math.sqrt(5 / 3)),
        ({"privacy.colluding": 0, "privacy.threshold": 4}, math.sqrt(5 / 4)),
    ],
)
def test_a_share_is_as_large_as_those_that_stay_need(
    changes: dict[str, int], factor: float
) -> None:
    grid = planned(**changes).grid(1000)
    whole = math.hypot(planned().noise_multiplier * grid.sensitivity, 4)
    assert grid.deviation == pytest.approx(whole / math.sqrt(5) * factor)


def test_against_all_others_the_share_alone_holds() -> None:
    plan = planned()
    alone = plan.epsilon_alone()
    assert alone == pytest.approx(
        accounting.epsilon(plan.noise_multiplier / 2, 0.5, 50, plan.delta), rel=1e-2
    )
    assert alone > 2 * plan.epsilon()
    (told, *_) = plan.words("federated").not_covered
    assert f"its own share alone, for which epsilon is {math.ceil(alone * 100) / 100:g}" in told
    assert planned("central-dp-sgd").words("federated").not_covered == ()


def test_a_replaced_image_is_told_the_share_alone_as_a_replacement() -> None:
    """Under a cap one image more takes another's place: twice what an added one changes."""
    image = {"privacy.unit": "image", "privacy.images-per-patient": 2}

    def check(plan: SummedPlan) -> None:
        wanted = accounting.epsilon(plan.noise_multiplier / 2, 0.5, 50, 1e-5, "replace-one")
        assert plan.epsilon_alone() == pytest.approx(wanted, rel=0.01)
        assert plan.epsilon_alone() >= wanted

    check(planned(**image))

    class Added(SummedPlan):
        @property
        def step(self) -> Mechanism:
            return gaussian(self.noise_multiplier, self.sampling_rate)

    goes_red(check, Added(**vars(planned(**image))))
    tiny = {"privacy.noise-multiplier": 0.04, "privacy.epsilon": 1e4, "train.rounds": 1}
    assert math.isinf(planned(**tiny).epsilon_alone())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy.colluding": 4}, "leaves nobody to share the noise with; use dp-sgd"),
        ({"data.hospitals": 2, "privacy.colluding": 0}, "leaves nobody to share the noise with"),
        ({"privacy.threshold": 3}, "could unmask two sums of one step and learn their difference; "
                                   "use 4 to 5, or 0 for all"),
        ({"privacy.threshold": 6}, "use 4 to 5"),
        ({"data.hospitals": 3, "privacy.threshold": 3, "privacy.colluding": 2}, "nobody to share"),
        ({"privacy.noise-multiplier": 1.0}, "above privacy.epsilon = 1; raise privacy.epsilon to"),
    ],
)  # fmt: skip
def test_plans_under_which_nothing_is_hidden_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    refuses(lambda: planned(**changes), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.ema": 0.9}, "train.ema: distributed-dp-sgd takes one step"),
        ({"train.server-optimizer": "adam"}, "train.server-optimizer: distributed-dp-sgd"),
        ({"train.proximal": 0.1}, "train.proximal"),
        ({"train.scheme": "pooled"}, "no exchange of updates"),
        ({"train.weighting": "size", "privacy.public-size": "9"}, "sums over patients"),
        ({"train.sampling-rate": 0.0}, "train.sampling-rate"),
    ],
)
def test_no_setting_is_silently_ignored(changes: dict[str, Any], words: str) -> None:
    refuses(lambda: settings(**changes), words)


def test_what_the_grid_cannot_carry_is_refused() -> None:
    plan = planned()
    assert plan.grid(11_000_000).deviation < 2**22
    with pytest.raises(UserError, match="32 bits"):
        planned(**{"privacy.noise-multiplier": 9000.0}).grid(11_000_000)


@pytest.mark.parametrize(
    "change",
    [{"train.sampling-rate": 0.4}, {"train.rounds": 51}, {"privacy.epsilon": 1.1},
     {"privacy.delta": 2e-5}, {"privacy.colluding": 0}, {"privacy.clipping-norm": 1.5},
     {"privacy.unit": "image", "privacy.images-per-patient": 2}],
)  # fmt: skip
def test_hospitals_with_another_plan_do_not_sum_together(change: dict[str, Any]) -> None:
    """Their terms have another digest, so that no peer takes their signed keys."""
    assert planned(**change).agreed(500) != planned().agreed(500)
    assert planned().agreed(500) == planned().agreed(500) != planned().agreed(501)


def test_a_policy_counts_on_so_many_honest_hospitals(tmp_path: Any) -> None:
    plan, ledger = planned(), Ledger(tmp_path / "l.sqlite")

    def asked(**policy: Any) -> Any:
        rules = Policy(public_size=400, **policy)
        return decide(settings(), "hospital-1", plan, rules, ledger, 400)

    named = {"arms": ["distributed-dp-sgd"]}
    assert asked(**named).accepts
    assert asked(**named, honest_hospitals=4).accepts
    refused = asked(**named, honest_hospitals=3)
    assert not refused.accepts
    assert refused.reason == "the plan counts on 4 honest hospitals, and the policy on 3"
    # A limit alone allows what a hospital's own noise protects, and this rests on others.
    assert not asked(maximum_epsilon=8.0).accepts
    assert not asked(maximum_epsilon=0.5, **named).accepts


def test_a_statement_says_who_is_trusted() -> None:
    facts = planned().facts("federated")
    assert (facts.noise, facts.trusted) == (("shares",), ("hospital", "others"))
    words = planned().words("federated")
    assert words.trust == "the hospital and all but a stated number of the other hospitals"
    assert "1 / sqrt(4) of the whole" in words.mechanism
    central = planned("central-dp-sgd").words("federated")
    assert central.trust == "the hospital and the server"
