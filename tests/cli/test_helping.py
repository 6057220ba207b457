"""The commands' help, and the one line on a word that none of them knows."""

import re
from pathlib import Path

import click
import pytest
import typer
from support import goes_red

from fedmed.cli import commands as cli

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["rnu", "x.toml"], "unknown command 'rnu'; did you mean 'run'? See fedmed --help"),
        (["site", "ini"], "unknown command 'ini'; did you mean 'init'? See fedmed site --help"),
        (
            ["site", "doctor"],
            "unknown command 'doctor'; did you mean 'fedmed doctor'? See fedmed site --help",
        ),
        (
            ["inspect", "x.toml"],
            "unknown command 'inspect'; did you mean 'fedmed data inspect'? See fedmed --help",
        ),
        (["xyzzy"], "unknown command 'xyzzy'; see fedmed --help"),
        (
            ["run", "x.toml", "--sett", "a=1"],
            "unknown option '--sett'; did you mean '--set'? See fedmed run --help",
        ),
        (
            ["plan", "--epsilom=8"],
            "unknown option '--epsilom'; did you mean '--epsilon'? See fedmed plan --help",
        ),
        (["--xyzzy"], "unknown option '--xyzzy'; see fedmed --help"),
        (["run"], "Missing argument 'EXPERIMENT.toml'; see fedmed run --help"),
    ],
)
def test_a_typing_error_is_one_line_with_one_suggestion(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {line}\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed = [1]\n", "unknown key 'seed'; did you mean 'seeds'?"),
        ("rounds = 3\n", "unknown key 'rounds'; did you mean 'train.rounds'?"),
        ("[trian]\nrounds = 3\n", "unknown key 'trian'; did you mean 'train'?"),
        ("[train]\nround = 3\n", "unknown key 'train.round'; did you mean 'train.rounds'?"),
        ("xyzzy = 3\n", "unknown key 'xyzzy'; correct the spelling, or remove it"),
    ],
)
def test_an_unknown_key_of_an_experiment_is_one_line_with_one_suggestion(
    text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert call("run", str(path)) == 2
    assert capsys.readouterr().err == f"error: {path}: {line}\n"


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(*words, "--help") == 0
    return capsys.readouterr().out


def test_the_help_opens_with_run_and_has_an_example_and_the_guides(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(capsys=capsys)
    listed = re.findall(r"^  (\w+)  +\S", text.partition("Commands:\n")[2], re.MULTILINE)
    assert listed == [
        *("run", "plan", "report", "evaluate", "data", "ledger", "site", "doctor", "guard")
    ]
    assert "\n    fedmed run experiments/quickstart.toml\n" in text
    named = re.findall(r"[\w/]+\.(?:md|toml)", text)
    assert named == ["experiments/quickstart.toml", "docs/index.md", "docs/deploy.md"]
    assert all((ROOT / name).is_file() for name in named)


def test_every_command_is_told_in_one_line_and_no_bracket_is_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(text: str) -> None:
        listed = text.partition("Commands:\n")[2]
        assert "..." not in listed, "a line of the list of commands is cut"
        assert "\\[" not in text
        bare = re.findall(r"^  \S+(?:  \[required\])?$", text.partition("Arguments:")[2], re.M)
        assert bare == [], "an argument without a description"
        assert text.count("rguments:") <= 1

    root = typer.main.get_command(cli.app)
    assert isinstance(root, click.Group)
    for name, command in root.commands.items():
        told(help_of(name, capsys=capsys))
        for below in command.commands if isinstance(command, click.Group) else ():
            told(help_of(name, below, capsys=capsys))
    told(help_of(capsys=capsys))
    goes_red(told, "DIR  \\[required]")
    goes_red(told, "Arguments:\n  DIR  [required]\n")
