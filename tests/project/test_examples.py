"""The notebooks and the library's page run from a fresh start, and show what they promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import goes_red
from support.notebooks import code_cells, run_cells
from support.runs import tiny_text
from support.tables import images, scored

import fedmed

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
RUNNER = ROOT / "tests" / "support" / "notebooks.py"
PAGE = ROOT / "docs" / "library.md"
SHOWN = {  # what each notebook prints, among other things
    "comparison.ipynb": (
        r"dp-sgd +hospital-3 +7\.9\d+",
        r"1 +dp-sgd +patient +7\.9\d+ +0\.001 +0\.\d+",
        r"0 +dp-sgd +auroc +NaN",
    ),
    "fairness.ipynb": (
        r"F +\d+ +\d+ +fnr +0\.2[67]\d+",
        r"M +\d+ +\d+ +fnr +0\.1[01]\d+",
        r"sex +fnr_gap +0\.1[56]\d +0\.0[78]\d ",
    ),
    "private_training.ipynb": (
        r"epsilon (7\.9\d|8\.00) at delta 0\.0001 for one patient, after 44 steps",
        r"auroc +0\.[6-9]\d+ \(",
        r"trained twice: epsilon 11\.",
    ),
}


def test_every_notebook_is_listed_and_linked() -> None:
    names = {path.name for path in NOTEBOOKS}
    assert names == set(SHOWN)
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"\.\./examples/([\w.]+)", page)) == names


def check_notebook(content: dict[str, object]) -> None:
    """nbformat 4.5, without what a run leaves."""
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    cells = content["cells"]
    assert isinstance(cells, list)
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids) > 5
    for cell in cells:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        code = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source", *code}
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if code:
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            assert cell["cell_type"] == "markdown"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_one_and_has_no_outputs(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    check_notebook(content)
    broken = json.loads(path.read_text(encoding="utf-8"))
    next(c for c in broken["cells"] if c["cell_type"] == "code")["execution_count"] = 3
    goes_red(check_notebook, broken)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_what_it_promises(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-W", "error", "-W", "ignore::DeprecationWarning:typer"),
            *(RUNNER, path),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for pattern in SHOWN[path.name]:
        assert re.search(pattern, done.stdout), (pattern, done.stdout)


def test_a_cell_that_fails_fails_the_notebook() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cells(["x = 1", "x / 0"])
    assert run_cells(["x = 1", "y = x + 1\ny"])["y"] == 2


@pytest.mark.usefixtures("tiny_hospitals")
def test_the_librarys_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(tiny_text(["none", "dp-sgd"]), encoding="utf-8")
    scored(images(), 2.0, 1).to_csv("predictions.csv", index=False)
    names = run_cells(blocks)
    assert 7.9 < names["private"].epsilon() <= 8
    assert names["numbers"]["auroc"] > 0.6
    assert names["pixels"].max() <= 1
    assert Path("runs/tiny/report.html").is_file()
    shown = capsys.readouterr().out
    assert "\n614\n" in shown
    assert "epsilon 8.00" in shown or "epsilon 7.9" in shown


def test_the_page_lists_every_public_name() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.split("| name |")[1].split("\n\n")[0]
    listed = set(re.findall(r"`fedmed\.(\w+)`", table))
    objects = {"Results", "Forecasts", "Evaluation"}
    assert listed | objects | {"data", "evaluation", "privacy", "__version__"} == set(
        fedmed.__all__
    )
    assert all(f"`{name}`" in table for name in objects)


def test_notebooks_have_their_code_in_order() -> None:
    cells = code_cells(ROOT / "examples" / "private_training.ipynb")
    assert "import fedmed" in cells[0]
    assert any("fedmed.PrivateTraining(" in cell for cell in cells)
