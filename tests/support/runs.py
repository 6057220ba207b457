"""Small experiments that run in this process: their file, the run, and what it leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fedmed.cli.progress import Silent
from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.launch import run_inline


def tiny_text(
    arms: Sequence[str], rest: str = "", *, patients: int = 60, rounds: int = 2, train: str = ""
) -> str:
    """Two hospitals' drawn images at 16 pixels; ``rest`` begins in the table ``[privacy]``."""
    named = ", ".join(f'"{arm}"' for arm in arms)
    return f"""
name = "tiny"
seeds = [0]
arms = [{named}]
[data]
patients = {patients}
image-size = 16
hospitals = 2
[train]
rounds = {rounds}
local-epochs = 1
batch-size = 8
{train}
[privacy]
delta = 1e-3
{rest}
"""


ALL_ARMS = tiny_text(
    [
        *["none", "pixel-laplace", "dp-pix", "brightness-shift", "dp-sgd", "local-update"],
        *["central-fixed", "central-adaptive", "pooled", "local-only"],
    ],
    "cell = 4\n[arm.pixel-laplace.privacy]\nlaplace-scale = 0.5\n",
    rounds=3,
)


def written(folder: Path, text: str) -> Path:
    """``tiny.toml`` with this text, and an empty folder of policies beside it."""
    (folder / "policies").mkdir()
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def run(file: Path, out: Path, *arms: str, **options: Any) -> list[dict[str, Any]]:
    """Run some arms of a file in this process."""
    return run_experiment(load_experiment(file, arms=arms, **options), out, run_inline, Silent())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The final model of a run."""
    return load_file(folder / "model.safetensors")
