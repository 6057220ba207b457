"""What the federation costs beside training: server memory and time, per hospital and round.

100 hospitals (by default) with ResNet-18 on small images train in one process, one after the other,
through the whole framework: messages, codecs, checks, sums, checkpoints. Beside it runs the bare
loop: the same model, shards and local training without any of that. Each part is a process of its
own, because peak memory never goes down again::

    python -m experiments.benchmarks.federation --hospitals 100 --out result.json

``framework_seconds`` is the time per hospital and round beyond the bare loop's, ``ratio`` the whole
round over the bare one, and ``server_models`` the peak of resident memory beyond a bare loop's
(which holds one model, its gradients and one update) in units of the model's own size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import clients.member
import server.coordinator
from fedmed import machine
from fedmed.config import Settings
from fedmed.federation import messages
from fedmed.federation.launch import run_inline
from fedmed.planning import member_shard
from fedmed.training import train_plain

BATCH = 8
# Part of the base process in every measurement, whichever part uses them.
IMPORTED = (clients.member, server.coordinator)


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


def bare(settings: Settings) -> dict[str, Any]:
    """The loop without a framework: load the shards, then train each hospital in turn."""
    from server.evaluation import initial_model

    torch.set_num_threads(settings.run.threads)
    from fedmed.data.network import member_names

    names = member_names(settings)
    shards = [member_shard(settings, name) for name in names]
    model = initial_model(settings)
    parameters = messages.parameters_of(model)
    started = time.perf_counter()
    for round_number in range(1, settings.train.rounds + 1):
        for name, shard in zip(names, shards, strict=True):
            messages.install(model, parameters)
            train_plain(model, shard, settings, (name, round_number), round_number)
            after = messages.parameters_of(model)
            update = {n: after[n] - value for n, value in parameters.items()}
            del after, update
    size = sum(value.numel() * value.element_size() for value in parameters.values())
    return {
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": machine.peak_memory(),
        "model_bytes": size,
    }


def framework(settings: Settings) -> dict[str, Any]:
    """The same through the framework, with its checkpoints, as far as the last round's end."""
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_inline(settings, out, "none", lambda *_: peaks.append(machine.peak_memory()))
        lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "seconds": sum(json.loads(line)["seconds"] for line in lines[1:]),
        "peak_memory_bytes": peaks[-1],
    }


def base(settings: Settings) -> dict[str, Any]:
    """A process that has imported everything and read the data, and holds no model."""
    from fedmed.data.network import member_names

    for name in member_names(settings):
        member_shard(settings, name)
    return {"peak_memory_bytes": machine.peak_memory()}


PARTS = {"base": base, "bare": bare, "framework": framework}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every part in a process of its own, twice for hospitals: few, and all of them."""
    found: dict[str, Any] = {}
    for hospitals in (options.few, options.hospitals):
        for part in PARTS:
            command = [
                *[sys.executable, "-m", "experiments.benchmarks.federation", "--part", part],
                *["--hospitals", str(hospitals)],
                *["--rounds", str(options.rounds), "--size", str(options.size)],
                *["--model", options.model],
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[f"{part}-{hospitals}"] = json.loads(done.stdout.splitlines()[-1])
    many, few = options.hospitals, options.few
    model = found[f"bare-{many}"]["model_bytes"]
    turns = many * options.rounds
    seconds, plain = found[f"framework-{many}"]["seconds"], found[f"bare-{many}"]["seconds"]

    def models(part: str, less: str, count: int) -> float:
        peak = found[f"{part}-{count}"]["peak_memory_bytes"]
        return round((peak - found[f"{less}-{count}"]["peak_memory_bytes"]) / model, 2)

    return {
        "hospitals": many,
        "rounds": options.rounds,
        "model": options.model,
        "model_bytes": model,
        "framework_seconds": round((seconds - plain) / turns, 4),
        "bare_seconds": round(plain / turns, 4),
        "ratio": round(seconds / plain, 3),
        "server_models": models("framework", "bare", many),
        "server_models_over_base": models("framework", "base", many),
        "bare_models_over_base": models("bare", "base", many),
        "server_models_with_few": models("framework", "bare", few),
        "few": few,
        "parts": found,
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
    text = json.dumps(measure(options), indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
