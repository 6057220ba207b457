"""What files and names say is shown on a terminal, never obeyed."""

import ast
import io
import logging
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from fedmed.base.terminal import Formatter, console, one_line, printable, say
from fedmed.cli import commands as cli
from fedmed.cli import progress, tables

OBEYED = {
    "colour": ("\x1b[31mred", "\\x1b[31mred"),
    "title": ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
    "8-bit": ("\x9b31m", "\\x9b31m"),
    "erase": ("a\x7f\x08b", "a\\x7f\\x08b"),
    "return": ("a\rb", "a\\x0db"),
    "line": ("a\nerror: b", "a\\x0aerror: b"),
    "override": ("\u202egpj.exe", "\\u202egpj.exe"),
    "isolate": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "separator": ("a\u2028b", "a\\u2028b"),
    "surrogate": ("\udcff", "\\udcff"),
    "tag": ("\U000e0041", "\\U000e0041"),
}


@pytest.mark.parametrize("kind", OBEYED)
def test_what_a_terminal_obeys_is_written_as_an_escape(kind: str) -> None:
    given, shown = OBEYED[kind]
    assert printable(given) == shown


def test_words_of_every_script_stay_as_they_are() -> None:
    for text in ("Müller", "病院", "مستشفى", "می\u200cخواهم", "a\tb", "ε = 8, ≥ 3", "[bold]", "😀"):
        assert printable(text) == text


def test_lines_that_were_laid_out_here_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\n\x1b[31mb")
    assert capsys.readouterr().out == "a\n\\x1b[31mb\n"
    assert one_line("a\n  b\x1b\n") == "a b\\x1b"
    assert len(one_line("x" * 10_000)) < 1600


def test_what_an_encoding_has_not_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("epsilon \u03b5")
    assert raw.getvalue() == b"epsilon \\u03b5\n"


def test_no_cell_of_a_table_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    odd = [
        "[bold red]x[/]",
        "[/closed]",
        "[link=https://example.org]x[/link]",
        ":smile:",
        "\x1b[1m",
    ]
    tables.print_table(pd.DataFrame({"[red]name[/red]": odd, "value": range(5)}))
    shown = capsys.readouterr().out
    for text in (*odd[:-1], "[red]name[/red]", "\\x1b[1m"):
        assert text in shown
    assert "\x1b" not in shown


def test_progress_shows_names_as_they_are() -> None:
    screen = Console(file=io.StringIO(), markup=False, emoji=False, highlight=False)
    progress.Lines(screen).preparing("[red]\x1b[31m:smile:")
    out = screen.file
    assert isinstance(out, io.StringIO)
    assert out.getvalue() == "[red]\\x1b[31m:smile:\n"
    assert console(stderr=True).stderr


def test_a_log_line_cannot_forge_another() -> None:
    record = logging.LogRecord("a", logging.WARNING, "", 0, "from %s", ("x\nok: \x1b[31m",), None)
    assert Formatter("%(message)s").format(record) == "from x\\x0aok: \\x1b[31m"


def test_an_error_about_a_hostile_name_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    path.write_text('"\\u001b[31m\\n\\u202e" = 1\n')
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", str(path)])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "\u202e" not in err


def test_a_mistaken_word_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", "--\x1b[31mnope"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_nothing_else_writes_to_the_terminal() -> None:
    """The property holds only while every command goes through the one module."""
    root = Path(cli.__file__).parents[1]
    found = []
    for path in sorted(root.rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "typer.echo", "click.echo", "Console", "typer.secho"):
                    found.append(f"{path.relative_to(root.parent)}:{node.lineno}: {called}")
    assert found == []
