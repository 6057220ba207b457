"""``fedmed evaluate``: what it prints, writes and refuses."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from support.tables import images, scored, write_run

from fedmed.cli import commands as cli
from fedmed.cli import waiting

BASE = images(300)


def call(*arguments: str) -> int:
    """Exit code of ``fedmed evaluate`` with few resamples."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", *arguments, "--resamples", "50"])
    code = caught.value.code
    return int(code) if isinstance(code, int) else 0


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.parquet"
    scored(BASE, 2.0, 1).to_parquet(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for arm, strength in (("none", 2.0), ("dp-sgd", 1.0)):
        write_run(tmp_path / "out", arm, 0, scored(BASE, strength, 1), arm=arm)
    return tmp_path / "out"


def test_a_table_is_printed(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(str(table)) == 0
    printed = capsys.readouterr().out
    assert "225 test images of 225 patients" in printed
    assert "largest Youden index on 75 validation images" in printed
    assert "AUROC" in printed
    assert "by sex x age" in printed
    assert "too few" in printed
    assert "gaps between groups" in printed


def test_json_is_the_evaluation_and_can_be_written(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "numbers" / "mine.json"
    assert call(str(table), "--json", "--out", str(written), "--seed", "3") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(written.read_text())
    assert printed["resampling"]["resamples"] == 50
    assert printed["source"] == "predictions"


def test_a_csv_with_label_and_score_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.csv"
    scored(BASE, 2.0, 1)[["label", "score"]].to_csv(path, index=False)
    assert call(str(path)) == 0
    printed = capsys.readouterr().out
    assert "no threshold: there are no validation rows" in printed
    assert "note: no column split: every row is a test row" in printed
    assert "note: no column patient_id: images count as patients of their own" in printed


def test_two_tables_are_paired(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    scored(BASE, 1.0, 2).to_csv(other, index=False)
    assert call(str(table), "--baseline", str(other), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baseline"] == str(other)
    change = next(row for row in found["differences"] if row["quantity"] == "auroc")
    assert change["arm"] == str(table)
    assert change["difference"]["value"] > 0  # the table is better than the other
    assert call(str(table), "--baseline", str(other)) == 0
    assert f"changes against {other}" in " ".join(capsys.readouterr().out.split())


def test_a_small_p_is_not_printed_as_zero(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    scored(BASE, 0.3, 2).to_csv(other, index=False)
    assert call(str(table), "--baseline", str(other), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert next(r["p"] for r in found["differences"] if r["quantity"] == "auroc") < 0.0005
    assert call(str(table), "--baseline", str(other)) == 0
    printed = capsys.readouterr().out
    assert "<0.001" in printed
    assert " 0.000 " not in printed


def test_a_comparisons_folder_and_a_runs_folder(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(str(out)) == 0
    printed = capsys.readouterr().out
    assert "compared with none" in printed
    assert "AUROC gap, sex" in printed
    assert call(str(out), "--baseline", "dp-sgd", "--json") == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "dp-sgd"
    assert call(str(out / "none" / "seed-0"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 225


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.parquet"], ["absent.parquet: no such file"]),
        (["empty"], ["holds no finished run"]),
        (["mine.parquet", "--baseline", "absent.csv"], ["absent.csv: no such file"]),
        (["mine.parquet", "--baseline", "mine.parquet"], ["is the table itself"]),
        (["mine.parquet", "--seed", "-1"], ["--seed"]),
        (["bad.csv"], ["bad.csv, row 2: column 'score' is not a number"]),
        (["out", "--baseline", "dp"], ["no arm 'dp'"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    table: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(table.parent)
    Path("empty").mkdir()
    Path("bad.csv").write_text("label,score\n1,0.5\n0,nan\n")
    assert call(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert all(word in printed.err for word in words), printed.err


def test_torch_is_not_loaded(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from fedmed.cli.evaluate import answer, show;"
        f"show(answer(Path({str(table)!r}), None, resamples=0, seed=0), 'x');"
        "print([name for name in ('torch', 'flwr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_an_interruption_is_one_line_and_leaves_no_file(
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []

    @contextlib.contextmanager
    def stopped(_: str) -> Iterator[Callable[[float], None]]:
        def stop(share: float) -> None:
            told.append(share)
            raise KeyboardInterrupt

        yield stop

    monkeypatch.setattr(waiting, "bar", stopped)
    written = tmp_path / "new" / "numbers.json"
    assert call(str(table), "--json", "--out", str(written)) == 130
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: interrupted\n")
    assert len(told) == 1  # the first block: no other was waited for
    assert not written.parent.exists()


def test_a_terminal_shows_a_bar_with_the_time_left_and_a_file_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting.bar("2000 resamples") as progress:
        assert progress is None
    assert capsys.readouterr().err == ""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(waiting, "console", lambda **_: terminal)
    with waiting.bar("2000 resamples") as progress:
        assert progress is not None
        progress(0.25)
    shown = screen.getvalue()
    assert "2000 resamples" in shown
    assert "25%" in shown
    assert "-:--:--" in shown or "0:00" in shown
