"""A simulation on a Ray cluster that is there already: two nodes, here on one machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedmed.config import Settings
from fedmed.launch import RaySimulation, run_inline

pytestmark = pytest.mark.usefixtures("no_other_ray")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
cluster.add_node(**small)
print(cluster.address, flush=True)
sys.stdin.read()  # until the test closes it
cluster.shutdown()
"""
ACTORS = """
import json, sys, ray
from ray._private import state

ray.init(address=sys.argv[1], log_to_driver=False)
actors = [a for a in state.actors().values() if a["ActorClassName"] == "ClientAppActor"]
print(json.dumps(sorted({a["Address"]["NodeID"] for a in actors})))
"""


@pytest.fixture
def address(fedmed_home: Path) -> Iterator[str]:
    """The address of a cluster of two nodes with one CPU each."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        found = process.stdout.readline().strip()
        assert found, "ray's cluster did not start"
        yield found
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_two_nodes_of_a_cluster_share_the_hospitals(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings().replaced(
        {
            "data.patients": 60,
            "data.hospitals": 2,
            "data.image-size": 16,
            "model.name": "resnet9",
            "train.rounds": 1,
            "train.local-epochs": 1.0,
            "train.batch-size": 8,
            "evaluation.resamples": 100,
            "run.device": "cpu",
            "run.threads": 1,
        }
    )
    monkeypatch.setenv("RAY_ADDRESS", address)
    with RaySimulation() as simulation:
        simulation.run(settings, tmp_path / "ray", "none", lambda *_: None)
    told = subprocess.run(
        [sys.executable, "-c", ACTORS, address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert len(json.loads(told.stdout.splitlines()[-1])) == 2, "one hospital on each node"
    run_inline(settings, tmp_path / "inline", "none", lambda *_: None)
    mine, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("ray", "inline"))
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-5)
