"""What the federation costs beside training: server memory and time, per hospital and round.

100 hospitals (by default) with ResNet-18 on small images train in one process, one after the other,
through the whole framework: messages, codecs, checks, sums, checkpoints. Beside it runs the bare
loop: the same model, shards and local training without any of that. Each measurement of memory is a
process of its own, because a peak never goes down again::

    python -m experiments.benchmarks.federation --hospitals 100 --out result.json

``framework_seconds`` is the time per hospital and round beyond the bare loop's, whose rounds
alternate with those of the framework in one process; ``ratio`` the whole round over the bare one.
Memory is the peak of what is resident, in units of the model's own size:

- ``server_models``: how a server alone (its hospitals are in another process) grows with the model:
  the difference between ResNet-18 and ResNet-9 over that of their sizes. What is left is the base
  process, ``server_base_bytes``.
- ``inline_models``: the whole framework in one process beyond the bare loop in one (which holds a
  model, its gradients, one update and the global model).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fedmed.coordinator.coordinator
import fedmed.hospital.simulated
from experiments.benchmarks.elsewhere import ElsewhereGrid
from fedmed.base import machine
from fedmed.config import Settings
from fedmed.coordinator.coordinator import coordinate
from fedmed.coordinator.evaluation import initial_model
from fedmed.data.network import member_names
from fedmed.data.shard import Shard
from fedmed.federation import messages
from fedmed.federation.members import member_shard
from fedmed.launch import run_inline
from fedmed.privacy.gradients.memory import return_freed_memory
from fedmed.training.local import train_plain

BATCH = 8
_SMALLER = "resnet9"
# Part of the base process in every measurement, whichever part uses them.
IMPORTED = (fedmed.hospital.simulated, fedmed.coordinator.coordinator)


def settings_for(hospitals: int, rounds: int, size: int, model: str) -> Settings:
    """Each hospital has enough patients for a few batches; nothing is protected."""
    return Settings().replaced(
        {
            "data.patients": 40 * hospitals,
            "data.hospitals": hospitals,
            "data.image-size": size,
            "data.partition": "even",
            "data.split": "patient",
            "data.test-fraction": 0.1,
            "data.validation-fraction": 0.1,
            "model.name": model,
            "train.rounds": rounds,
            "train.local-epochs": 1.0,
            "train.batch-size": BATCH,
            "run.device": "cpu",
            "run.threads": 1,
            "evaluation.where": "hospitals",  # after the last round: no part of what is measured
            "evaluation.resamples": 100,
        }
    )


@dataclass(frozen=True)
class Bare:
    """The loop without a framework: one model, the shards, and local training."""

    settings: Settings
    shards: dict[str, Shard]
    model: nn.Module
    parameters: dict[str, Tensor]

    @classmethod
    def load(cls, settings: Settings) -> "Bare":
        """With the shards in memory."""
        torch.set_num_threads(settings.run.threads)
        model = initial_model(settings)
        shards = {name: member_shard(settings, name) for name in member_names(settings)}
        return cls(settings, shards, model, messages.parameters_of(model))

    def round(self, number: int) -> float:
        """Train every hospital in turn; seconds."""
        started = time.perf_counter()
        for name, shard in self.shards.items():
            messages.install(self.model, self.parameters)
            train_plain(self.model, shard, self.settings, (name, number), number)
            after = messages.parameters_of(self.model)
            update = {n: after[n] - value for n, value in self.parameters.items()}
            del after, update
        return time.perf_counter() - started


def bare(settings: Settings) -> dict[str, Any]:
    """The loop alone."""
    loop = Bare.load(settings)
    for number in range(1, settings.train.rounds + 1):
        loop.round(number)
    return {
        "peak_memory_bytes": machine.peak_memory(),
        "model_bytes": sum(v.numel() * v.element_size() for v in loop.parameters.values()),
    }


def framework(settings: Settings) -> dict[str, Any]:
    """The same through the framework, with its checkpoints, as far as the last round's end."""
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_inline(settings, out, "none", lambda *_: peaks.append(machine.peak_memory()))
    return {"peak_memory_bytes": peaks[-1]}


def both(settings: Settings) -> dict[str, Any]:
    """Seconds of each round of the framework, and of a round of the bare loop right after it."""
    loop = Bare.load(settings)
    loop.round(1)  # neither is measured cold
    whole: list[float] = []
    plain: list[float] = []
    since = 0.0

    def after(number: int, *_: Any) -> None:
        nonlocal since
        if number:
            whole.append(time.perf_counter() - since)
            plain.append(loop.round(number))
        since = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        run_inline(settings, Path(folder) / "run", "none", after)
    return {"framework": whole, "bare": plain}


def base(settings: Settings) -> dict[str, Any]:
    """A process that has imported everything and read the data, and holds no model."""
    for name in member_names(settings):
        member_shard(settings, name)
    return {"peak_memory_bytes": machine.peak_memory()}


def alone(settings: Settings) -> dict[str, Any]:
    """The server's process, with its hospitals in another one, as in a deployment."""
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        here = settings.replaced({"run.out": str(out.resolve())})
        grid = ElsewhereGrid(here)
        return_freed_memory()  # as the server's app does
        before = machine.peak_memory()
        coordinate(grid, here, out, on_round=lambda *_: peaks.append(machine.peak_memory()))
        grid.close()
    return {"peak_memory_bytes": peaks[-1], "before_bytes": before, "each": peaks}


PARTS = {"base": base, "bare": bare, "framework": framework, "alone": alone, "both": both}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every part in a process of its own, twice for hospitals: few, and all of them."""
    parts: dict[str, Any] = {}

    def run(part: str, hospitals: int, model: str) -> dict[str, Any]:
        command = [
            *[sys.executable, "-m", "experiments.benchmarks.federation", "--part", part],
            *["--hospitals", str(hospitals)],
            *["--rounds", str(options.rounds), "--size", str(options.size)],
            *["--model", model],
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    many, few = options.hospitals, options.few
    for hospitals in (few, many):
        for part in ("base", "bare", "framework", "alone"):
            parts[f"{part}-{hospitals}"] = run(part, hospitals, options.model)
        parts[f"smaller-{hospitals}"] = run("alone", hospitals, _SMALLER)
    parts["bare-smaller"] = run("bare", 2, _SMALLER)
    parts["both"] = run("both", many, options.model)
    beyond = [w - p for w, p in zip(parts["both"]["framework"], parts["both"]["bare"], strict=True)]
    plain = statistics.median(parts["both"]["bare"])
    model = int(parts[f"bare-{many}"]["model_bytes"])

    def peak(part: str) -> int:
        return int(parts[part]["peak_memory_bytes"])

    def models(part: str, less: str, count: int) -> float:
        return round((peak(f"{part}-{count}") - peak(f"{less}-{count}")) / model, 2)

    def slope(count: int) -> float:
        smaller = parts["bare-smaller"]["model_bytes"]
        return (peak(f"alone-{count}") - peak(f"smaller-{count}")) / (model - smaller)

    return {
        "hospitals": many,
        "rounds": options.rounds,
        "model": options.model,
        "model_bytes": model,
        "framework_seconds": round(statistics.median(beyond) / many, 4),
        "framework_seconds_each": [round(seconds / many, 4) for seconds in beyond],
        "bare_seconds": round(plain / many, 4),
        "ratio": round(statistics.median(parts["both"]["framework"]) / plain, 3),
        "server_models": round(slope(many), 2),
        "server_models_with_few": round(slope(few), 2),
        "server_base_bytes": int(peak(f"alone-{many}") - slope(many) * model),
        "inline_models": models("framework", "bare", many),
        "inline_models_with_few": models("framework", "bare", few),
        "inline_models_over_base": models("framework", "base", many),
        "bare_models_over_base": models("bare", "base", many),
        "few": few,
        "parts": parts,
        "machine": machine.describe(),
        "versions": machine.versions(),
    }


def main() -> None:
    """Measure everything, or (``--part``) one part in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=100)
    parser.add_argument("--few", type=int, default=10, help="hospitals of the comparison")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    if options.part:
        settings = settings_for(options.hospitals, options.rounds, options.size, options.model)
        sys.stdout.write(json.dumps(PARTS[options.part](settings)) + "\n")
        return
    if options.model == _SMALLER:
        parser.error(f"--model {_SMALLER} is what the others are compared with; name another")
    text = json.dumps(measure(options), indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
