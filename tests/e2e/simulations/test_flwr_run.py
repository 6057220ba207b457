"""Golden runs through the real ``flwr run``: the app on Ray gives what it gives in one process."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedmed.config import Settings
from fedmed.launch import RaySimulation, resources, run_inline

pytestmark = pytest.mark.usefixtures("no_other_ray")

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = {
    "data.patients": 60,
    "data.hospitals": 2,
    "model.stem": "imagenet",
    "train.rounds": 2,
    "train.local-epochs": 1,
    "train.batch-size": 8,
    "run.device": "cpu",
}
# Float sums in another order, after two rounds of SGD: far below one step's change.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def simulation(fedmed_home: Path) -> Iterator[RaySimulation]:
    """A SuperLink of this module's own, on free ports."""
    with RaySimulation() as running:
        yield running


def quiet(round_number: int, rounds: int, auroc: float | None) -> None:
    """Ignore progress."""


def assert_same_model(left: Path, right: Path) -> None:
    """Both run directories end with the same weights, to float tolerance."""
    mine, theirs = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=TOLERANCE)


def assert_moved(folder: Path, settings: Settings) -> None:
    """Training changed the model by more than the tolerance, so that equality means something."""
    from fedmed.coordinator.evaluation import initial_model

    start = initial_model(settings).state_dict()
    end = load_file(folder / "model.safetensors")
    assert max(float((end[n] - start[n]).abs().max()) for n in end) > 20 * TOLERANCE


def test_flwr_run_equals_one_process(simulation: RaySimulation, tmp_path: Path) -> None:
    settings = Settings().replaced(SMALL)
    on_ray = tmp_path / "ray"
    overrides = " ".join(
        f"{k}={json.dumps(v)}" for k, v in {**SMALL, "run.out": str(on_ray)}.items()
    )
    done = subprocess.run(
        [
            *["flwr", "run", ".", "--stream", "--run-config"],
            overrides,
            "--federation-config",
            resources(settings),
        ],
        cwd=REPOSITORY,
        env=simulation.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    output = done.stdout + done.stderr
    assert (on_ray / "result.json").is_file(), output[-3000:]
    assert "round 2/2 AUROC" in output
    here = tmp_path / "inline"
    run_inline(settings, here, "none", quiet)
    assert_same_model(on_ray, here)
    assert_moved(here, settings)
    rounds = [json.loads(line) for line in (on_ray / "history.jsonl").read_text().splitlines()]
    assert [r["round"] for r in rounds] == [0, 1, 2]
    assert [r["hospitals"] for r in rounds] == [0, 2, 2]


def test_engine_ray_equals_inline_under_reproducible_dp_sgd(
    simulation: RaySimulation, tmp_path: Path
) -> None:
    settings = Settings().replaced(
        {
            **SMALL,
            "train.rounds": 1,
            "privacy.arm": "dp-sgd",
            "privacy.delta": 1e-3,
            "privacy.reproducible-noise": True,
        }
    )
    heard: list[int] = []
    on_ray, here = tmp_path / "ray", tmp_path / "inline"
    result = simulation.run(settings, on_ray, "dp-sgd", lambda number, *_: heard.append(number))
    run_inline(settings, here, "dp-sgd", quiet)
    assert_same_model(on_ray, here)
    assert_moved(here, settings)
    assert heard == [0, 1]
    assert result["epsilon"] is None  # reproducible noise claims nothing
    assert json.loads((on_ray / "privacy.json").read_text())["steps_taken"] > 0


def test_secure_sums_on_ray_equal_those_of_one_process_bit_for_bit(
    simulation: RaySimulation, tmp_path: Path
) -> None:
    """Members keep their keys between processes, and the sum of whole numbers has no order."""
    settings = Settings().replaced(
        {
            **SMALL,
            "data.hospitals": 3,
            "data.image-size": 16,
            "model.name": "resnet9",
            "model.stem": "auto",
            "model.trains": "head",
            "train.local-epochs": 2.0,
            "train.sampling-rate": 0.5,
            "train.learning-rate": 0.1,
            "privacy.arm": "distributed-dp-sgd",
            "privacy.delta": 1e-3,
            "privacy.reproducible-noise": True,
        }
    )
    on_ray, here = tmp_path / "ray", tmp_path / "inline"
    simulation.run(settings, on_ray, "distributed-dp-sgd", quiet)
    run_inline(settings, here, "distributed-dp-sgd", quiet)
    mine, theirs = load_file(on_ray / "model.safetensors"), load_file(here / "model.safetensors")
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert_moved(here, settings)
