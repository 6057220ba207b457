"""Comparisons: what a file may say, and what a folder holds."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.runs import ALL_ARMS, run, written

import fedmed.hospital.rounds
from fedmed.base.errors import RunError, UserError
from fedmed.config import Settings
from fedmed.evaluation.tables import predictions
from fedmed.experiment.file import load_experiment
from fedmed.privacy.accounting import epsilon
from fedmed.privacy.statement.contents import check as check_statement
from fedmed.privacy.statement.whole import check as check_whole
from fedmed.report import build, write_summary

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The experiment of every arm."""
    return written(tmp_path, ALL_ARMS)


def check_traffic_and_budget(history: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """What a history says of bytes and epsilon by round, against the run's result."""
    assert (history[0]["bytes_sent"], history[0]["bytes_received"]) == (0, 0)
    sent, received = history[1]["bytes_sent"], history[1]["bytes_received"]
    assert all((h["bytes_sent"], h["bytes_received"]) == (sent, received) for h in history[1:])
    assert 0 < received <= sent  # what training never changes travels one way only
    spent = [h["epsilon_spent"] for h in history]
    if result["epsilon"] is None:
        assert spent == [None] * 4
    elif result["unit"] == "image":
        assert spent == [result["epsilon"]] * 4  # released before round 1
    else:
        assert spent[0] == 0
        assert spent == sorted(set(spent))
        assert spent[1] > result["epsilon"] / 3  # composition grows slower than addition
        assert spent[3] == pytest.approx(result["epsilon"], rel=1e-9)


def test_every_arm_leaves_a_whole_run_directory(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = {r["name"]: r for r in run(file, out)}
    units = {name: result["unit"] for name, result in results.items()}
    assert units == {
        "none": "none",
        "pixel-laplace": "image",
        "dp-pix": "image",
        "brightness-shift": "none",
        "dp-sgd": "patient",
        "local-update": "hospital",
        "central-fixed": "hospital",
        "central-adaptive": "hospital",
        "pooled": "none",
        "local-only": "none",
    }
    # 16 x 16 pixels at scale 0.5: 2 per pixel, 512 per image.
    assert results["pixel-laplace"]["epsilon"] == pytest.approx(512)
    for name in ("dp-sgd", "local-update", "central-fixed", "central-adaptive"):
        assert 7.9 < results[name]["epsilon"] <= 8
    for name in ("none", "brightness-shift", "pooled", "local-only"):
        assert results[name]["epsilon"] is None
    tables = {}
    for name in results:
        folder = out / name / "seed-0"
        written = {p.name for p in folder.iterdir() if p.is_file()}
        assert written == {
            "config.json",
            "history.jsonl",
            "predictions.parquet",
            "privacy.json",
            "result.json",
            "model.safetensors",
        }
        tables[name] = predictions.read(folder / "predictions.parquet")
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert [h["round"] for h in history] == [0, 1, 2, 3]
        check_traffic_and_budget(history, results[name])
        losses = [h["train_loss"] for h in history[1:]]
        if results[name]["arm"] == "none":
            assert all(isinstance(loss, float) for loss in losses)
        else:
            assert losses == [None, None, None]  # a loss beside a noised update is a leak
    images = tables["none"]["image"]
    for table in tables.values():
        pd.testing.assert_series_equal(table["image"], images)
        assert set(table["split"]) == {"val", "test"}
    compared = json.loads((out / "comparison.json").read_text())
    assert (compared["baseline"], compared["arms"]) == ("none", list(results))
    assert set(compared["inputs"]) == {f"{name}/seed-0" for name in results}
    assert compared["images"] == int((tables["none"]["split"] == "test").sum())
    summary = pd.read_csv(write_summary(out))
    assert list(summary["arm"]) == list(results)
    page = build(out).read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    with np.load(out / "samples.npz", allow_pickle=False) as samples:
        noisy = {f"noisy:{arm}" for arm in ("pixel-laplace", "dp-pix", "brightness-shift")}
        assert set(samples.files) == {"clean", "label", *noisy}
    check_totals(out, sorted(f"{name}/seed-0" for name in results))


def check_totals(out: Path, runs: list[str]) -> None:
    """Every run's statement, and the comparison's, give one total over all runs."""
    whole = json.loads((out / "privacy-total.json").read_text())
    assert not (out / "privacy.json").exists()  # which is the name of a run's own
    assert check_whole(whole).runs == whole["runs"] == runs
    assert not whole["guarantee"]  # the run without privacy bounds nothing
    totals = {total["unit"]: total for total in whole["total"]}
    assert sorted(totals) == ["hospital", "image", "patient"]
    for total in totals.values():
        assert sorted([*total["runs"], *total["not_bounded_by"]]) == runs
    updates = ["central-adaptive/seed-0", "central-fixed/seed-0", "local-update/seed-0"]
    assert totals["hospital"]["runs"] == updates
    assert totals["patient"]["runs"] == sorted([*updates, "dp-sgd/seed-0"])
    assert totals["patient"]["epsilon"] > totals["hospital"]["epsilon"] > 3 * 8
    for name in runs:
        stated = check_statement(json.loads((out / name / "privacy.json").read_text()))
        assert [total.model_dump() for total in stated.total] == whole["total"]


def test_identifiers_in_predictions_are_pseudonyms(file: Path, tmp_path: Path) -> None:
    run(file, tmp_path / "out", "none")
    table = predictions.read(tmp_path / "out/none/seed-0/predictions.parquet")
    assert table["patient_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert table["image"].str.fullmatch("[0-9a-f]{16}").all()


def test_a_finished_arm_is_not_run_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = run(file, out, "none")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("fedmed.hospital.rounds.train_plain", fail)
    assert run(file, out, "none") == first


def test_replacing_a_hospital_costs_more_than_zeroing_it_out(file: Path, tmp_path: Path) -> None:
    run(file, tmp_path / "out", "central-fixed", "local-update")
    central, local = (
        json.loads((tmp_path / f"out/{arm}/seed-0/privacy.json").read_text())
        for arm in ("central-fixed", "local-update")
    )
    # Three Gaussian releases at half the noise multiplier, by the same accountant.
    sigma = central["hospitals"][0]["noise_multiplier"]
    assert central["epsilon_replace_one"] == pytest.approx(epsilon(sigma / 2, 1.0, 3, 1e-3))
    assert central["epsilon_replace_one"] > 2 * central["epsilon"]
    assert local["epsilon_replace_one"] == local["epsilon"]


def test_best_validation_round_is_chosen_only_where_asked(file: Path, tmp_path: Path) -> None:
    (last,) = run(file, tmp_path / "last", "none")
    assert last["selected_round"] == 3
    options = ["train.selection=best-validation", "train.learning-rate=0.3"]
    (best,) = run(file, tmp_path / "best", "none", assignments=options)
    lines = (tmp_path / "best/none/seed-0/history.jsonl").read_text().splitlines()
    aurocs = [json.loads(line)["auroc"] for line in lines]
    assert best["selected_round"] == int(np.argmax(aurocs))
    assert best["metrics"]["auroc_val"] == pytest.approx(max(aurocs))


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_hospital_that_raises_is_a_code_in_the_history(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    original = fedmed.hospital.rounds.train_plain

    def fail(
        model: Any, shard: Any, settings: Settings, context: tuple[Any, ...], number: int
    ) -> Any:
        if context == ("hospital-2", 2):
            raise RuntimeError("patient Umbrella has a scar")
        return original(model, shard, settings, context, number)

    monkeypatch.setattr(fedmed.hospital.rounds, "train_plain", fail)
    out = tmp_path / "out"
    options = [f"train.on-failure={policy}"]
    if policy == "stop":
        with pytest.raises(RunError, match="hospital-2: internal"):
            run(file, out, "none", assignments=options)
    else:
        run(file, out, "none", assignments=options)
    text = (out / "none/seed-0/history.jsonl").read_text()
    second = json.loads(text.splitlines()[2])
    assert second["failures"] == [{"hospital": "hospital-2", "code": "internal"}]
    assert second.get("failed", False) == (policy == "stop")
    assert "Umbrella" not in "".join(p.read_text() for p in out.rglob("*.json*"))


def test_a_nan_update_is_refused_where_nothing_is_protected_and_zero_elsewhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fedmed.hospital.rounds.train_plain

    def poison(model: Any, *rest: Any) -> Any:
        result = original(model, *rest)
        next(iter(model.parameters())).data.fill_(float("nan"))
        return result

    monkeypatch.setattr(fedmed.hospital.rounds, "train_plain", poison)
    with pytest.raises(RunError, match="not-finite"):
        run(file, tmp_path / "none", "none")
    (result,) = run(file, tmp_path / "central", "central-fixed")
    assert result["rounds"] == 3
    assert math.isfinite(result["epsilon"])


def refused(text: str, tmp_path: Path, *words: str, **options: Any) -> None:
    """Loading the file fails with one line that holds all words."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_experiment(path, **options)
    assert "\n" not in str(caught.value)
    for word in ("bad.toml", *words):
        assert word in str(caught.value)


def test_mistakes_in_a_file_are_named(tmp_path: Path) -> None:
    refused('arms = ["sgd"]', tmp_path, "unknown arm 'sgd'", "dp-sgd")
    refused('arms = "none"', tmp_path, "arms = 'none'")
    refused('arms = ["none", "none"]', tmp_path, "twice")
    refused("seeds = [-1]", tmp_path, "seeds")
    refused("seeds = []", tmp_path, "seeds")
    refused("[train]\nround = 3", tmp_path, "unknown key 'train.round'")
    refused("[trian]\nrounds = 3", tmp_path, "unknown key 'trian'")
    refused("[data\n", tmp_path, "not valid TOML")
    refused("[arm.none.data]\nhospitals = 3", tmp_path, "one cohort")
    refused('[arm.none.train]\nweighting = "size"', tmp_path, ["one", "weighting"][0], "weighting")
    refused('arms = ["none"]\n[arm.strong.privacy]\nepsilon = 1', tmp_path, "[arm.strong]")
    refused('arms = ["strong"]\n[arm.strong.privacy]\nepsilon = 1', tmp_path, "privacy.arm")
    refused("", tmp_path, "../up", arms=["../up"])
    refused('name = "../up"', tmp_path, "becomes a folder")
    refused("[run]\nseed = 3", tmp_path, "seeds = [...] or --seed")
    refused('[run]\nout = "here"', tmp_path, "--out")
    with pytest.raises(UserError, match="no such file"):
        load_experiment(tmp_path / "absent.toml")


def test_arms_of_one_kind_take_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(
        'arms = ["none", "strong"]\n[arm.strong.privacy]\narm = "dp-sgd"\nepsilon = 1.0\n'
        "[arm.none.train]\nrounds = 3"
    )
    loaded = load_experiment(path, assignments=["train.rounds=9"])
    assert loaded.arms["strong"].privacy.arm == "dp-sgd"
    assert loaded.arms["strong"].privacy.epsilon == 1
    assert loaded.arms["none"].privacy.arm == "none"
    assert loaded.arms["strong"].train.rounds == 9
    (only,) = load_experiment(path, assignments=["privacy.arm=local-update"]).arms.items()
    assert (only[0], only[1].privacy.arm) == ("local-update", "local-update")


def test_a_plan_that_means_nothing_stops_before_training(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"privacy.delta = 0.5 is not below"):
        run(file, out, assignments=["privacy.delta=0.5"])
    assert not list(out.rglob("history.jsonl"))
    with pytest.raises(UserError, match=r"train.batch-size = 64 is more than the \d+ patients"):
        run(file, out, "dp-sgd", assignments=["train.batch-size=64"])


def test_a_folder_of_another_experiment_is_left_alone(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(file, out, "none")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    other = tmp_path / "other.toml"
    other.write_text(ALL_ARMS.replace('"tiny"', '"other"'))
    with pytest.raises(UserError, match="experiment 'tiny', not 'other'"):
        run(other, out, "none")
    with pytest.raises(UserError, match=r"data.patients = 60, not 80"):
        run(file, out, "none", assignments=["data.patients=80"])
    with pytest.raises(UserError, match=r"train.rounds = 3, not 5"):
        run(file, out, "none", assignments=["train.rounds=5"])
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(UserError, match=r"train.weighting = 'equal', not 'size'"):
        run(file, out, "pooled", assignments=["train.weighting=size"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not an experiment's folder"):
        run(file, foreign, "none")


def test_relative_paths_start_at_the_experiment(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    path = folder / "own.toml"
    path.write_text('[data]\nsource = "table"\npath = "films.csv"\nimages = "films"')
    data = load_experiment(path).base.data
    assert data.path == str(folder / "films.csv")
    path.write_text('[data]\nsource = "medmnist"\npath = "pneumoniamnist"')
    assert load_experiment(path).base.data.path == "pneumoniamnist"
