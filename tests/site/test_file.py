"""A site's own file: its paths, its keys, and what a wrong one is told."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import refuses

from fedmed.site.file import read_site

HEAD = 'name = "st-mary"\npolicy = "policy.toml"\nledger = "state/ledger.sqlite"\n'
HEAD += 'socket = "run/guard.sock"\n'
DATA = '[data]\nsource = "table"\npath = "cohort.csv"\nimages = "/images"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    text = HEAD + 'audit = "log/audit.jsonl"\npeers = [10001]\n' + DATA
    text += 'columns.label = "finding"\nspacing = 1.5\n[settings]\n"run.device" = "cpu"\n'
    text += 'privacy.epsilon = 2\n"privacy.arm" = "dp-sgd"\n'
    site = read_site(written(tmp_path, text))
    assert (site.name, site.peers) == ("st-mary", (10001,))
    assert site.policy == tmp_path / "policy.toml"
    assert site.ledger == tmp_path / "state" / "ledger.sqlite"
    assert site.audit == tmp_path / "log" / "audit.jsonl"
    assert site.socket == tmp_path / "run" / "guard.sock"
    assert site.data == {
        "data.source": "table",
        "data.path": str(tmp_path / "cohort.csv"),
        "data.images": "/images",
        "data.columns.label": "finding",
        "data.spacing": 1.5,
    }
    assert site.settings == {
        "run.device": "cpu",
        "privacy.epsilon": 2,
        "privacy.arm": "dp-sgd",
    }


def test_the_log_lies_beside_the_ledger_by_default(tmp_path: Path) -> None:
    site = read_site(written(tmp_path, HEAD + DATA))
    assert site.audit == tmp_path / "state" / "ledger.audit.jsonl"
    assert site.peers == ()


def test_a_set_of_medmnist_by_name_is_no_path(tmp_path: Path) -> None:
    text = HEAD + '[data]\nsource = "medmnist"\npath = "pneumoniamnist"\n'
    assert read_site(written(tmp_path, text)).data["data.path"] == "pneumoniamnist"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + DATA + "colour = 1\n", ("data.colour",)),
        ("polcy = 1\n" + HEAD + DATA, ("'polcy'", "did you mean 'policy'")),
        (HEAD.replace('name = "st-mary"\n', "") + DATA, ("name is missing",)),
        (HEAD, ("data.source is missing",)),
        (HEAD + "data = 3\n", ("data is no table",)),
        (HEAD + 'peers = ["root"]\n' + DATA, ("peers", "user ids")),
        (HEAD + "peers = [true]\n" + DATA, ("peers", "user ids")),
        (HEAD + DATA + "image-size = 64\n", ("data.image-size", "whole federation")),
        (HEAD + DATA + "hospitals = 3\n", ("data.hospitals", "whole federation")),
        (HEAD + DATA + 'partition = "even"\n', ("data.partition", "its own; remove")),
        (HEAD.replace("st-mary", "a, b") + DATA, ("name = 'a, b'", "commas")),
        (HEAD + '[data]\nsource = "table"\n', ("data.path", "set it")),
        (HEAD + DATA + '[settings]\n"data.path" = "x"\n', ("under [data]",)),
        (HEAD + DATA + '[settings]\n"run.out" = "x"\n', ("run.out", "no site's choice")),
        (HEAD + DATA + '[settings]\n"train.rounds" = 9\n', ("train.rounds", "no site's choice")),
        (HEAD + DATA + '[settings]\n"privacy.arm" = "none"\n', ("adds no noise",)),
        (HEAD + DATA + '[settings]\n"privacy.arm" = "central-fixed"\n', ("adds no noise",)),
        (HEAD + DATA + '[settings]\n"privacy.arm" = "dp"\n', ("is not known",)),
        (HEAD + DATA + '[settings]\n"privacy.epsilon" = -1\n', ("privacy.epsilon",)),
        (HEAD + DATA + '[settings]\n"privacy.epslon" = 1\n', ("privacy.", "epslon")),
        (HEAD + DATA + '[settings]\n"run.threads" = [1]\n', ("run.threads",)),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(
    text: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    refuses(lambda: read_site(path), str(path), *words)


def test_reading_a_site_imports_neither_flower_nor_torch() -> None:
    code = "import sys, fedmed.site.file; print({'flwr', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_example_of_the_guide_is_a_site(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guard.md").read_text(encoding="utf-8")
    text = guide.partition("<!-- site -->\n```toml\n")[2].partition("```")[0]
    site = read_site(written(tmp_path, text))
    assert site.settings == {"run.device": "cpu", "privacy.epsilon": 2.0}
    assert site.data["data.columns.label"] == "finding"
