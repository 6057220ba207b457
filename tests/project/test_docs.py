"""The guides say what is true of the code: examples load, commands parse, keys and links exist."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
import typer
from PIL import Image
from support import goes_red
from support.docs import write_examples
from typer.testing import CliRunner

from fedmed import config, models
from fedmed.base import files
from fedmed.base.rounding import up
from fedmed.cli.commands import app
from fedmed.config import Model, Settings
from fedmed.data.network import load_network, training_shard
from fedmed.experiment.file import load_experiment
from fedmed.federation.members import make_plans
from fedmed.privacy import accounting
from fedmed.privacy.accounting import solve
from fedmed.privacy.ledger.deciding import request_for
from fedmed.privacy.ledger.filtering import Charge, Limit
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import SIMULATION, Policy, read_policy
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import gaussian, group_gaussian
from fedmed.privacy.plans.making import make_plan
from fedmed.privacy.statement import whole
from fedmed.privacy.statement.contents import Spend, schema, statement
from fedmed.privacy.statement.totals import totals
from fedmed.site.file import read_site

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("experiments/*.md"),
        *ROOT.glob("*.md"),
    ]
)
MARKED = re.compile(r"<!-- experiment -->\n```toml\n(.*?)```", re.DOTALL)
SITE = re.compile(r"<!-- site -->\n```toml\n(.*?)```", re.DOTALL)
POLICY = re.compile(r"<!-- policy -->\n```toml\n(.*?)```", re.DOTALL)
SHOWN = re.compile(r"^```sh\n([^\n]*)\n```\n+^```(?:json)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
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
        tested = len(MARKED.findall(text)) + len(POLICY.findall(text)) + len(SITE.findall(text))
        assert text.count("```toml") == tested, name_of(page)


def test_the_guides_site_file_is_one(tmp_path: Path) -> None:
    (text,) = SITE.findall((ROOT / "docs" / "guard.md").read_text(encoding="utf-8"))
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    (tmp_path / "policy.toml").write_text("public-size = 100\n", encoding="utf-8")
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir(mode=0o700)
    site = read_site(tmp_path / "site.toml")
    assert (site.name, site.peers) == ("st-mary", (10001,))
    assert site.socket == tmp_path / "run" / "guard.sock"


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
    experiment = context.params.get("experiment")
    if experiment is None or str(experiment) == "mine.toml":
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
    with pytest.raises(click.UsageError):
        parse(["ledger", "verify", "x", "--ancor", "1:0"])


def shown(page: str, *parts: str) -> list[Any]:
    """Commands of a guide that hold ``parts``, each with the output that stands below it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = [(c, out) for c, out in SHOWN.findall(text) if all(part in c for part in parts)]
    assert found, parts
    return [pytest.param(shlex.split(c)[1:], out, id=c[:90]) for c, out in found]


def same_output(told: str, printed: str) -> None:
    """The same words in the same order; numbers agree to half a percent (tables round them)."""
    assert len(told.split()) == len(printed.split())
    for ours, theirs in zip(told.split(), printed.split(), strict=True):
        try:
            assert float(ours.rstrip(",;")) == pytest.approx(float(theirs.rstrip(",;")), rel=5e-3)
        except ValueError:
            assert ours == theirs or set(ours + theirs) == {"─"}


@pytest.mark.parametrize(
    ("line", "output"), shown("plan.md", "--patients") + shown("plan.md", "every-kind.toml")
)
def test_the_plans_of_the_guide_are_what_the_command_prints(
    line: list[str], output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = list(line)
    if "--patients" not in command:
        command[1] = str(ROOT / command[1])
    monkeypatch.chdir(tmp_path)  # where no earlier run has ledgers
    result = CliRunner().invoke(app, command)
    error = "" if result.exception is None else f"error: {result.exception}"
    same_output(output, result.output if result.exit_code == 0 else result.output + error)
    goes_red(same_output, output, (result.output + error).replace("impossible", "fine", 1) + "x")


def test_the_ledger_of_the_guide_is_what_its_experiment_spends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of ``mine.toml``, reserved without training, give the table that is told."""
    text = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(MARKED.findall(text)[0], encoding="utf-8")
    experiment = load_experiment(tmp_path / "mine.toml")
    folder = tmp_path / "runs" / "mine"
    for arm in experiment.arms:
        for seed in experiment.seeds:
            settings = experiment.settings(arm, seed)
            for member, plan in make_plans(settings).items():
                central = plan.payer == "server"
                if central and member != "hospital-1":
                    continue  # one ledger pays for all
                ledger = Ledger(files.ledger_path("", folder, None if central else member))
                request = request_for(settings, member, plan, SIMULATION)
                if central:
                    request = replace(request, account="server/hospital")
                image = arm == "pixel-laplace"  # one release for all seeds
                run = "images" if image else f"{arm}-{seed}"
                ledger.open_plan(run, request)
                for number in range(1 if image else settings.train.rounds):
                    steps = plan.steps_per_round or 1
                    ledger.reserve(run, number, "m", steps, repeatable=image)
    monkeypatch.chdir(tmp_path)
    told = re.findall(r"ledger show runs/mine.*?^```\n+^```\n(.*?)^```", text, re.M | re.S)[0]
    line = ["ledger", "show", "runs/mine", "--delta", "1e-3"]
    same_output(told, CliRunner().invoke(app, line).output)
    ledger = Ledger(files.ledger_path("", folder, "hospital-1"))
    run = next(row.run for row in ledger.rows() if row.run != "images")
    ledger.open_plan("more", replace(request_of(ledger, run), steps=4))
    ledger.reserve("more", 0, "m", 4)
    goes_red(same_output, told, CliRunner().invoke(app, line).output)


def request_of(ledger: Ledger, run: str) -> Charge:
    return Charge.from_json(next(row.body for row in ledger.rows() if row.run == run))


def test_the_policy_of_the_guide_is_one_and_every_key_is_listed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    path = tmp_path / "hospital-2.toml"
    path.write_text(POLICY.findall(text)[0], encoding="utf-8")
    policy = read_policy(path)
    assert (policy.account, policy.limit) == ("radiology 2026", Limit(20.0, 1e-3))
    assert policy.allows("dp-sgd")
    assert not policy.allows("none")
    rows = re.findall(r"^\| `([\w-]+)` \| `([^`]*)` \| ", text, re.MULTILINE)
    assert {key: json.loads(default) for key, default in rows} == Policy().model_dump(by_alias=True)


def test_the_schema_is_the_codes_and_a_statement_keeps_it() -> None:
    stored = json.loads((ROOT / "docs" / "privacy.schema.json").read_text(encoding="utf-8"))
    assert stored == schema(), "run make docs"
    settings = Settings().replaced({"privacy.arm": "central-adaptive", "privacy.delta": 1e-3})
    plan = make_plan(settings, 500, "hospital-1")
    told = statement(settings, {"hospital-1": Spend(plan, 4)}, "adaptive", NoiseSource())
    told["total"] = [t.model_dump() for t in totals({"adaptive/seed-0": told})]
    value = json.loads(json.dumps(told))

    def keeps(candidate: dict[str, Any]) -> None:
        assert jsonschema.Draft202012Validator(stored).is_valid(candidate)

    keeps(value)
    assert value["total"][0]["epsilon"] > 8
    goes_red(keeps, {**value, "epsilon": -1.0})
    goes_red(keeps, {**value, "hospitals": [{"hospital": "hospital-1"}]})
    goes_red(keeps, {key: v for key, v in value.items() if key != "total"})
    goes_red(keeps, {**value, "patients": 59})


def test_the_schema_of_a_whole_comparison_is_the_codes() -> None:
    path = ROOT / "docs" / "privacy-total.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == whole.schema(), "run make docs"


def test_the_fields_that_the_privacy_guide_explains_are_those_of_a_statement() -> None:
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = text.split("## The statement's fields")[1].split("\n## ")[0]
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert len(told) > 20
    assert told <= set(schema()["properties"])


@pytest.mark.parametrize("line", commands("flwr"))
def test_flwr_run_agrees_with_the_configuration(line: list[str]) -> None:
    options = {name: line[line.index(name) + 1].split() for name in line if name.endswith("config")}
    changes = dict(config.parse_assignment(text) for text in options.get("--run-config", []))
    settings = Settings().replaced(changes)
    nodes = options.get("--federation-config", ["num-supernodes=2"])  # Flower's own default
    assert nodes == [f"num-supernodes={settings.nodes}"]


def test_the_quickstart_lists_every_option_of_run() -> None:
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]  # a group of commands
    long = {max(p.opts, key=len) for p in run.params if p.opts[0].startswith("-")}
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(--[\w-]+)`", text, re.MULTILINE)) == long - {"--help"}


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
def test_no_page_has_two_headings_of_one_name(page: Path) -> None:
    """Sabotage: a section that a merge brought back, outdated, below its newer self."""

    def once(text: str) -> None:
        headings = re.findall(r"^##+ (.+)$", FENCE.sub("", text), re.MULTILINE)
        if page.name == "CHANGELOG.md":  # each version has its own Added, Changed and Fixed
            headings = [heading for heading in headings if heading.startswith("[")]
        assert len(headings) == len(set(headings))

    text = page.read_text(encoding="utf-8")
    once(text)
    goes_red(once, f"{text}\n## [x]\n\n## [x]\n")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = r"`((?:fedmed|clients|server|experiments)/[\w/.-]*|[\w-]+\.(?:lock|toml))`"
    for name in re.findall(named, text):
        # pyproject.toml and the lock lie in the root; experiments may be named by their file alone.
        own = (
            "mine.toml",
            "NAME.toml",
            "site.toml",
            "policy.toml",
            "connection.toml",
            "sum-peers.toml",
        )
        assert (ROOT / name).exists() or name in own, name
    for target in re.findall(r"`?make ([\w-]+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_of_one_machine_or_registry_is_told(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = r"(?<![\w.])/(?:work|tmp|root|home|Users|opt|mnt)\b"
    registries = r"index-url|find-links|/simple/"
    assert not re.search(places, text), name_of(page)
    assert not re.search(registries, text), name_of(page)


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
    question = solve.Question(units=1000, batch=64, epochs=20, delta=1e-5)
    attacker = r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \| ([\d.]+)?"
    rows = re.findall(attacker, text, re.MULTILINE)
    assert [float(row[0]) for row in rows] == [0.5, 1, 2, 4, 8]
    for target, mu, advantage, power, bound in rows:
        spent = ((gaussian(solve.noise(question, float(target)), question.rate), question.steps),)
        risk = accounting.risk(spent, question.delta)
        assert float(mu) == pytest.approx(up(risk.mu), rel=0.005)
        assert float(advantage) == pytest.approx(up(risk.advantage), rel=0.02)
        assert float(power) == pytest.approx(100 * up(risk.tpr_at_fpr_001, 2), rel=0.03)
        if bound:
            assert float(bound) == pytest.approx(math.exp(float(target)), rel=0.05)
    noise = solve.noise(question, 8.0)
    swap = accounting.epsilon(noise, question.rate, question.steps, question.delta, "replace-one")
    assert f"the swap costs {swap:.2f}" in text
    noise = solve.noise(replace(question, relation="replace-one"), 8.0)
    caps = re.findall(r"^\| (\d) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [k for k, _ in caps] == ["1", "2", "4"]
    for k, told in caps:
        step = group_gaussian(noise, question.rate, int(k))
        found = accounting.composed_epsilon(((step, question.steps),), question.delta)
        assert float(told) == pytest.approx(found, rel=0.005)


def test_the_picture_is_small() -> None:
    path = ROOT / "docs" / "images" / "report.png"
    with Image.open(path) as picture:
        assert picture.width == 1440
    assert path.stat().st_size < 300_000
