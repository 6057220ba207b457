"""Distributed DP-SGD between three sites' own processes: one model, and one that is killed."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.deployed import POLICY, SITES, Deployment, deployment, write_tables

from fedmed.base.files import write_text
from fedmed.config import Settings
from fedmed.launch import run_inline
from fedmed.privacy.statement.contents import check as check_statement
from fedmed.site.sum_keys import PEERS, write_identity

A, B, C = SITES
pytestmark = pytest.mark.usefixtures("no_other_ray")
SUMS = POLICY.replace('arms = ["dp-sgd", "pixel-laplace"]', 'arms = ["distributed-dp-sgd"]')
ASKED: dict[str, Any] = {
    "data.hospitals": 3,
    "data.image-size": 16,
    "model.name": "resnet9",
    "model.trains": "head",
    "train.rounds": 2,
    "train.sampling-rate": 0.5,
    "train.learning-rate": 0.2,
    "train.join-timeout": 200.0,
    "train.timeout": 200.0,
    "privacy.arm": "distributed-dp-sgd",
    "privacy.delta": 1e-3,
    "privacy.colluding": 0,
    "privacy.threshold": 2,
    "privacy.reproducible-noise": True,
    "evaluation.where": "hospitals",
    "evaluation.epsilon": 4.0,
    "evaluation.resamples": 100,
    "run.device": "cpu",
    "run.threads": 1,
}


def pinned(federation: Deployment) -> None:
    """Each site makes a key and pins those of the others, as their administrators would."""
    lines = {}
    for site in SITES:
        federation.prepare(site, policy=SUMS)
        lines[site] = write_identity(federation.folder / site)
    text = "".join(f'"{site}" = "{line}"\n' for site, line in lines.items())
    for site in SITES:
        write_text(federation.folder / site / PEERS, text)
        federation.register(site)


def history(out: Path) -> list[dict[str, Any]]:
    path = out / "history.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_sites_sum_in_secret_and_go_on_where_one_is_killed(
    fedmed_home: Path, tmp_path: Path
) -> None:
    """TLS, keys, guards: the weights of one process bit for bit; then a site's processes die.

    The guards hold keys and noise; the app relays masked whole numbers.
    """
    folder = write_tables(tmp_path)
    table = {
        "data.source": "table",
        "data.path": str(folder / "all.csv"),
        "data.images": str(folder / "images"),
        "run.policies": str(folder / "policies"),
    }
    (folder / "policies").mkdir()
    for site in SITES:
        (folder / "policies" / f"{site}.toml").write_text(SUMS)
    simulated = Settings().replaced({**ASKED, **table})
    run_inline(simulated, folder / "inline", "sums", lambda *_: None)
    sites = {"data.sites": ", ".join(SITES)}
    with deployment(folder) as federation:
        pinned(federation)
        federation.start_guards(*SITES)
        for site in SITES:
            federation.start_node(site)
        federation.run(Settings().replaced({**ASKED, **sites}).to_flat(), folder / "deployed")
        mine = load_file(folder / "inline" / "model.safetensors")
        theirs = load_file(folder / "deployed" / "model.safetensors")
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        told = json.loads((folder / "deployed" / "privacy.json").read_text())
        check_statement(told)
        assert told["trust"].startswith("the hospital and all but")
        killed(federation, sites, folder / "killed")
    for site in SITES:
        log = (folder / site / "state" / "ledger.audit.jsonl").read_text()
        assert {"hello", "meet", "sign", "open"} <= {
            json.loads(line).get("phase") for line in log.splitlines()
        }
        key = (folder / site / "state" / "sum.key").read_text().splitlines()[1]
        assert key not in federation.processes.log(f"node-{site}")


def killed(federation: Deployment, sites: dict[str, Any], out: Path) -> None:
    """A run in which the third site ends in the middle of a step."""
    loose = {"train.rounds": 4, "train.on-failure": "continue", "train.timeout": 20.0}
    failed: list[BaseException] = []

    def running() -> None:
        try:
            federation.run(Settings().replaced({**ASKED, **sites, **loose}).to_flat(), out)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failed.append(error)

    thread = threading.Thread(target=running)
    thread.start()
    deadline = time.monotonic() + 200
    while len(history(out)) < 2 and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    federation.processes.stop(f"guard-{C}", f"node-{C}")
    thread.join(280)
    assert failed == []
    hospitals = [line["hospitals"] for line in history(out)]
    assert hospitals[0] == 0
    assert hospitals[1] == 3
    assert hospitals[-1] == 2
    assert len(hospitals) == 5  # every step was taken
    assert all(line.get("given_up") is None for line in history(out)[-1:])
