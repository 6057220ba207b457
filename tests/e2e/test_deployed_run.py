"""Simulation = deployment: one process, Ray, and three sites' own processes give one model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support_deployed import POLICY, SITES, deployment, write_tables

from fedmed.config import Settings
from fedmed.federation.launch import RaySimulation, run_inline
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.statement import check as check_statement

A, B, C = SITES
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


@pytest.mark.slow
def test_inline_ray_and_three_sites_give_the_same_weights(
    fedmed_home: Path, tmp_path: Path
) -> None:
    """TLS, keys, guards, three tables; noised images at one site and DP-SGD at two."""
    write_tables(tmp_path)
    inline, ray, deployed = (tmp_path / name for name in ("inline", "ray", "deployed"))
    run_inline(simulated(tmp_path), inline, "dp-sgd", lambda *_: None)
    with RaySimulation() as simulation:
        simulation.run(simulated(tmp_path), ray, "dp-sgd", lambda *_: None)
    assert_same(inline, ray)
    asked = Settings().replaced({**ASKED, "data.sites": ", ".join(SITES)})
    with deployment(tmp_path) as federation:
        for site in SITES:
            federation.prepare(site, OWN.get(site, ""))
        federation.start_guards(*SITES)
        # A key that nobody registered is refused, with TLS and everything else in order.
        federation.start_node(C)
        federation.processes.wait_for_end(f"node-{C}")
        assert "not registered" in federation.processes.log(f"node-{C}").lower().replace("\n", " ")
        for site in SITES:
            federation.register(site)
            federation.start_node(site)
        federation.run(asked.to_flat(), deployed)
    assert_same(inline, deployed)
    start, end = weights_at_start(simulated(tmp_path)), weights(deployed)
    assert max(float((end[n] - start[n]).abs().max()) for n in end) > 100 * TOLERANCE
    told = json.loads((deployed / "privacy.json").read_text())
    check_statement(told)
    arms = {m["hospital"]: m["guarantee"]["arm"] for m in told["hospitals"]}
    assert arms == {A: "dp-sgd", B: "pixel-laplace", C: "dp-sgd"}
    for site in (A, C):
        ledger = Ledger(tmp_path / site / "state" / "ledger.sqlite")
        assert ledger.verify() > 0, "the site's own ledger paid"
    history = [json.loads(line) for line in (deployed / "history.jsonl").read_text().splitlines()]
    assert [line["hospitals"] for line in history] == [0, 3, 3]
    assert [line["failures"] for line in history] == [[], [], []]


def weights_at_start(settings: Settings) -> dict[str, torch.Tensor]:
    from server.evaluation import initial_model

    return initial_model(settings).state_dict()
