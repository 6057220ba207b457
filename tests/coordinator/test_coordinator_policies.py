"""Hospitals with rules of their own: they refuse, the federation goes on, budgets add up."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from support import goes_red, refuses
from support.runs import tiny_text, written

import fedmed.hospital.rounds
from clients.app import app
from fedmed.base.errors import RunError, UserError
from fedmed.cli.progress import Silent
from fedmed.data.network import load_network
from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Joining
from fedmed.hospital import hospital as at_home
from fedmed.hospital import simulated
from fedmed.hospital.terms import Site, review
from fedmed.launch import run_inline
from fedmed.privacy.ledger import deciding
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.statement.contents import check as check_statement

TEXT = tiny_text(["dp-sgd"], '[run]\npolicies = "policies"\n', rounds=3)
LIMIT = "maximum-epsilon = {}\ndelta = 1e-3\n"

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The experiment of this module; its policies lie beside it."""
    return written(tmp_path, TEXT)


def policy(file: Path, hospital: str, text: str) -> None:
    (file.parent / "policies" / f"{hospital}.toml").write_text(text)
    at_home.hospital_for.cache_clear()


def run(file: Path, out: Path, *arms: str, **changes: Any) -> dict[str, Any]:
    """One arm of the file, in this process."""
    options = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    experiment = load_experiment(file, arms=arms, assignments=options)
    at_home.hospital_for.cache_clear()
    (result,) = run_experiment(experiment, out, run_inline, Silent())
    return result


def joins(file: Path, out: Path, node: int = 3, run: str = "a run", **changes: Any) -> Joining:
    """What a hospital (by default hospital-2) answers to a query."""
    options = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    settings = load_experiment(file, assignments=options).settings(
        changes.get("privacy.arm", "dp-sgd"), 0
    )
    given = settings.replaced({"run.ledgers": str(out / "ledgers"), "run.out": str(out)})
    grid = InlineGrid(app, 2, given.to_flat())
    query = Message(messages.query_content(run), node, MessageType.QUERY)
    (reply,) = grid.send_and_receive([query])
    answer = messages.read_join(reply)
    assert isinstance(answer, Joining), answer
    return answer


def statement(out: Path, arm: str = "dp-sgd") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / arm / "seed-0" / "privacy.json").read_text())
    check_statement(found)
    return found


# What a policy refuses, and what it would take.


def test_without_a_policy_everybody_joins(file: Path, tmp_path: Path) -> None:
    assert joins(file, tmp_path) == Joining(hospital="hospital-2")


def test_an_arm_that_is_not_allowed_is_refused(file: Path, tmp_path: Path) -> None:
    policy(file, "hospital-2", 'arms = ["dp-sgd"]\n')
    assert joins(file, tmp_path).accepts
    refused = joins(file, tmp_path, **{"privacy.arm": "local-update"})
    assert refused == Joining(hospital="hospital-2", accepts=False)
    assert joins(file, tmp_path, node=2, **{"privacy.arm": "local-update"}).accepts
    # A limit alone keeps out what it could not count, unless an arm is named.
    policy(file, "hospital-2", LIMIT.format(50))
    for arm in ("none", "brightness-shift", "central-fixed"):
        assert not joins(file, tmp_path, **{"privacy.arm": arm}).accepts
    policy(file, "hospital-2", LIMIT.format(50) + 'arms = ["none"]\n')
    assert joins(file, tmp_path, **{"privacy.arm": "none"}).accepts


def test_a_cohort_below_the_minimum_is_refused(file: Path, tmp_path: Path) -> None:
    settings = load_experiment(file).base
    table = load_network(settings.data).training("hospital-2").table
    patients = table["patient_id"].nunique()
    assert patients < len(table), "patients are counted, not images"
    policy(file, "hospital-2", f"minimum-cohort = {patients}\n")
    assert joins(file, tmp_path).accepts
    policy(file, "hospital-2", f"minimum-cohort = {patients + 1}\n")
    assert joins(file, tmp_path) == Joining(hospital="hospital-2", accepts=False)


def test_reproducible_noise_must_be_allowed(file: Path, tmp_path: Path) -> None:
    seeded = {"privacy.reproducible-noise": True}
    policy(file, "hospital-2", "minimum-cohort = 1\n")
    assert joins(file, tmp_path).accepts
    assert not joins(file, tmp_path, **seeded).accepts
    policy(file, "hospital-2", "allow-reproducible-noise = true\n")
    assert joins(file, tmp_path, **seeded).accepts


def test_a_plan_over_the_budget_names_what_fits_and_that_is_accepted(
    file: Path, tmp_path: Path
) -> None:
    policy(file, "hospital-2", LIMIT.format(6))
    noise = {"privacy.noise-multiplier": 1.2, "privacy.epsilon": 100.0, "train.rounds": 12}
    refused = joins(file, tmp_path, **noise)
    assert not refused.accepts
    assert 1 <= refused.rounds < 12
    assert refused.epsilon == 6

    def check(changes: dict[str, Any]) -> None:
        assert joins(file, tmp_path, **changes).accepts

    check({**noise, "train.rounds": refused.rounds})
    check({"train.rounds": 12, "privacy.epsilon": refused.epsilon})
    # Largest: one round more, or a little more epsilon, is refused again.
    goes_red(check, {**noise, "train.rounds": refused.rounds + 1})
    goes_red(check, {"train.rounds": 12, "privacy.epsilon": refused.epsilon * 1.05})


def test_a_refusal_writes_no_row_and_is_noted(file: Path, tmp_path: Path) -> None:
    policy(file, "hospital-2", LIMIT.format(2))
    assert not joins(file, tmp_path).accepts
    ledger = Ledger(tmp_path / "ledgers" / "hospital-2.sqlite")
    assert ledger.rows() == []
    (line,) = ledger.log.entries()
    assert "limit" in json.dumps(line)


def test_a_policy_with_a_mistake_is_a_code_and_no_hospital(file: Path, tmp_path: Path) -> None:
    policy(file, "hospital-2", "maximum-epsilon = -1\n")
    with pytest.raises(AssertionError, match="plan"):
        joins(file, tmp_path)


# The federation around it.


def test_the_federation_goes_on_without_a_hospital_that_refuses(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy(file, "hospital-2", LIMIT.format(2))
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING, logger="fedmed"):
        result = run(file, out)
    assert result["refused"] == ["hospital-2"]
    assert result["rounds"] == 3
    assert "hospital-2's policy refuses the plan" in caplog.text
    assert "epsilon 2" in caplog.text
    stated = statement(out)
    assert stated["refused"] == ["hospital-2"]
    assert [h["hospital"] for h in stated["hospitals"]] == ["hospital-1"]
    history = (out / "dp-sgd/seed-0/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["hospitals"] for line in history] == [0, 1, 1, 1]
    assert Ledger(out / "ledgers" / "hospital-2.sqlite").rows() == []
    assert len(Ledger(out / "ledgers" / "hospital-1.sqlite").rows()) == 7, "plan, 3 x 2"


def test_a_hospital_never_trains_what_it_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the server makes of the answer: each reservation checks the limit again."""
    policy(file, "hospital-2", LIMIT.format(2))
    monkeypatch.setattr(
        "fedmed.hospital.simulated.review",
        lambda settings, index, *_: Joining(hospital=f"hospital-{index + 1}"),
    )
    out = tmp_path / "out"

    def check() -> None:
        result = run(file, out)
        assert result["refused"] == [], "the server was told nothing"
        assert Ledger(out / "ledgers" / "hospital-2.sqlite").rows() == []
        stated = {h["hospital"]: h for h in statement(out)["hospitals"]}
        assert stated["hospital-2"]["steps"] == 0
        assert stated["hospital-2"]["epsilon"] == 0

    check()
    policy(file, "hospital-2", LIMIT.format(9))
    out = tmp_path / "with room"
    goes_red(check)


def test_too_few_hospitals_stop_the_run_before_it_trains(file: Path, tmp_path: Path) -> None:
    policy(file, "hospital-2", LIMIT.format(2))
    refuses(
        lambda: run(file, tmp_path / "out", **{"train.minimum-hospitals": 2}),
        "1 of 2 hospitals take the plan",
        "train.minimum-hospitals = 2",
        "hospital-2's policy refuses",
        error=RunError,
    )
    assert not list((tmp_path / "out").rglob("history.jsonl"))
    policy(file, "hospital-1", LIMIT.format(2))
    refuses(lambda: run(file, tmp_path / "all"), "0 of 2 hospitals take the plan", error=RunError)


def test_a_second_run_over_the_same_ledgers_composes_on_top(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers = tmp_path / "ledgers"  # those of joins(), too
    shared = {"run.ledgers": str(ledgers), "privacy.epsilon": 3.0}
    policy(file, "hospital-2", LIMIT.format(5))
    first = run(file, tmp_path / "first", **shared)
    assert first["refused"] == []
    ledger = Ledger(ledgers / "hospital-2.sqlite")
    _, before = ledger.state("hospital-2/patient")
    second = run(file, tmp_path / "second", **shared)
    assert second["refused"] == ["hospital-2"], "3 and 3 are more than 5"
    _, unchanged = ledger.state("hospital-2/patient")
    assert unchanged == before
    elsewhere = joins(file, tmp_path / "elsewhere", **{"privacy.epsilon": 3.0})
    assert elsewhere.accepts, "a ledger in another folder knows nothing of the first"
    third = run(file, tmp_path / "third", **{**shared, "privacy.epsilon": 0.5})
    assert third["refused"] == []
    plans, after = ledger.state("hospital-2/patient")
    assert len(plans) == 2
    assert all(later > earlier for later, earlier in zip(after, before, strict=True))
    assert ledger.verify() == len(ledger.rows())

    def check() -> None:
        answer = joins(file, tmp_path, **{"privacy.epsilon": 3.0})
        assert not answer.accepts
        assert 0 < answer.epsilon < 3
        again = joins(file, tmp_path, **{"privacy.epsilon": answer.epsilon})
        assert again.accepts, "what it would take"

    check()
    # A ledger that forgets what other runs spent would let it through.
    monkeypatch.setattr(Ledger, "state", lambda self, account: ([], []))
    goes_red(check)


def test_an_interrupted_run_goes_on_within_the_limit_that_let_it_begin(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    policy(file, "hospital-2", LIMIT.format(8))
    original, calls = fedmed.hospital.rounds.train_private, []

    def crashing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fedmed.hospital.rounds, "train_private", crashing)
        with pytest.raises(Interrupted):
            run(file, tmp_path / "out")
    result = run(file, tmp_path / "out")
    assert result["refused"] == [], "its own earlier rounds are no other run's"
    assert result["epsilon"] <= 8


def test_a_policy_for_nobody_stops_everything(file: Path, tmp_path: Path) -> None:
    policy(file, "hospital-9", LIMIT.format(2))
    refuses(lambda: run(file, tmp_path / "out"), "hospital-9.toml belongs to no hospital")
    assert not list((tmp_path / "out").rglob("history.jsonl"))


def test_noised_images_are_paid_for_once(file: Path, tmp_path: Path) -> None:
    """The release is an account of its own unit: a second arm of the same scale costs nothing."""
    text = 'maximum-epsilon = 600\ndelta = 1e-3\nunit = "pixels"\narms = ["pixel-laplace"]\n'
    policy(file, "hospital-2", text)
    shared = {"run.ledgers": str(tmp_path / "kept"), "privacy.laplace-scale": 0.5}
    assert run(file, tmp_path / "a", "pixel-laplace", **shared)["refused"] == []
    ledger = Ledger(tmp_path / "kept" / "hospital-2.sqlite")
    rows = len(ledger.rows())
    assert rows == 2, "a plan and its one release"
    assert run(file, tmp_path / "b", "pixel-laplace", **shared)["rounds"] == 3
    assert len(ledger.rows()) == rows
    other = {**shared, "privacy.laplace-scale": 0.45}
    assert run(file, tmp_path / "c", "pixel-laplace", **other)["refused"] == ["hospital-2"]


def test_a_broken_decision_is_noticed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(file, "hospital-2", LIMIT.format(2))

    def check() -> None:
        assert not joins(file, tmp_path).accepts

    check()
    monkeypatch.setattr(deciding, "admit", lambda *_: False)
    goes_red(check)
    with pytest.raises(UserError):
        load_experiment(file, assignments=["run.policy=x"])


# The site's own files cannot be moved by who sends the settings (pitfalls 28 and 32).


def test_no_run_config_moves_a_sites_policy_or_ledger(file: Path, tmp_path: Path) -> None:
    """Whoever sends the settings may name another folder of policies and a fresh ledger."""
    own = tmp_path / "site" / "policy.toml"
    own.parent.mkdir()
    own.write_text(LIMIT.format(0.5))
    given = load_experiment(file).settings("dp-sgd", 0)
    hostile = given.replaced({"run.policies": "", "run.ledgers": str(tmp_path / "fresh")})
    mine = Site(policy=str(own), ledger=str(tmp_path / "site" / "l.sqlite"))

    def check(site: Site) -> None:
        assert not review(hostile, 0, 1, site).accepts
        assert site.open_ledger(hostile, "hospital-1", 1).path == tmp_path / "site" / "l.sqlite"

    check(mine)
    goes_red(check, Site())


def test_a_nodes_own_files_are_taken_from_how_it_was_started() -> None:
    config = {"partition-id": 0, "policy": "/site/policy.toml", "ledger": "/site/l.sqlite"}
    context = Context(1, 1, config, RecordDict(), {"run.policies": "", "run.ledgers": "/elsewhere"})
    assert simulated._site(context) == Site("/site/policy.toml", "/site/l.sqlite")
