"""TensorBoard and MLflow: what the files say, once, and never a prediction."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support.runs import tiny_text

from fedmed import trackers
from fedmed.base.errors import RunError, UserError
from fedmed.cli import commands as cli
from fedmed.cli.progress import Silent
from fedmed.config import Settings
from fedmed.experiment.file import Experiment, load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.federation.members import make_plans, trained_parameters
from fedmed.launch import run_inline
from fedmed.report import summary_table

TEXT = tiny_text(["none", "dp-sgd"], '[run]\ntrackers = "{}"\n', patients=240)
TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
MLFLOW = importlib.util.find_spec("mlflow") is not None
needs_tensorboard = pytest.mark.skipif(
    not TENSORBOARD, reason="tensorboard is not installed: pip install 'fedmed[tensorboard]'"
)
needs_mlflow = pytest.mark.skipif(
    not MLFLOW, reason="mlflow is not installed: pip install 'fedmed[mlflow]'"
)

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


def experiment(folder: Path, names: str) -> Experiment:
    path = folder / "tiny.toml"
    path.write_text(TEXT.format(names))
    return load_experiment(path)


def run(loaded: Experiment, out: Path, launch: Any = run_inline) -> None:
    run_experiment(loaded, out, launch, trackers.followed(Silent(), loaded, out))


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of every event file in a folder: one that was logged twice is there twice."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = float(make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_an_extra_that_is_not_installed_is_one_line_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        settings = Settings().replaced({"run.trackers": name})
        refuses(lambda s=settings: trackers.check(s), f"names {name}", f"'fedmed[{name}]'")  # type: ignore[misc]  # bound by default; mypy infers no type
    loaded = experiment(tmp_path, "mlflow")
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "fedmed[mlflow]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert loaded.base.run.tracked_by == ("mlflow",)


def test_unknown_trackers_are_refused_and_none_needs_nothing() -> None:
    refuses(lambda: Settings().replaced({"run.trackers": "mlflw"}), "did you mean 'mlflow'")
    refuses(lambda: Settings().replaced({"run.trackers": "mlflow, mlflow"}), "named twice")
    assert trackers.check(Settings()) == ()
    quiet = Silent()
    loaded = Experiment("x", "x", "", (0,), {"none": Settings()})
    assert trackers.followed(quiet, loaded, Path("nowhere")) is quiet
    assert trackers.publish(loaded, Path("nowhere")) == ""


@needs_tensorboard
def test_tensorboard_has_the_rounds_the_budget_and_the_groups(tmp_path: Path) -> None:
    loaded, out = experiment(tmp_path, "tensorboard"), tmp_path / "out"
    run(loaded, out)
    for arm in ("none", "dp-sgd"):
        scalars = read(out / "tensorboard" / arm / "seed-0")
        folder = out / arm / "seed-0"
        history = [json.loads(x) for x in (folder / "history.jsonl").read_text().splitlines()]
        wanted = [(h["round"], pytest.approx(h["auroc"])) for h in history]
        assert scalars["validation/auroc"] == wanted
        result = json.loads((folder / "result.json").read_text())
        assert scalars["test/auroc"] == [(2, pytest.approx(result["metrics"]["auroc"]))]
        known = {r["group"]: r["auroc"] for r in result["metrics"]["groups"]["sex"]}
        for group, auroc in known.items():
            logged = scalars.get(f"groups/sex/{group}/auroc")
            assert logged == (None if auroc is None else [(2, pytest.approx(auroc))])
        assert any(name.startswith("groups/") for name in scalars)
    plans = make_plans(loaded.settings("dp-sgd", 0)).values()
    spent = [max(p.epsilon(n * p.steps_per_round) or 0.0 for p in plans) for n in range(3)]
    assert scalars["privacy/epsilon_spent"] == [(n, pytest.approx(e)) for n, e in enumerate(spent)]
    assert spent[0] == 0
    assert scalars["privacy/epsilon"][0][1] == pytest.approx(spent[2], rel=1e-3)
    size = trained_parameters(loaded.base.model, 16)
    signal = max(p.noise_to_signal(size) or 0.0 for p in plans)
    assert scalars["privacy/noise_to_signal"] == [(0, pytest.approx(signal))]
    clean = read(out / "tensorboard" / "none" / "seed-0")
    assert not any(name.startswith("privacy/") for name in clean)
    assert [step for step, _ in clean["training/loss"]] == [1, 2]
    assert "training/loss" not in scalars, "a loss on private data is never sent"


@needs_tensorboard
def test_a_run_that_was_interrupted_and_goes_on_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, out = experiment(tmp_path, "tensorboard"), tmp_path / "out"

    def interrupted(settings: Settings, folder: Path, name: str, on_round: Any) -> Any:
        def stops(number: int, rounds: int, auroc: float | None) -> None:
            on_round(number, rounds, auroc)
            if number == 1:
                raise RunError("the power went away")

        return run_inline(settings, folder, name, stops)

    refuses(lambda: run(loaded, out, interrupted), "power", error=RunError)
    place = out / "tensorboard" / "none" / "seed-0"
    assert [step for step, _ in read(place)["validation/auroc"]] == [0, 1]

    def once() -> None:
        for name, points in read(place).items():
            assert len({step for step, _ in points}) == len(points), name
        assert [step for step, _ in read(place)["validation/auroc"]] == [0, 1, 2]

    run(loaded, out)
    once()
    before = {path: path.read_bytes() for path in place.iterdir()}
    run(loaded, out)  # all finished: logs stay as they are
    assert {path: path.read_bytes() for path in place.iterdir()} == before
    with monkeypatch.context() as patch:
        patch.setattr("fedmed.trackers.tensorboard.RunLog._whole", False)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        run(loaded, out)
        goes_red(once)


@needs_tensorboard
def test_a_run_without_a_servers_auroc_is_logged_too(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT.format("tensorboard") + '[evaluation]\nwhere = "hospitals"\n')
    loaded, out = load_experiment(path, arms=["dp-sgd"]), tmp_path / "out"
    run(loaded, out)
    scalars = read(out / "tensorboard" / "dp-sgd" / "seed-0")
    assert "validation/auroc" not in scalars
    assert scalars["privacy/epsilon_of_evaluation"][0][1] == pytest.approx(8, rel=1e-2)
    assert [step for step, _ in scalars["privacy/epsilon_spent"]] == [0, 1, 2]


@needs_tensorboard
def test_no_epsilon_is_logged_against_who_knows_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT.format("tensorboard"))
    seeded = ["privacy.reproducible-noise=true"]
    loaded = load_experiment(path, arms=["dp-sgd"], assignments=seeded)
    run(loaded, tmp_path / "out")
    scalars = read(tmp_path / "out" / "tensorboard" / "dp-sgd" / "seed-0")
    assert not any("epsilon" in name for name in scalars)


def client(out: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{out.resolve()}/mlflow/mlflow.db")


@needs_mlflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_has_settings_summary_and_documents_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment(tmp_path, "mlflow")
    out = tmp_path / "out"
    command = ["run", str(tmp_path / "tiny.toml"), "--out", str(out), "--quiet"]

    def go() -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(command)
        assert not caught.value.code

    go()
    assert "mlflow:" in capsys.readouterr().out
    found = client(out)
    number = found.get_experiment_by_name("tiny").experiment_id
    runs = {r.info.run_name: r for r in found.search_runs([number])}
    assert sorted(runs) == ["dp-sgd/seed-0", "none/seed-0"]
    private = runs["dp-sgd/seed-0"]
    assert private.info.status == "FINISHED"
    assert private.data.params["privacy.arm"] == "dp-sgd"
    assert private.data.params["train.rounds"] == "2"
    row = summary_table(out).set_index("arm").loc["dp-sgd"]
    for key in ("auroc", "epsilon", "accuracy", "seconds"):
        assert private.data.metrics[key] == pytest.approx(row[key])
    assert not any(math.isnan(value) for value in private.data.metrics.values())
    assert private.data.tags["unit"] == "patient"
    documents = sorted(item.path for item in found.list_artifacts(private.info.run_id))
    assert documents == ["privacy.json", "report.html", "summary.csv"]
    go()
    again = found.search_runs([number])
    assert sorted(r.info.run_id for r in again) == sorted(r.info.run_id for r in runs.values())
    points = found.get_metric_history(private.info.run_id, "auroc")
    assert len(points) == 1
    assert not list((out / "mlflow").rglob("*.parquet"))


@needs_mlflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_was_half_logged_is_logged_again_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    loaded, out = experiment(tmp_path, "mlflow"), tmp_path / "out"
    run_experiment(loaded, out, run_inline, Silent())
    import mlflow

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("the network went away")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_tag", fails)
        refuses(lambda: trackers.publish(loaded, out), "mlflow", "network", "again")
    assert trackers.publish(loaded, out).startswith("sqlite:///")
    found = client(out)
    number = found.get_experiment_by_name("tiny").experiment_id
    whole = found.search_runs([number], "attributes.status = 'FINISHED'")
    assert sorted(r.info.run_name for r in whole) == ["dp-sgd/seed-0", "none/seed-0"]


@needs_mlflow
def test_a_server_that_is_not_there_leaves_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, out = experiment(tmp_path, "mlflow"), tmp_path / "out"
    run_experiment(loaded, out, run_inline, Silent())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    refuses(lambda: trackers.publish(loaded, out), "mlflow at sqlite", error=UserError)
    assert (out / "none" / "seed-0" / "result.json").exists()
