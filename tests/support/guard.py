"""A site with a guard in this process: small phantom, small model, and an app that asks."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmed import __version__
from fedmed.config import Scalar
from fedmed.federation import exchange
from fedmed.hospital.guard.answering import Guard
from fedmed.site.arrays import read_arrays
from fedmed.site.file import read_site
from fedmed.site.requests import Request, write_request
from support import SIZE, tiny_network

POLICY = (
    'maximum-epsilon = 120.0\ndelta = 1e-3\npublic-size = 40\narms = ["dp-sgd", "local-update"]\n'
)
SITE = """name = "st-mary"
policy = "policy.toml"
ledger = "state/ledger.sqlite"
socket = "run/guard.sock"
[data]
source = "phantom"
patients = 80
[settings]
"run.device" = "cpu"
"run.threads" = 1
"""
CONFIG: dict[str, Scalar] = {
    "data.sites": "st-mary,st-john",
    "data.hospitals": 2,
    "data.image-size": SIZE,
    "train.rounds": 2,
    "train.batch-size": 6,
    "train.local-epochs": 1.0,
    "train.learning-rate": 0.1,
    "evaluation.where": "hospitals",
    "evaluation.epsilon": 2.0,
    "privacy.arm": "dp-sgd",
    "privacy.epsilon": 10.0,
    "privacy.delta": 1e-3,
}


def write_site(folder: Path, policy: str = POLICY, site: str = SITE) -> Path:
    """The files of a site; the path of its site.toml."""
    (folder / "policy.toml").write_text(policy)
    path = folder / "site.toml"
    path.write_text(site)
    return path


def guard(folder: Path, policy: str = POLICY, site: str = SITE) -> Guard:
    """A guard without a socket."""
    return Guard.open(read_site(write_site(folder, policy, site)))


def model(seed: int = 0) -> dict[str, Tensor]:
    """What a server would send."""
    return exchange.parameters_of(tiny_network(seed))


def request(kind: str = "train", run: str = "run-1", **changes: Any) -> Request:
    """A request that an honest app makes; ``config`` is added to the usual one."""
    config = CONFIG | changes.pop("config", {})
    whole = Request(kind=kind, version=__version__, config=config, run=run, run_id=7)
    if kind == "train":
        whole = dataclasses.replace(whole, round_number=1, model=model())
    if kind == "evaluate":
        whole = dataclasses.replace(whole, model=model(), edges=(-1.0, 0.0, 1.0))
    return dataclasses.replace(whole, **changes)


def ask(one: Guard, wanted: Request) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The guard's answer: header and arrays."""
    header, body = one.answer(*write_request(wanted), 1000)
    about = header.get("arrays")
    if about is None:
        assert body == b""
        return header, {}
    kinds = (torch.float32, torch.float64)
    return header, read_arrays(body, about["names"], kinds)


def code(one: Guard, wanted: Request) -> str:
    """The code of a refusal; empty for an answer."""
    header, arrays = ask(one, wanted)
    if "error" in header:
        assert header.keys() == {"error"}
        assert arrays == {}
    return str(header.get("error", ""))
