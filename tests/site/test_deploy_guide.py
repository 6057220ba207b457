"""docs/deploy.md and docs/guard.md: commands, ports, users, files and numbers are the code's."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
import yaml
from support import goes_red

from fedmed.cli.commands import app
from fedmed.config import Model
from fedmed.coordinator.superlink import LARGEST_BODY, SMALLEST_LIMIT
from fedmed.federation.members import trained_parameters
from fedmed.hospital.guard.caches import MOST_FEATURES, MOST_POOLS, MOST_SHARDS
from fedmed.site import wire
from fedmed.site.compose import GROUP, GUARD, NODE, compose
from fedmed.site.doctor import SPACE
from fedmed.site.init import Wish, make_site
from fedmed.site.join import _WAITS, PORT
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


PAGES = {
    name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("deploy.md", "guard.md")
}
FILE = re.compile(
    r"(?<![\w./-])(?:[\w-]+/)*[\w-]+(?:\.[\w-]+)*\.(?:toml|sqlite|jsonl|sock|crt|key|pub|pem|yaml)\b"
)
OTHERS = ("NAME.toml", "films.csv")


def written_by_init(folder: Path) -> set[str]:
    """Every file that a hospital has: those of ``fedmed site init``, and those that they name."""
    table = folder / "films.csv"
    table.write_text("image,label,patient_id\na.png,1,p1\n")
    site = folder / "site"
    make_site(site, Wish(name="st-mary", server="fl.example.org:8000", data=table))
    named = FILE.findall("\n".join(p.read_text() for p in site.glob("*.toml")))
    there = {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()}
    return there | set(named)


def code() -> str:
    """Everything in which a file may be named that others write or read."""
    paths = [p for place in ("fedmed", "containers") for p in sorted((ROOT / place).rglob("*.py"))]
    paths += [ROOT / name for name in ("compose.yaml", "server/Dockerfile", "clients/Dockerfile")]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_those_of_the_code(page: str, tmp_path: Path) -> None:
    """Sabotage: the guard's page had a log, a key and a certificate of other names."""
    mine, text = written_by_init(tmp_path), code()
    names = {name.rpartition("/")[2] for name in mine}

    def known(guide: str) -> None:
        wrong = []
        for name in set(FILE.findall(guide)) - set(OTHERS):
            last = name.rpartition("/")[2]
            place = re.sub(r"^/?(srv/)?(site|st-mary)/", "", name)
            if "/" in place and last in names and not (ROOT / name).exists():
                ours = place in mine  # in the folder where init puts it
            else:
                ours = last in names or (ROOT / name).exists()
            if not ours and not re.search(rf"(?<![\w.-]){re.escape(last)}\b", text):
                wrong.append(name)
        assert wrong == []

    known(PAGES[page])
    goes_red(known, PAGES[page].replace("run/guard.sock", "run/site.sock"))
    goes_red(known, PAGES[page].replace("ledger.audit.jsonl", "audit.jsonl"))
    goes_red(known, PAGES[page].replace("ca.crt", "ca.pem"))


@pytest.mark.parametrize("page", PAGES)
def test_ports_and_users_of_a_page_are_those_of_the_code(page: str) -> None:
    (server,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "server" / "Dockerfile").read_text(), re.M)
    uids = re.findall(r"--uid (\d+)", (ROOT / "clients" / "Dockerfile").read_text())
    assert uids == [str(NODE), str(GUARD)]

    def known(text: str) -> None:
        ports = set(re.findall(r"(?:[\w\]]:|[Pp]orts? )(\d{4,5})\b", text))
        ports -= {str(n) for n in (NODE, GUARD, GROUP)}
        assert ports <= {server, str(PORT)}
        assert server in ports
        users = set(re.findall(r"(?:uid |u:|\(|group |peers = \[)(1\d{4})\b", text))
        assert users <= {str(NODE), str(GUARD), str(GROUP)}
        assert {str(NODE), str(GUARD)} <= users

    known(PAGES[page])
    goes_red(known, PAGES[page].replace(f":{server}", ":9092"))
    goes_red(known, PAGES[page].replace(str(GUARD), "10004"))


def test_figures_of_the_security_office_are_the_code_s() -> None:
    def told(text: str) -> None:
        flat = " ".join(text.split())
        site = compose("st-mary", [])
        for name, service in (("GUARD", "guard"), ("NODE", "node")):
            (limit,) = set(re.findall(rf"FEDMED_{name}_MEMORY:-(\d+)g", site))
            assert f"{limit} GiB for `{service}`" in flat
        for title, model in (("ResNet-18", Model()), ("ResNet-9", Model(name="resnet9"))):
            bytes_ = 4 * trained_parameters(model, 224, 2, 1)
            mega, half = f"{bytes_ / 1e6:.1f} MB", f"{bytes_ / 2e6:.1f} MB"
            assert f"| {title}, grey images | {mega} | {mega} | {half} |" in flat
        moved = 20 * 4 * trained_parameters(Model(), 224, 2, 1) / 1e9
        assert f"20 rounds of ResNet-18 move {moved:.1f} GB each way" in flat
        assert f"{SPACE // 2**30} GiB should be free in `state/`" in flat
        assert f"at most {MOST_SHARDS} such files" in flat
        assert f"no more than {wire.LARGEST_BODY // 2**30} GiB in one message" in flat
        assert f"{SMALLEST_LIMIT // 2**20} MiB, whichever is more" in flat
        assert f"may have {LARGEST_BODY // 2**20} MiB" in flat
        (processes,) = re.findall(r"pids_limit: (\d+)", site)
        assert f"at most {processes} processes in `node`" in flat
        ((size, files),) = re.findall(r"max-size: (\d+)m, max-file: \"(\d+)\"", site)
        assert f"{size} MB in {files} files each" in flat
        assert f"logs at most {2 * int(size) * int(files)} MB" in flat

    told(PAGES["deploy.md"])
    goes_red(told, PAGES["deploy.md"].replace("44.7 MB", "89.4 MB"))
    goes_red(told, PAGES["deploy.md"].replace("16 GiB for `guard`", "8 GiB for `guard`"))
    shown = f"{MOST_SHARDS} shards, {MOST_FEATURES} files of features and {MOST_POOLS} pools"
    assert shown in PAGES["guard.md"]


def test_the_table_of_owners_is_what_init_writes(tmp_path: Path) -> None:
    """Every file of the folder has its row, and the modes are those on the disk."""
    mine = written_by_init(tmp_path)
    table = PAGES["deploy.md"].split("### Who owns which file")[1].split("\n### ")[0]

    def whole(text: str) -> None:
        cells = " ".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))
        missing = [n for n in mine if n not in cells and n.rpartition("/")[2] not in cells]
        assert missing == []

    whole(table)
    goes_red(whole, table.replace("`connection.toml`, ", ""))
    for name, mode in (("keys/node", 0o600), ("state", 0o700)):
        assert (tmp_path / "site" / name).stat().st_mode & 0o7777 == mode
        (row,) = [
            line
            for line in table.splitlines()
            if line.startswith((f"| `{name}` |", f"| `{name}/`"))
        ]
        assert f"mode {mode:04o}" in row
