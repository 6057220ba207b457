"""Distributed DP-SGD between three sites' own processes: one model, and one that is killed."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.deployed import POLICY, SITES, Deployment, deployment, write_tables

from fedmed.base.files import write_text
from fedmed.config import Settings
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
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
    "train.timeout": 45.0,
    "train.on-failure": "continue",
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


def until_one_is_killed(federation: Deployment, asked: Settings, out: Path) -> None:
    """A run in which the third site's processes end in the second step."""
    failed: list[BaseException] = []

    def running() -> None:
        try:
            federation.run(asked.to_flat(), out)
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


def inline(folder: Path, gone: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same federation in one process, in which a hospital fails in some steps."""
    (folder / "policies").mkdir()
    for site in SITES:
        (folder / "policies" / f"{site}.toml").write_text(SUMS)
    table = {
        "data.source": "table",
        "data.path": str(folder / "all.csv"),
        "data.images": str(folder / "images"),
        "run.policies": str(folder / "policies"),
    }
    train = Hospital.train

    def absent(self: Hospital, name: str, number: int, *rest: Any) -> Any:
        if self.name == gone.get(number):
            raise Refusal("memory")
        return train(self, name, number, *rest)

    monkeypatch.setattr(Hospital, "train", absent)
    run_inline(Settings().replaced({**ASKED, **table}), folder / "inline", "sums", lambda *_: None)
    return folder / "inline"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_sites_sum_in_secret_and_go_on_where_one_is_killed(
    fedmed_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS, keys, guards; a site dies in a step. Bit for bit the weights of one process without it.

    The guards hold keys and noise; the app relays masked whole numbers.
    """
    folder = write_tables(tmp_path)
    asked = Settings().replaced({**ASKED, "data.sites": ", ".join(SITES)})
    out = folder / "deployed"
    with deployment(folder) as federation:
        pinned(federation)
        federation.start_guards(*SITES)
        for site in SITES:
            federation.start_node(site)
        until_one_is_killed(federation, asked, out)
        logs = {site: federation.processes.log(f"node-{site}") for site in SITES}
        guards = {site: federation.processes.log(f"guard-{site}") for site in SITES}
    lines = history(out)
    assert [line["hospitals"] for line in lines] == [0, 3, 2]
    assert [line["failures"] for line in lines] == [[], [], [{"hospital": C, "code": "no-answer"}]]
    assert all("given_up" not in line for line in lines)
    mine = load_file(inline(folder, {2: C}, monkeypatch) / "model.safetensors")
    theirs = load_file(out / "model.safetensors")
    assert mine.keys() == theirs.keys()
    apart = {n: (mine[n] - theirs[n]).abs().max() for n in mine if not mine[n].equal(theirs[n])}
    assert apart == {}, guards
    assert [text for text in guards.values() if "failed" in text] == []
    told = json.loads((out / "privacy.json").read_text())
    check_statement(told)
    assert told["trust"].startswith("the hospital and all but")
    for site in SITES:
        log = (folder / site / "state" / "ledger.audit.jsonl").read_text()
        phases = {json.loads(line).get("phase") for line in log.splitlines()}
        assert {"hello", "meet", "sign", "open"} <= phases
        assert (folder / site / "state" / "sum.key").read_text().splitlines()[1] not in logs[site]
