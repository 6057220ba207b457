"""The command line: exit codes, one line per mistake, and what it prints."""

import errno
from pathlib import Path
from typing import Any

import pytest
from support import use_tiny_models

import fedmed.hospital.hospital
import fedmed.hospital.rounds
from fedmed import __version__
from fedmed.cli import commands as cli
from fedmed.experiment import directory

SMALL = [
    "--set=data.patients=60",
    "--set=data.image-size=16",
    "--set=train.rounds=1",
    "--set=train.local-epochs=1",
]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment with all defaults, in a folder of its own, with small models."""
    use_tiny_models(monkeypatch)
    fedmed.hospital.hospital.hospital_for.cache_clear()
    fedmed.hospital.hospital._model.cache_clear()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text('arms = ["none"]\n')
    return path


def call(*arguments: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    code = caught.value.code
    return int(code) if isinstance(code, int) else 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"fedmed {__version__}\n"


def test_run_report_and_a_second_run(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", str(experiment), *SMALL) == 0
    first = capsys.readouterr()
    assert "test AUROC" in first.err
    assert "done before" not in first.err
    assert "runs/mine/report.html" in first.out
    page = Path("runs/mine/report.html")
    assert page.is_file()
    assert call("run", str(experiment), *SMALL) == 0
    assert "done before" in capsys.readouterr().err
    compared = Path("runs/mine/comparison.json")
    assert compared.is_file()
    page.unlink()
    compared.unlink()
    assert call("report", "runs/mine") == 0
    assert page.is_file()
    assert compared.is_file()


def test_inspect_then_run(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sheet of images must not take the place of the results' folder."""
    assert call("data", "inspect", str(experiment), *SMALL) == 0
    assert Path("runs/mine-cohort.png").is_file()
    assert call("run", str(experiment), *SMALL) == 0
    assert "mine, seed" not in capsys.readouterr().err


def test_rounds_are_shown_in_a_log(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", str(experiment), *SMALL) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("none, seed 0: round 1/1  validation AUROC 0.") for line in lines)


def test_quiet_prints_results_only(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", str(experiment), "--quiet", "--out", "elsewhere", *SMALL) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "elsewhere/summary.csv" in captured.out


def test_inspect_counts_and_draws(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "inspect", str(experiment), *SMALL, "--sheet", "sheet.png") == 0
    shown = capsys.readouterr().out
    assert "phantom (synthetic)" in shown
    assert "hospital-2" in shown
    for sheet in ("sheet.png", "sheet-brightness.png"):
        assert Path(sheet).read_bytes().startswith(b"\x89PNG")
        assert sheet in shown
    assert "note: hospital" not in shown, "the phantom's pictures are in order"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "absent.toml"], "absent.toml: no such file"),
        (["run", "mine.toml/x.toml"], "cannot be read"),
        (["run", "mine.toml", "--set", "run.seed=3"], "--set run.seed"),
        (["run", "mine.toml", "--arm", "none", "--set", "privacy.arm=dp-sgd"], "only one of them"),
        (["run", "mine.toml", "--arm", "magic"], "unknown arm 'magic'"),
        (
            ["run", "mine.toml", "--set", "train.round=1"],
            "--set: unknown key 'train.round'; did you mean 'train.rounds'?",
        ),
        (["run", "mine.toml", "--arm", "dpsgd"], "did you mean 'dp-sgd'?"),
        (
            ["run", "mine.toml", "--set", "data.mapping=chexpert"],
            "data.mapping: the phantom source",
        ),
        (["run", "mine.toml", "--set", "train.rounds=soon"], "train.rounds = 'soon'"),
        (["run", "mine.toml", "--set", "privacy.epsilon=0"], "privacy.epsilon = 0"),
        (["run", "mine.toml", "--set", "privacy.epsilon=nan"], "privacy.epsilon"),
        (["run", "mine.toml", "--set", "privacy.delta=1"], "privacy.delta = 1"),
        (["run", "mine.toml", "--set", "data.image-size=3"], "data.image-size = 3"),
        (["run", "mine.toml", "--set", "rounds"], "key=value"),
        (["run", "mine.toml", "--engine", "spark"], "--engine spark"),
        (["run", "mine.toml", "--seed", "-1"], "seeds"),
        (["run", "mine.toml", "--set", "data.source=kermany"], "data.path"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    experiment: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not Path("runs").exists()


def test_a_full_disk_leaves_earlier_results_intact(
    experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("run", str(experiment), *SMALL) == 0
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(directory, "save_file", full)
        assert call("run", str(experiment), "--seed", "1", *SMALL) == 2
    error = capsys.readouterr().err
    assert "the disk is full" in error.splitlines()[-1]
    after = {p: p.read_bytes() for p in before}
    changed = {p.name for p in before if before[p] != after[p]}
    assert changed <= {"experiment.json"}
    assert not list(Path("runs").rglob(".checkpoint*"))
    assert call("run", str(experiment), "--seed", "1", *SMALL) == 0


def test_an_interruption_says_how_to_go_on(
    experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fedmed.hospital.rounds, "train_plain", stop)
    assert call("run", str(experiment), *SMALL) == 130
    assert "run the same command again" in capsys.readouterr().err
