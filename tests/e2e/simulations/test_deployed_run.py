"""Simulation = deployment: one process, Ray, and three sites' own processes give one model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.deployed import POLICY, SITES, deployment, write_tables

from fedmed.config import Settings
from fedmed.coordinator.evaluation import initial_model
from fedmed.launch import RaySimulation, run_inline
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.statement.contents import check as check_statement

A, B, C = SITES
pytestmark = pytest.mark.usefixtures("no_other_ray")

OWN = {
    B: '"privacy.arm" = "pixel-laplace"\n"privacy.epsilon" = 4.0\n',
    C: '"privacy.epsilon" = 3.0\n"train.batch-size" = 6\n',
}
ASKED: dict[str, Any] = {
    "data.hospitals": 3,
    "data.image-size": 16,
    "model.name": "resnet9",
    "train.rounds": 2,
    "train.local-epochs": 1.0,
    "train.batch-size": 8,
    "train.join-timeout": 200.0,
    "train.timeout": 200.0,
    "privacy.arm": "dp-sgd",
    "privacy.delta": 1e-3,
    "privacy.reproducible-noise": True,
    "evaluation.where": "hospitals",
    "evaluation.epsilon": 4.0,
    "evaluation.resamples": 100,
    "run.device": "cpu",
    "run.threads": 1,
}
# Sums in another order: far below what one update changes.
TOLERANCE = 1e-5


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(left: Path, right: Path) -> None:
    mine, theirs = weights(left), weights(right)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=TOLERANCE)


def simulated(folder: Path, **changes: Any) -> Settings:
    """The same federation as a simulation: the union of the tables, the sites' own in folders."""
    for kind, texts in (("policies", dict.fromkeys(SITES, POLICY)), ("sites", OWN)):
        (folder / kind).mkdir(exist_ok=True)
        for site, text in texts.items():
            (folder / kind / f"{site}.toml").write_text(text)
    table = {
        "data.source": "table",
        "data.path": str(folder / "all.csv"),
        "data.images": str(folder / "images"),
        "run.policies": str(folder / "policies"),
        "run.sites": str(folder / "sites"),
    }
    return Settings().replaced({**ASKED, **table, **changes})


@pytest.fixture(scope="module")
def folder(fedmed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables, and the run in one process, in ``inline``."""
    made = write_tables(tmp_path_factory.mktemp("sites"))
    run_inline(simulated(made), made / "inline", "dp-sgd", lambda *_: None)
    return made


@pytest.mark.slow
def test_ray_gives_the_weights_of_one_process(folder: Path) -> None:
    """Noised images at one hospital, DP-SGD at two, each with a policy and settings of its own."""
    with RaySimulation() as simulation:
        simulation.run(simulated(folder), folder / "ray", "dp-sgd", lambda *_: None)
    assert_same(folder / "inline", folder / "ray")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_sites_of_their_own_give_the_weights_of_one_process(folder: Path) -> None:
    """TLS, registered keys, guards, three tables: the same federation as processes."""
    out = folder / "deployed"
    asked = Settings().replaced({**ASKED, "data.sites": ", ".join(SITES)})
    with deployment(folder) as federation:
        for site in SITES:
            federation.prepare(site, OWN.get(site, ""))
            federation.register(site)
        federation.start_guards(*SITES)
        for site in SITES:
            federation.start_node(site)
        federation.run(asked.to_flat(), out)
    assert_same(folder / "inline", out)
    start, end = initial_model(simulated(folder)).state_dict(), weights(out)
    assert max(float((end[n] - start[n]).abs().max()) for n in end) > 100 * TOLERANCE
    for run in (folder / "inline", out):
        assert json.loads((run / "result.json").read_text())["refused"] == []
    told = json.loads((out / "privacy.json").read_text())
    check_statement(told)
    arms = {m["hospital"]: m["guarantee"]["arm"] for m in told["hospitals"]}
    assert arms == {A: "dp-sgd", B: "pixel-laplace", C: "dp-sgd"}
    for site in (A, C):
        ledger = Ledger(folder / site / "state" / "ledger.sqlite")
        assert ledger.verify() > 0, "the site's own ledger paid"
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["hospitals"] for line in history] == [0, 3, 3]
    assert [line["failures"] for line in history] == [[], [], []]
