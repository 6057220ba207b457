"""``fedmed ledger show|verify|export``: what is printed, exit codes, one line for each mistake."""

import json
from pathlib import Path

import pytest
from support.ledger import ACCOUNT, RUN, edited, filled, opened

from fedmed.cli import commands as cli
from fedmed.privacy import accounting
from fedmed.privacy.ledger import connections
from fedmed.privacy.mechanisms.step import gaussian


def call(*arguments: str) -> int:
    """Exit code of ``fedmed ledger``."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["ledger", *arguments])
    code = caught.value.code
    return int(code) if isinstance(code, int) else 0


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def test_show_prints_each_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = opened(tmp_path / "hospital-1.sqlite")
    ledger.reserve(RUN, 1, "m", 5)
    assert call("show", str(ledger.path)) == 0
    epsilon = accounting.composed_epsilon(((gaussian(1.0, 0.1), 20),), 1e-5)
    printed = capsys.readouterr().out
    assert ACCOUNT in printed
    assert f"{epsilon:.3g}"[:3] in printed
    assert call("show", str(tmp_path), "--json", "--delta", "1e-6") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["epsilon"] == accounting.composed_epsilon(((gaussian(1.0, 0.1), 20),), 1e-6)
    assert (row["account"], row["steps"], row["delta"]) == (ACCOUNT, 5, 1e-6)
    assert (row["theorem"], row["relation"]) == ("composition", "add-or-remove")


def test_verify_prints_an_anchor_that_finds_a_rollback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    assert call("verify", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert printed == f"{ledger.path}: 8 rows, whole; anchor 8:{ledger.rows()[-1].hash}\n"
    anchor = printed.split()[-1]
    assert call("verify", str(ledger.path), "--anchor", anchor) == 0
    for path in (ledger.path, ledger.log.path):
        path.unlink()
    filled(ledger.path)  # another past, whole in itself
    capsys.readouterr()
    assert call("verify", str(ledger.path)) == 0
    capsys.readouterr()
    assert call("verify", str(ledger.path), "--anchor", anchor) == 1
    assert "rolled back" in error(capsys)
    assert call("verify", str(ledger.path), "--anchor", "eight") == 2
    assert "ROWS:HEAD" in error(capsys)


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_a_damaged_ledger_fails_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    with edited(ledger.path) as db:
        db.execute("update ledger set account = 'another' where id = 2")
    assert call(command, str(tmp_path)) == 1
    assert "row 2" in error(capsys)
    ledger.path.unlink()
    assert call(command, str(tmp_path)) == 1
    assert "deleted, cut short or rolled back" in error(capsys)


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_a_wrong_path_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for path in (tmp_path, tmp_path / "absent.sqlite"):
        assert call(command, str(path)) == 2
        assert str(path) in error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_show_refuses_a_delta_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path / "l.sqlite")
    assert call("show", str(ledger.path), "--delta", "1") == 2
    assert "--delta 1" in error(capsys)


def test_export_writes_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        filled(tmp_path / f"{name}.sqlite")
    connections.close_all()
    assert call("export", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [(row["ledger"], row["id"]) for row in rows] == [
        (f"{name}.sqlite", number) for name in "ab" for number in range(1, 9)
    ]
    out = tmp_path / "rows.jsonl"
    assert call("export", str(tmp_path), "--out", str(out)) == 0
    assert capsys.readouterr().out == f"rows: {out}\n"
    assert out.read_text() == printed
