"""Evaluation by the hospitals, from the settings to the result, the statement and the ledgers."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support.runs import tiny_text, written

import fedmed.hospital.hospital
from fedmed.base.errors import RunError
from fedmed.cli.progress import Silent
from fedmed.coordinator import histograms
from fedmed.coordinator.evaluation import Evaluator, initial_model
from fedmed.evaluation.discrimination import auroc
from fedmed.evaluation.tables import predictions
from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.federation import messages
from fedmed.hospital import histograms as counted
from fedmed.hospital.refusals import Refusal
from fedmed.launch import run_inline
from fedmed.privacy import accounting
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.step import Mechanism
from fedmed.privacy.statement.contents import check as check_statement
from fedmed.report import build, write_summary

TEXT = tiny_text(
    ["none", "dp-sgd"],
    """
[evaluation]
where = "both"
resamples = 200
[run]
policies = "policies"
""",
    patients=160,
    train="learning-rate = 0.05",
)

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The experiment of this module; its policies lie beside it."""
    return written(tmp_path, TEXT)


def run(file: Path, out: Path, *arms: str, **changes: Any) -> list[dict[str, Any]]:
    options = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    experiment = load_experiment(file, arms=arms, assignments=options)
    fedmed.hospital.hospital.hospital_for.cache_clear()
    return run_experiment(experiment, out, run_inline, Silent())


def statement(out: Path, arm: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / arm / "seed-0" / "privacy.json").read_text())
    check_statement(found)
    return found


def check_bounds(found: dict[str, Any], exact: float) -> None:
    low, high = found["auroc_bounds"]
    assert low <= exact <= high
    assert high - low < 0.05


def test_exact_histograms_bound_the_servers_auroc(file: Path, tmp_path: Path) -> None:
    """No noise: what the hospitals tell agrees with the table that the server made itself."""
    out = tmp_path / "out"
    (result,) = run(file, out, "none", **{"data.patients": 300})
    found, own = result["federated_evaluation"], result["metrics"]
    assert found["source"] == "histograms"
    check_bounds(found, own["auroc"])
    goes_red(check_bounds, found, own["auroc"] + 0.06)
    assert (found["n_test"], found["n_val"]) == (own["n_test"], own["n_val"])
    assert found["prevalence"] == pytest.approx(own["prevalence"])
    assert found["noise"] is None
    table = predictions.read(out / "none" / "seed-0" / "predictions.parquet")
    test = table[table["split"] == "test"]
    each = [auroc(own["label"], own["score"]) for _, own in test.groupby("hospital")]
    assert found["within_hospital_auroc"] == pytest.approx(sum(each) / 2, abs=0.01)
    sexes = {row["group"]: row["n"] for row in found["groups"]["sex"]}
    assert sexes == {row["group"]: row["n"] for row in own["groups"]["sex"]}
    told = statement(out, "none")
    assert told["evaluation"]["unit"] == "none"
    assert "exact counts, unprotected" in told["evaluation"]["released"]
    assert told["evaluation"]["released"] in told["released"]
    assert "protects none of these" in told["summary"]
    assert any("evaluation patients" in line for line in told["not_covered"])
    assert not list((out / "ledgers").glob("hospital-*.sqlite"))


def test_a_private_run_pays_for_its_histograms(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, result = run(file, out, **{"evaluation.epsilon": 4.0})
    found = result["federated_evaluation"]
    assert found["noise"]["epsilon"] == 4.0
    assert found["noise"]["standard_deviation"] == pytest.approx(
        found["noise"]["noise_multiplier"] * 3**0.5
    )
    assert found["noise"]["standard_deviation_pooled"] == pytest.approx(
        found["noise"]["standard_deviation"] * 2**0.5
    )
    for name in ("hospital-1", "hospital-2"):
        ledger = Ledger(out / "ledgers" / f"{name}.sqlite")
        ledger.verify()
        rows = [r for r in ledger.rows() if r.account == f"{name}/patient/evaluation"]
        assert [row.kind for row in rows] == ["plan", "reserve", "commit"]
        assert {r.account for r in ledger.rows()} == {rows[0].account, f"{name}/patient"}
    told = statement(out, "dp-sgd")
    record = told["evaluation"]
    assert (record["unit"], record["delta"]) == ("patient", 1e-3)
    assert 3.9 < record["epsilon"] <= 4.0
    spent = tuple((Mechanism.from_json(i["step"]), i["count"]) for i in record["spent"])
    assert accounting.composed_epsilon(spent, 1e-3) == pytest.approx(record["epsilon"])
    assert record["hospitals"] == ["hospital-1", "hospital-2"]
    assert "One evaluation patient" in told["summary"]
    # The training's own figures do not move, and both totals stand beside each other.
    assert told["epsilon"] == pytest.approx(8, rel=1e-2)
    totals = {(t["unit"], t["of"]): t for t in told["total"]}
    assert totals["patient", "evaluation"]["epsilon"] == pytest.approx(record["epsilon"])
    assert totals["patient", "evaluation"]["runs"] == ["dp-sgd/seed-0"]
    assert totals["patient", "evaluation"]["not_bounded_by"] == ["none/seed-0"]
    assert totals["patient", "training"]["epsilon"] == pytest.approx(told["epsilon"], rel=1e-3)


def test_reproducible_noise_claims_nothing_for_evaluation_either(
    file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(file, out, "dp-sgd", **{"privacy.reproducible-noise": True})
    record = statement(out, "dp-sgd")["evaluation"]
    assert record["epsilon"] is None
    assert record["epsilon_without_knowledge_of_the_seed"] > 0


def test_the_server_touches_no_held_out_image_where_hospitals_evaluate(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "create", lambda *_: pytest.fail("the server evaluates"))
    for name in (
        "fedmed.experiment.run.held_out_shard",
        "fedmed.coordinator.evaluation.held_out_shard",
    ):
        monkeypatch.setattr(name, lambda *_: pytest.fail("the server reads held-out images"))
    out = tmp_path / "out"
    (result,) = run(file, out, "none", **{"evaluation.where": "hospitals"})
    folder = out / "none" / "seed-0"
    assert result["metrics"]["source"] == "histograms"
    assert result["metrics"]["auroc"] is not None
    assert "federated_evaluation" not in result
    assert not (folder / "predictions.parquet").exists()
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["auroc"] for line in history] == [None] * 3
    told = statement(out, "none")
    assert not any("server's validation and test" in line for line in told["not_covered"])
    assert not (out / "samples.npz").exists()
    assert "none" in write_summary(out).read_text()
    assert build(out).exists()


def test_local_models_are_evaluated_where_they_live(file: Path, tmp_path: Path) -> None:
    (result,) = run(file, tmp_path / "out", "local-only")
    check_bounds(result["federated_evaluation"], result["metrics"]["auroc"])


def test_pooled_data_are_one_member(file: Path, tmp_path: Path) -> None:
    (result,) = run(file, tmp_path / "out", "pooled")
    found = result["federated_evaluation"]
    check_bounds(found, result["metrics"]["auroc"])
    assert found["hospitals"] == ["pooled"]


def test_a_hospital_that_forbids_it_is_left_out_and_named(file: Path, tmp_path: Path) -> None:
    (file.parent / "policies" / "hospital-2.toml").write_text('evaluation = "refuse"\n')
    out = tmp_path / "out"
    (result,) = run(file, out, "dp-sgd", **{"evaluation.where": "hospitals"})
    assert result["metrics"]["hospitals"] == ["hospital-1"]
    assert result["refused"] == [], "it trained"
    ledger = Ledger(out / "ledgers" / "hospital-2.sqlite")
    assert {row.account for row in ledger.rows()} == {"hospital-2/patient"}
    assert statement(out, "dp-sgd")["evaluation"]["hospitals"] == ["hospital-1"]
    assert [e["what"] for e in ledger.log.entries()].count("refused") == 1


def test_if_none_may_evaluate_nothing_is_trained(file: Path, tmp_path: Path) -> None:
    for name in ("hospital-1", "hospital-2"):
        (file.parent / "policies" / f"{name}.toml").write_text('evaluation = "refuse"\n')
    out = tmp_path / "out"
    refuses(
        lambda: run(file, out, "none", **{"evaluation.where": "hospitals"}),
        "no hospital's policy allows histograms",
        error=RunError,
    )
    assert not (out / "none" / "seed-0" / "history.jsonl").exists()


def test_a_hospital_that_fails_stops_the_run_which_goes_on_with_the_stored_bytes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = counted.evaluate

    def second_fails(hospital: Any, *arguments: Any) -> Any:
        if hospital.name == "hospital-2":
            raise Refusal("data")
        return real(hospital, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(counted, "evaluate", second_fails)
        refuses(lambda: run(file, out, "dp-sgd"), "hospital-2", "data", error=RunError)
    assert not (out / "dp-sgd" / "seed-0" / "result.json").exists()
    ledger = Ledger(out / "ledgers" / "hospital-1.sqlite")
    before = len(ledger.rows())
    (result,) = run(file, out, "dp-sgd")
    assert result["resumed_from_round"] == 2
    assert result["federated_evaluation"]["hospitals"] == ["hospital-1", "hospital-2"]
    assert len(ledger.rows()) == before, "asked again, the hospital sends what it sent"


def test_a_failure_may_be_left_out(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise Refusal("data")

    monkeypatch.setattr(counted, "evaluate", fails)
    out = tmp_path / "out"
    changes = {"train.on-failure": "continue", "evaluation.where": "hospitals"}
    (result,) = run(file, out, "dp-sgd", **changes)
    found = result["metrics"]
    assert found["auroc"] is None
    assert found["missing"] == {"hospital-1": "data", "hospital-2": "data"}
    assert "no hospital sent histograms" in found["notes"]
    record = statement(out, "dp-sgd")["evaluation"]
    assert (record["hospitals"], record["epsilon"]) == ([], None)
    assert "nobody" not in json.dumps(found["groups"])


def test_a_reservation_without_a_reply_counts_as_spent(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashes(*_: Any) -> Any:
        raise RunError("diverged")

    monkeypatch.setattr(counted, "predict", crashes)
    out = tmp_path / "out"
    run(file, out, "dp-sgd", **{"train.on-failure": "continue"})
    record = statement(out, "dp-sgd")["evaluation"]
    assert record["hospitals"] == ["hospital-1", "hospital-2"]
    assert record["epsilon"] == pytest.approx(8, rel=1e-2)


def test_edges_come_from_public_images_and_repeat(file: Path, tmp_path: Path) -> None:
    settings = load_experiment(file, arms=["dp-sgd"]).base
    model = messages.parameters_of(initial_model(settings))
    spec = histograms.make_spec(settings, {"global": model})
    assert spec == histograms.make_spec(settings, {"global": model})
    assert (spec.bins, spec.cap, spec.attributes) == (32, 1, ("sex", "age"))
    even = settings.replaced({"evaluation.binning": "equal-width", "evaluation.bins": 4})
    assert histograms.make_spec(even, {"global": model}).edges == (0.25, 0.5, 0.75)


def test_an_arm_cannot_have_an_evaluation_of_its_own(file: Path) -> None:
    file.write_text(TEXT + '[arm.dp-sgd.evaluation]\nwhere = "server"\n')
    refuses(lambda: load_experiment(file), "[arm.dp-sgd] sets evaluation.where", "for all arms")
    file.write_text(TEXT + "[arm.dp-sgd.evaluation]\nepsilon = 2.0\n")
    assert load_experiment(file).arms["dp-sgd"].evaluation.epsilon == 2.0


def test_a_delta_too_large_is_found_before_anything_is_trained(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refuses(lambda: run(file, out, "dp-sgd", **{"evaluation.delta": 0.2}), "evaluation.delta = 0.2")
    assert not (out / "dp-sgd").exists()
