"""``run.sites``: a mistake of the folder or of a file in it is told before anything is trained."""

from pathlib import Path

import pytest
from support import make, refuses
from support.runs import tiny_text, written

import fedmed.hospital.rounds
from fedmed.cli import commands as cli
from fedmed.experiment.file import load_experiment
from fedmed.site.own_settings import check_sites

MEMBERS = ["hospital-1", "hospital-2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def check(folder: Path, arm: str = "dp-sgd") -> None:
    settings = make(
        data={"hospitals": 2, "patients": 60},
        privacy={"arm": arm, "delta": 1e-3},
        run={"sites": str(folder)},
    )
    check_sites(settings, MEMBERS)


def test_what_is_wrong_in_a_file_names_it(folder: Path) -> None:
    check(folder)
    (folder / "hospital-1.toml").write_text('"privacy.epsilon" = 2.0\n')
    check(folder)
    (folder / "hospital-1.toml").write_text('"privacy.epsilom" = 2.0\n')
    refuses(lambda: check(folder), "hospital-1.toml", "did you mean 'privacy.epsilon'")
    (folder / "hospital-1.toml").write_text('"privacy.epsilon" = 20.0\n')
    refuses(lambda: check(folder), "hospital-1 has privacy.epsilon = 20", "weaker")
    (folder / "hospital-1.toml").write_text('"privacy.epsilon" = 2.0\n')
    refuses(lambda: check(folder, "central-fixed"), "hospital-1", "is the server's")


def test_a_file_that_belongs_to_no_hospital_is_refused(folder: Path) -> None:
    """A misspelt name would leave a hospital without the protection that it asked for."""
    (folder / "pooled.toml").write_text("")
    (folder / "hospitl-1.toml").write_text('"privacy.epsilon" = 2.0\n')
    refuses(
        lambda: check(folder), "hospitl-1.toml belongs to no hospital; did you mean 'hospital-1'"
    )


def test_a_folder_that_is_not_there_is_a_mistake_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was told as "a hospital did not join", with exit code 1."""

    def trains(*_: object, **__: object) -> None:
        raise AssertionError("a round was trained")

    monkeypatch.setattr(fedmed.hospital.rounds, "train_plain", trains)
    file = written(tmp_path, tiny_text(["none"], '[run]\nsites = "own"\n'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", str(file), "--quiet"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"error: run.sites = '{tmp_path / 'own'}': no such folder; create it or remove the key\n"
    )


def test_the_folder_is_looked_for_beside_the_experiment(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``run.policies`` is: it was taken from the folder in which the command ran."""
    file = written(folder.parent, tiny_text(["none"], '[run]\nsites = "own"\n'))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_experiment(file).base.run.sites == str(folder)
    here = load_experiment(file, assignments=["run.sites=own"]).base.run.sites
    assert here == str(Path.cwd() / "own"), "of the command line"
