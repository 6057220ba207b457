"""The guides say what is true of the code: examples load, commands parse, keys and links exist."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer
from PIL import Image
from support_docs import write_examples

from fedmed import config, models
from fedmed.cli import app
from fedmed.config import ARMS, Model, Settings
from fedmed.data.network import load_network, training_shard
from fedmed.experiment import load_experiment
from fedmed.privacy import accounting
from fedmed.privacy.images import PixelLaplace

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("experiments/*.md"),
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
    ]
)
MARKED = re.compile(r"<!-- experiment -->\n```toml\n(.*?)```", re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def examples() -> list[Any]:
    return [
        pytest.param(text, id=f"{name_of(page)}-{number}")
        for page in PAGES
        for number, text in enumerate(MARKED.findall(page.read_text(encoding="utf-8")), start=1)
    ]


def commands(program: str) -> list[Any]:
    """Each line of a shell example that starts with ``program``, without its comment."""
    lines = [
        (page, line)
        for page in PAGES
        for language, text in FENCE.findall(page.read_text(encoding="utf-8"))
        if language == "sh"
        for line in text.splitlines()
        if line.startswith(program + " ")
    ]
    return [pytest.param(shlex.split(line, comments=True), id=line[:60]) for _, line in lines]


@pytest.fixture(scope="module")
def example_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return folder


@pytest.mark.parametrize("text", examples())
def test_example_loads_and_its_images_decode(text: str, example_data: Path) -> None:
    path = example_data / "example.toml"
    path.write_text(text, encoding="utf-8")
    data = load_experiment(path).base.data
    network = load_network(data)
    assert len(network.names) == data.hospitals
    if data.source != "phantom":  # its images are tested elsewhere and take longer to draw
        shard = training_shard(data, network.names[0])
        assert np.unique(shard.labels).tolist() == [0, 1]
        assert len(np.unique(shard.images)) > 1


def test_every_toml_block_is_a_tested_example() -> None:
    assert len(examples()) >= 10
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```toml") == len(MARKED.findall(text)), name_of(page)


def parse(arguments: list[str]) -> click.Context:
    """Parse a command without running it; raises ``click.UsageError`` for an unknown option."""
    command = typer.main.get_command(app)
    context = command.make_context("fedmed", list(arguments))
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, context._protected_args)
        assert command is not None
        context = command.make_context(name, [*rest, *context.args], parent=context)
    return context


@pytest.mark.parametrize("line", commands("fedmed"))
def test_command_parses_and_its_settings_exist(line: list[str]) -> None:
    context = parse(line[1:])
    experiment = context.params.get("experiment", "mine.toml")
    if str(experiment) == "mine.toml":
        return
    load_experiment(
        ROOT / experiment,
        arms=context.params.get("arm") or [],
        seeds=context.params.get("seed") or [],
        assignments=context.params["set_"] or [],
    )


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(click.UsageError):
        parse(["run", "x.toml", "--sed", "1"])
    with pytest.raises(click.UsageError):
        parse(["data", "inspekt", "x.toml"])


@pytest.mark.parametrize("line", commands("flwr"))
def test_flwr_run_agrees_with_the_configuration(line: list[str]) -> None:
    options = {name: line[line.index(name) + 1].split() for name in line if name.endswith("config")}
    changes = dict(config.parse_assignment(text) for text in options.get("--run-config", []))
    settings = Settings().replaced(changes)
    nodes = options.get("--federation-config", ["num-supernodes=2"])  # Flower's own default
    assert nodes == [f"num-supernodes={settings.nodes}"]


def test_the_quickstart_lists_every_option_of_run() -> None:
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    long = {max(p.opts, key=len) for p in run.params if p.opts[0].startswith("-")}
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(--[\w-]+)`", text, re.MULTILINE)) == long - {"--help"}


def test_configuration_lists_every_key_with_its_default_and_choices() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| `([^`]*)` \| (.*?) (?<!\\)\| ", text, re.MULTILINE)
    assert {key: json.loads(default) for key, default, _ in rows} == Settings().to_flat()
    assert len(rows) == len(Settings().to_flat())
    for key, choices in choices_of(Settings().model_json_schema(by_alias=True)).items():
        listed = next(values for name, _, values in rows if name == key)
        for choice in filter(None, choices):
            assert f"`{choice}`" in listed, key


def choices_of(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Values of the keys that take one of a few texts."""
    found = {}
    for section, reference in schema["properties"].items():
        kind = schema["$defs"][reference.get("$ref", "").rpartition("/")[2]]
        for key, field in kind["properties"].items():
            if field.get("type") == "string" and "enum" in field:
                found[f"{section}.{key}"] = field["enum"]
    assert "privacy.arm" in found
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_relative_to(ROOT), link
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = r"`((?:fedmed|clients|server|experiments)/[\w/.-]*|[\w-]+\.(?:lock|toml))`"
    for name in re.findall(named, text):
        # pyproject.toml and the lock lie in the root; experiments may be named by their file alone.
        assert (ROOT / name).exists() or name in ("mine.toml",), name
    for target in re.findall(r"`?make (run|test|lint|\w+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_of_one_machine_or_registry_is_told(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = r"(?<![\w.])/(?:work|tmp|root|home|Users|opt|mnt)\b"
    registries = r"index-url|find-links|/simple/"
    assert not re.search(places, text), name_of(page)
    assert not re.search(registries, text), name_of(page)


@pytest.mark.parametrize("page", ["README.md", "docs/privacy.md"])
def test_every_arm_has_its_row(page: str) -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert set(ARMS) <= set(rows)


def test_the_numbers_of_the_privacy_guide_are_the_codes() -> None:
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    noise = accounting.noise_multiplier(8.0, 1e-4, 1.0, 4)
    network = models.build(Model(stem="imagenet"), 32, 0)
    parameters = sum(p.numel() for p in models.trainable(network).values())
    length = noise * math.sqrt(parameters)
    assert f"noise multiplier is {noise:.2f}" in text
    assert f"{parameters / 1e6:.1f} million parameters" in text
    assert f"some {round(length, -2):,.0f}." in text
    assert f"about {round(length / 4, -2):.0f} times" in text
    laplace = PixelLaplace(0.5, 32 * 32)
    each, whole = laplace.epsilon_per_pixel, laplace.epsilon_per_image
    assert f"{each:g} per pixel and {whole:,.0f} per image" in text
    for row in re.findall(r"^\| ([\d.]+) \| ([\d.]+) % \|", text, re.MULTILINE):
        assert float(row[1]) == pytest.approx(math.exp(float(row[0])), rel=0.03), row


def test_the_picture_is_small() -> None:
    path = ROOT / "docs" / "images" / "report.png"
    with Image.open(path) as picture:
        assert picture.width == 1280
    assert path.stat().st_size < 300_000
