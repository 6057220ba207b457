"""A node with a registered key that says it is another hospital, or answers for it.

Real processes on the loopback: three guards and SuperNodes, of which one has a lying site file.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from safetensors.torch import load_file
from support.deployed import SITES, Deployment, Settings, deployment, write_tables

from fedmed.coordinator.superlink import LARGEST_BODY
from fedmed.federation.node_keys import fingerprint
from fedmed.site.connection import read_connection, read_key

pytestmark = pytest.mark.slow

A, B, LIAR = SITES
RUN: Settings = {
    "data.sites": f"{A}, {B}",
    "data.hospitals": 2,
    "data.image-size": 16,
    "model.name": "resnet9",
    "train.rounds": 1,
    "train.local-epochs": 1.0,
    "train.batch-size": 8,
    "train.timeout": 200.0,
    "train.join-timeout": 60.0,
    "train.on-failure": "continue",
    "privacy.arm": "dp-sgd",
    "privacy.epsilon": 4.0,
    "privacy.delta": 1e-3,
    "evaluation.where": "hospitals",
    "evaluation.epsilon": 4.0,
    "evaluation.resamples": 100,
    "run.device": "cpu",
    "run.threads": 1,
}


@pytest.fixture(scope="module")
def federation(fedmed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """B, and a third hospital whose site file says that it is A; A itself is not there yet."""
    with deployment(write_tables(tmp_path_factory.mktemp("names"))) as found:
        for site in SITES:
            found.prepare(site)
        lies = found.folder / LIAR / "site.toml"
        lies.write_text(lies.read_text().replace(f'name = "{LIAR}"', f'name = "{A}"'))
        found.start_guards(B, LIAR)
        for site in (B, LIAR):
            found.register(site)
            found.start_node(site)
        yield found


def keys(federation: Deployment) -> str:
    """``data.site-keys`` as the coordinator has them by telephone."""
    found = {s: fingerprint((federation.folder / s / "node.pub").read_bytes()) for s in (A, B)}
    return ", ".join(f"{site}={key}" for site, key in found.items())


def asked_to_train(site: Path) -> bool:
    lines = (site / "state" / "ledger.audit.jsonl").read_text().splitlines()
    return "train" in {json.loads(line).get("kind") for line in lines}


@pytest.mark.timeout(600)
def test_a_registered_node_does_not_get_another_hospitals_place(federation: Deployment) -> None:
    """It is there first, it is let in, and its answer to the query says 'a-clinic'."""
    out = federation.folder / "listed"
    result = federation.run(RUN | {"data.site-keys": keys(federation)}, out)
    [line] = (out / "history.jsonl").read_text().splitlines()[1:]
    assert json.loads(line)["failures"] == [{"hospital": A, "code": "absent"}]
    told = json.loads((out / "privacy.json").read_text())
    assert [member["hospital"] for member in told["hospitals"]] == [B]
    assert result["metrics"]["hospitals"] == [B]
    assert not asked_to_train(federation.folder / LIAR)
    joined = json.loads((out / "joined.json").read_text())
    assert joined.keys() == {B}
    assert f"{B}={joined[B]['node-key']}" in keys(federation)


HOSTILE = """
import dataclasses, pathlib, sys
import torch
import fedmed.hospital.histograms as evaluating
from fedmed.hospital.guard.process import run
from fedmed.hospital.hospital import Hospital

train, evaluate = Hospital.train, evaluating.evaluate

def huge(self, *asked):
    reply = train(self, *asked)
    longer = {name: torch.full_like(value, 1e15) for name, value in reply.update.items()}
    return dataclasses.replace(reply, update=longer)

def many(*asked):
    answer = evaluate(*asked)
    return dataclasses.replace(answer, counts={n: c + 1e12 for n, c in answer.counts.items()})

Hospital.train, evaluating.evaluate = huge, many
run(pathlib.Path(sys.argv[1]), lambda site: print("ready", flush=True))
"""


@pytest.mark.timeout(600)
def test_a_hostile_guard_moves_the_model_no_further_than_its_plan(federation: Deployment) -> None:
    """An update of 1e15 everywhere, and 1e12 images in every cell, through real processes."""
    federation.processes.stop(f"guard-{B}")
    site = federation.folder / B
    command = [sys.executable, "-c", HOSTILE, str(site / "site.toml")]
    federation.processes.start(f"guard-{B}", command, site)
    federation.start_guards(A)
    federation.register(A)
    federation.start_node(A)
    federation.processes.wait_for(f"guard-{B}", "ready", times=2)
    out = federation.folder / "hostile"
    result = federation.run(RUN | {"data.site-keys": keys(federation)}, out)
    [line] = [json.loads(text) for text in (out / "history.jsonl").read_text().splitlines()][1:]
    assert line["hospitals"] == 2
    [cut] = line["cut"]
    assert cut["hospital"] == B
    assert cut["norm"] > 1e15 > 1e4 > cut["bound"]
    weights = load_file(out / "model.safetensors")
    assert max(float(value.abs().max()) for value in weights.values()) < cut["bound"]
    assert result["metrics"]["missing"] == {B: "bad-counts"}
    assert result["metrics"]["hospitals"] == [A]


def status(federation: Deployment, site: str, method: str, request: Any) -> int:
    """Status of one of Flower's calls with this site's key."""
    connection = read_connection(federation.folder / site / "connection.toml")
    key = read_key(connection.key)
    signed = NodeAuthHttpInterceptor(key, key.public_key())
    with FleetHttpClient.from_server_address(
        connection.address, False, connection.ca.read_bytes(), interceptors=[signed]
    ) as client:
        try:
            getattr(client, method)(request)
        except httpx.HTTPStatusError as error:
            return error.response.status_code
    return 200


def test_a_node_answers_in_its_own_name_alone(federation: Deployment) -> None:
    """Flower compares the key with the call's node, not with the node that the answer names."""
    mine, other = (federation.numbers[site] for site in (LIAR, B))

    def answer(source: int) -> PushMessagesRequest:
        about = Metadata(run_id=1, message_id="m", src_node_id=source, reply_to_message_id="x")
        return PushMessagesRequest(node=Node(node_id=mine), messages_list=[Message(metadata=about)])

    work = PullMessagesRequest(node=Node(node_id=mine))
    assert status(federation, LIAR, "PullMessages", work) == 200
    assert status(federation, LIAR, "PushMessages", answer(other)) == 403
    assert status(federation, LIAR, "PushMessages", answer(mine)) != 403


def test_a_node_sends_no_longer_request_than_a_node_does(federation: Deployment) -> None:
    mine = federation.numbers[LIAR]

    def piece(size: int) -> PushObjectRequest:
        node = Node(node_id=mine)
        return PushObjectRequest(node=node, run_id=1, object_id="o", object_content=bytes(size))

    assert status(federation, LIAR, "PushObject", piece(LARGEST_BODY)) == 413
    assert status(federation, LIAR, "PushObject", piece(LARGEST_BODY - 2**16)) not in (413, 401)
