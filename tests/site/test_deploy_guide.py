"""docs/deploy.md: its commands exist, in containers too, and its numbers are the code's."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
import yaml

from fedmed.cli.commands import app
from fedmed.site.join import _WAITS
from fedmed.site.reach import SKEW

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```\w+\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").strip().splitlines()
]


def parse(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    context = command.make_context("fedmed", list(arguments))
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, context._protected_args)
        assert command is not None
        context = command.make_context(name, [*rest, *context.args], parent=context)


@pytest.mark.parametrize("line", [c for c in COMMANDS if " fedmed " in c])
def test_what_is_run_in_a_container_parses(line: str) -> None:
    parse(shlex.split(line.partition(" fedmed ")[2]))


def test_ten_commands() -> None:
    steps = re.findall(r"^(\d+)\. ", TEXT, re.MULTILINE)
    assert [int(number) for number in steps] == list(range(1, 11))
    assert len([c for c in COMMANDS if " fedmed " in c]) >= 2


def test_services_that_are_named_exist() -> None:
    trial = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    from fedmed.site.compose import compose

    site = yaml.safe_load(compose("st-mary", [Path("/srv/xray")]))["services"]
    for line in COMMANDS:
        if "docker compose" not in line:
            continue
        words = shlex.split(line.partition("docker compose ")[2])
        named = [w for w in words if w in trial or w in site]
        if words[0] in ("run", "exec"):
            assert named, line


def test_numbers_are_the_code_s() -> None:
    assert f"more than {SKEW:.0f} seconds" in TEXT
    *first, last = (f"{wait:.0f}" for wait in _WAITS)
    assert f"after {', '.join(first)} and then every\n   {last} seconds" in TEXT
