"""A whole run of ``feature-laplace`` in this process: what is paid, stated and planned."""

import json
from pathlib import Path

import pytest
from support import refuses
from support.runs import run, tiny_text, weights, written

from fedmed.base.files import ledger_path
from fedmed.cli.planning import plan_experiment
from fedmed.config import Settings
from fedmed.experiment.file import load_experiment
from fedmed.experiment.forecast import forecast
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.statement.contents import check
from fedmed.report import build

MODEL = """
[model]
name = "probe"
features = "scattering"
standardise = "validation"
components = 3
"""
ARMS = """[arm.alone]
train = { scheme = "local-only" }
privacy = { arm = "feature-laplace", epsilon = 4.0 }
[arm.in-one-place]
train = { scheme = "pooled" }
privacy = { arm = "feature-laplace", epsilon = 4.0 }
"""
TEXT = tiny_text(["feature-laplace", "alone", "in-one-place"], f"{MODEL}{ARMS}", patients=80)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    ledgers = f'[run]\nledgers = "{tmp_path / "ledgers"}"\n'
    return written(tmp_path, TEXT + ledgers)


def rows_of(folder: Path, hospital: str) -> list[tuple[str, str, int]]:
    return [
        (row.kind, row.account, row.steps)
        for row in Ledger(ledger_path(str(folder / "ledgers"), folder, hospital)).rows()
    ]


def test_a_run_releases_once_and_says_so(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (result,) = run(file, out, "feature-laplace")
    assert (result["unit"], result["epsilon"], result["delta"]) == ("patient", 8.0, 0.0)
    for hospital in ("hospital-1", "hospital-2"):
        account = f"{hospital}/patient"
        assert rows_of(tmp_path, hospital) == [("plan", account, 0), ("reserve", account, 1)]
    told = json.loads((out / "feature-laplace" / "seed-0" / "privacy.json").read_text())
    check(told)
    assert (told["steps_planned"], told["steps_taken"]) == (1, 1)
    assert told["trust"] == "nobody"
    assert told["neighbouring"] == "replace one patient's data"
    assert told["facts"]["noise"] == ["features"]
    assert told["epsilon_replace_one"] == 8.0
    assert told["epsilon_at_delta"] <= 8.0
    assert "discrete Laplace" in told["mechanism"]
    assert "randomised response" in told["mechanism"]
    assert told["summary"].startswith("One patient is protected with epsilon = 8 at delta = 0")
    assert "1 of 1 planned release(s)" in told["summary"]
    history = (out / "feature-laplace" / "seed-0" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epsilon_spent"] for line in history] == [8.0] * 3
    build(out)
    assert "feature-laplace" in (out / "report.html").read_text(encoding="utf-8")


def test_a_second_run_finds_the_same_release_and_pays_nothing(file: Path, tmp_path: Path) -> None:
    heads = []
    for name in ("first", "second"):
        run(file, tmp_path / name, "feature-laplace")
        heads.append(weights(tmp_path / name / "feature-laplace" / "seed-0"))
        assert len(rows_of(tmp_path, "hospital-1")) == 2
    assert heads[0].keys() == heads[1].keys()
    assert all((heads[0][name] == heads[1][name]).all() for name in heads[0])
    run(file, tmp_path / "third", "feature-laplace", assignments=("privacy.epsilon=2.0",))
    assert len(rows_of(tmp_path, "hospital-1")) == 4, "another epsilon is another release"


def test_alone_and_in_one_place_protect_a_patient_too(file: Path, tmp_path: Path) -> None:
    alone, pooled = run(file, tmp_path / "out", "alone", "in-one-place")
    for result in (alone, pooled):
        assert (result["unit"], result["epsilon"], result["delta"]) == ("patient", 4.0, 0.0)
    assert rows_of(tmp_path, "pooled") == [
        ("plan", "pooled/patient", 0), ("reserve", "pooled/patient", 1),
    ]  # fmt: skip


def test_a_plan_tells_one_release_and_what_all_cost(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_experiment(file, arms=("feature-laplace",))
    (plan,) = forecast(loaded, tmp_path / "out", timed=False)
    (row, _) = plan.hospitals
    assert (row.unit, row.steps, row.epsilon, row.delta) == ("patient", 1, 8.0, 0.0)
    assert row.accepted
    options = {"changes": (), "out": tmp_path / "out", "timed": True, "as_json": False}
    plan_experiment(file, arms=("feature-laplace",), **options)  # type: ignore[arg-type]  # by name
    assert "epsilon 8 at delta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.name": "resnet18"}, ["model.name", "'probe'"]),
        (
            {"model.standardise": "layer", "model.components": 0},
            ["model.standardise", "validation"],
        ),
        ({"model.components": 0}, ["model.components", "1 to 64"]),
        ({"model.components": 65}, ["model.components", "1 to 64"]),
        ({"model.hidden": 8}, ["model.hidden", "use 0"]),
        ({"data.target": "A|B"}, ["data.target", "name one"]),
        ({"privacy.unit": "image"}, ["privacy.unit", "'patient'"]),
        ({"privacy.epsilon": 65.0}, ["privacy.epsilon", "0.01 to 64"]),
        ({"privacy.epsilon": 0.001}, ["privacy.epsilon", "0.01 to 64"]),
        ({"train.server-optimizer": "adam"}, ["train.server-optimizer", "remove it"]),
        ({"train.server-learning-rate": 0.5}, ["train.server-learning-rate", "remove it"]),
        ({"evaluation.noised-test": True}, ["evaluation.noised-test", "remove it"]),
    ],
)
def test_settings_that_do_not_fit_name_key_and_remedy(
    change: dict[str, object], words: list[str]
) -> None:
    given: dict[str, object] = {
        "privacy.arm": "feature-laplace",
        "model.features": "scattering",
        "model.name": "probe",
        "model.standardise": "validation",
        "model.components": 3,
    }
    assert Settings().replaced(given).arm.once
    if change.get("model.name") == "resnet18":
        given = {"privacy.arm": "feature-laplace"}
    refuses(lambda: Settings().replaced(given | change), *words)


def test_an_arms_own_table_may_not_set_what_it_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    for key in ("learning-rate = 0.1", "local-epochs = 2", 'optimizer = "adam"'):
        path.write_text(TEXT.replace('scheme = "local-only"', f'scheme = "local-only", {key}'))
        refuses(lambda: load_experiment(path), f"train.{key.split()[0]}", "does not read")
