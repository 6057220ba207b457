"""Ways to a fresh budget, or to a total that is too small, that must stay closed."""

from pathlib import Path
from typing import Any

import pytest
from support import goes_red, gradient_plan, make, refuses
from typer.testing import CliRunner

from fedmed.base.errors import UserError
from fedmed.cli.commands import app
from fedmed.experiment.file import load_experiment
from fedmed.federation.members import make_plans
from fedmed.hospital.terms import Site
from fedmed.privacy import accounting
from fedmed.privacy.ledger import deciding, filtering
from fedmed.privacy.ledger.filtering import Charge
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.images import DPPix, PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import gaussian
from fedmed.privacy.plans import ImagePlan
from fedmed.privacy.plans.making import noise_source
from fedmed.privacy.statement.contents import Spend, statement
from fedmed.privacy.statement.totals import totals

SETTINGS = make(privacy={"arm": "dp-sgd"})
LIMITED = Policy(maximum_epsilon=12.0, delta=1e-5)


def check_one_account(name: str, ledger: Ledger) -> None:
    plan = gradient_plan(rounds=8)
    charged = deciding.request_for(SETTINGS, ledger.path.stem, plan, LIMITED)
    ledger.open_plan("a run", charged, LIMITED.limit)
    ledger.reserve("a run", 1, "m", 32, limit=LIMITED.limit)
    renamed = deciding.decide(SETTINGS, name, plan, LIMITED, ledger, 100)
    assert not renamed.accepts


def test_a_hospital_under_another_name_has_the_same_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come with the server's settings; the account belongs to the site's ledger."""
    check_one_account("hospital-1", Ledger(tmp_path / "site.sqlite"))
    check_one_account("pooled", Ledger(tmp_path / "again.sqlite"))
    real = deciding.request_for
    names = ["a name of the server's", "hospital-1"]

    def by_name(settings: Any, owner: str, *rest: Any) -> Charge:
        return real(settings, names.pop(), *rest)

    monkeypatch.setattr(deciding, "request_for", by_name)
    goes_red(check_one_account, "pooled", Ledger(tmp_path / "sabotaged.sqlite"))


def test_a_node_with_a_policy_and_no_ledger_pays_nowhere(tmp_path: Path) -> None:
    site = Site(policy=str(tmp_path / "policy.toml"))
    refuses(lambda: site.open_ledger(SETTINGS, "hospital-1", 1), "no ledger", "fresh budget")
    both = Site(policy=site.policy, ledger=str(tmp_path / "l.sqlite"))
    assert both.open_ledger(SETTINGS, "hospital-1", 1).path == tmp_path / "l.sqlite"


def test_pooled_data_do_not_pass_a_hospitals_policy(tmp_path: Path) -> None:
    (tmp_path / "hospital-1.toml").write_text('arms = ["local-update"]\n')
    pooled = make(
        data={"patients": 60},
        train={"scheme": "pooled", "batch-size": 4},
        privacy={"arm": "none"},
        run={"policies": str(tmp_path)},
    )
    refuses(lambda: make_plans(pooled), "pooled", "hospital-1", "past its policy")
    (tmp_path / "pooled.toml").write_text('arms = ["none"]\n')
    assert list(make_plans(pooled)) == ["pooled"]


def test_the_order_of_an_account_does_not_follow_a_limit_that_is_raised(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    first = deciding.request_for(SETTINGS, "site", gradient_plan(noise_multiplier=4.0), LIMITED)
    ledger.open_plan("first", first, Policy(maximum_epsilon=1.0, delta=1e-5).limit)
    order = ledger.rows()[0].body["order"]
    loose = Policy(maximum_epsilon=50.0, delta=1e-5).limit
    assert loose is not None
    assert filtering.first_order(first, loose) != order, "today's limit alone would choose another"
    assert filtering._index(ledger.rows()[0].body, loose) == filtering.ORDERS.index(order)


def stated(mechanism: Any) -> dict[str, Any]:
    settings = make(privacy={"arm": "pixel-laplace"})
    spends = {"hospital-1": Spend(ImagePlan(mechanism=mechanism), 1)}
    return statement(settings, spends, "name", NoiseSource())


def test_two_arms_of_one_scale_are_two_releases_and_two_seeds_are_one() -> None:
    laplace, pix = stated(PixelLaplace(32.0, 256)), stated(DPPix(32.0, 1, 16, 16))

    def check(found: float, expected: float) -> None:
        assert found == expected

    (seeds,) = totals({"a/seed-0": laplace, "a/seed-1": laplace})
    check(seeds.epsilon, 8.0)
    (arms,) = totals({"a/seed-0": laplace, "b/seed-0": pix}, not_counted=["c/seed-0"])
    check(arms.epsilon, 16.0)
    goes_red(check, arms.epsilon, seeds.epsilon)
    assert arms.not_counted == ["c/seed-0"]


def test_runs_added_after_results_were_seen_are_an_odometers_reading() -> None:
    """A privacy loss distribution composes only what was fixed in advance."""
    spends = {"hospital-1": Spend(gradient_plan(), 8)}
    one = statement(SETTINGS, spends, "name", NoiseSource())
    runs = {"dp-sgd/seed-0": one, "dp-sgd/seed-1": one}
    (fixed,) = totals(runs)
    (adaptive,) = totals(runs, extended=True)
    assert one["epsilon"] < fixed.epsilon < adaptive.epsilon
    both = accounting.rdp(((gaussian(1.0, 0.25), 16),))
    assert adaptive.epsilon == accounting.odometer(both, 1e-5) > accounting.rdp_epsilon(both, 1e-5)
    assert (fixed.theorem, adaptive.theorem) == ("composition", "odometer")
    (pure,) = totals({"a/seed-0": stated(PixelLaplace(32.0, 256))}, extended=True)
    assert (pure.epsilon, pure.theorem) == (
        8.0,
        "composition",
    )  # whatever chose it: a sum bounds it


def test_two_arms_of_one_seed_share_no_reproducible_noise() -> None:
    def check(first: NoiseSource, second: NoiseSource) -> None:
        assert first.reproducible
        assert second.reproducible
        drawn = [s.numpy("update", "hospital-1", 1, "model").normal() for s in (first, second)]
        assert drawn[0] != drawn[1]

    mine, other = (
        noise_source(make(privacy={"arm": arm, "reproducible-noise": True}))
        for arm in ("dp-sgd", "local-update")
    )
    check(mine, other)
    goes_red(check, NoiseSource(0), NoiseSource(0))


@pytest.mark.parametrize(
    "options",
    [
        "--patients 1000 --batch 64 --epochs 20 --epsilon 1e9",
        "--patients 1000 --batch 64 --epochs 20 --epsilon 0",
        "--patients 1000 --batch 64 --epochs 20 --epsilon -1",
        "--patients 1000 --batch 64 --epochs 20 --epsilon nan",
        "--patients 1000 --batch 64 --epochs 20 --epsilon 1e-9",
        "--patients 1000 --batch 64 --epochs 20 --epsilon 8 --delta 1e-320",
        "--patients 1000 --batch 64 --epochs 20 --epsilon 8 --delta nan",
        "--patients 1000 --batch 64 --epochs 0 --epsilon 8",
        "--patients 1000 --batch 1001 --epochs 20 --epsilon 8",
        "--patients 1000 --batch 64 --epochs 20 --noise-multiplier 1e-300",
        "--patients 1000 --batch 64 --epochs 20 --noise-multiplier inf",
        "--patients 1000 --batch 64",
        "--patients 0 --batch 1 --epochs 1 --epsilon 8",
        "--patients 1000000 --batch 1 --epochs 1000000 --epsilon 8",
    ],
)
def test_numbers_out_of_range_are_one_line_and_exit_code_2(options: str) -> None:
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(app, ["plan", *options.split()], catch_exceptions=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("privacy.epsilon", 1e9),
        ("privacy.epsilon", 1e-9),
        ("privacy.noise-multiplier", 1e-300),
        ("privacy.noise-multiplier", float("nan")),
        ("privacy.delta", 1e-320),
        ("privacy.public-size", "9" * 5000),
    ],
)
def test_settings_out_of_range_name_their_key(key: str, value: Any) -> None:
    settings = make(data={"patients": 60}, train={"batch-size": 4}, privacy={"delta": 1e-3})

    def plan() -> None:
        make_plans(settings.replaced({"privacy.arm": "dp-sgd", key: value}))

    refuses(plan, key)


def test_a_size_for_nobody_is_a_misspelt_one() -> None:
    settings = make(
        data={"patients": 60},
        train={"batch-size": 4},
        privacy={"arm": "dp-sgd", "delta": 1e-3, "public-size": "50,hospitl-1=30"},
    )
    refuses(lambda: make_plans(settings), "hospitl-1", "did you mean 'hospital-1'")


def test_an_arm_refuses_keys_that_it_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text('arms = ["pixel-laplace"]\n[arm.pixel-laplace.privacy]\nclip-share = 0.4\n')
    refuses(lambda: load_experiment(path), "clip-share", "pixel-laplace", "central-adaptive")


def test_an_unprotected_request_fits_no_limit() -> None:
    request = Charge(
        account="a", unit="patient", arm="none", relation="none", step=None, steps=1, delta=0.0
    )
    assert min(request.divergence()) == float("inf")
