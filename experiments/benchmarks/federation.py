"""What the federation costs beside training: server memory and time, per hospital and round.

100 hospitals (by default) with ResNet-18 on small images train in one process, one after the other,
through the whole framework: messages, codecs, checks, sums, checkpoints. Beside it runs the bare
loop: the same model, shards and local training without any of that. Each part is a process of its
own, because peak memory never goes down again::

    python -m experiments.benchmarks.federation --hospitals 100 --out result.json

``framework_seconds`` is the time per hospital and round beyond the bare loop's, ``ratio`` the whole
round over the bare one. Memory is the peak of what is resident, in units of the model's own size:

- ``server_models``: how a server alone (its hospitals are in another process) grows with the model:
  the difference between ResNet-18 and ResNet-9 over that of their sizes. What is left is the base
  process, ``server_base_bytes``.
- ``inline_models``: the whole framework in one process beyond the bare loop in one (which holds a
  model, its gradients, one update and the global model).
"""

import argparse
import itertools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

import clients.app
import clients.member
import server.coordinator
from fedmed import machine
from fedmed.config import Settings
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.launch import run_inline
from fedmed.planning import member_shard
from fedmed.privacy.gradients.memory import return_freed_memory
from fedmed.training import train_plain
from server.coordinator import coordinate

BATCH = 8
_SMALLER = "resnet9"
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


def alone(settings: Settings) -> dict[str, Any]:
    """The server's process, with its hospitals in another one, as in a deployment."""
    peaks: list[int] = []
    ours, theirs = multiprocessing.Pipe()
    hospitals = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    hospitals.start()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        here = settings.replaced({"run.out": str(out.resolve())})
        grid = ElsewhereGrid(here, ours)
        return_freed_memory()  # as the server's app does
        before = machine.peak_memory()
        coordinate(grid, here, out, on_round=lambda *_: peaks.append(machine.peak_memory()))
        grid.close()
    hospitals.join()
    return {"peak_memory_bytes": peaks[-1], "before_bytes": before, "each": peaks}


class ElsewhereGrid(Grid):
    """Hospitals in a child process; every array crosses alone, so that the pipe holds no copy.

    A SuperLink between them would keep messages in its own process.
    """

    def __init__(self, settings: Settings, pipe: Connection) -> None:
        self._pipe = pipe
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self._inner = InlineGrid(clients.app.app, settings.nodes, settings.to_flat())
        pipe.send((settings.nodes, settings.to_flat()))

    def close(self) -> None:
        """End the child."""
        self._pipe.send(None)

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._inner.run

    def create_message(self, *given: Any, **named: Any) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return self._inner.create_message(*given, **named)

    def get_node_ids(self) -> Iterable[int]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Over the pipe at once; nothing of their content stays here."""
        numbers = []
        for message in messages:
            number = str(next(self._numbers))
            about = message.metadata
            self._pipe.send((number, about.dst_node_id, about.message_type, about.group_id))
            _send(self._pipe, message.content)
            self._waiting[number] = Message(RecordDict(), about.dst_node_id, about.message_type)
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Each answer, asked for and read when it is wanted."""
        answers = []
        for number in message_ids:
            self._pipe.send(number)
            answers.append(Message(_receive(self._pipe), reply_to=self._waiting.pop(number)))
        return answers

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        return self.pull_messages(self.push_messages(messages))


def _serve(pipe: Connection) -> None:
    """The child: every hospital through the same app, when its answer is asked for."""
    nodes, flat = pipe.recv()
    grid = InlineGrid(clients.app.app, nodes, flat)
    names: dict[str, str] = {}
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, str):
            (answer,) = grid.pull_messages([names.pop(asked)])
            _send(pipe, answer.content)
        else:
            number, node, kind, group = asked
            (names[number],) = grid.push_messages(
                [Message(_receive(pipe), node, kind, group_id=group)]
            )


def _send(pipe: Connection, content: RecordDict) -> None:
    records = {n: r for n, r in content.items() if isinstance(r, ArrayRecord)}
    others = {n: r for n, r in content.items() if n not in records}
    pipe.send(({name: list(record) for name, record in records.items()}, others))
    for record in records.values():
        for array in record.values():
            pipe.send((array.dtype, array.shape, array.stype))
            pipe.send_bytes(array.data)


def _receive(pipe: Connection) -> RecordDict:
    arrays, others = pipe.recv()
    content = RecordDict(others)
    for name, keys in arrays.items():
        record = ArrayRecord()
        for key in keys:
            about = pipe.recv()
            record[key] = Array(*about, pipe.recv_bytes())
        content[name] = record
    return content


def base(settings: Settings) -> dict[str, Any]:
    """A process that has imported everything and read the data, and holds no model."""
    from fedmed.data.network import member_names

    for name in member_names(settings):
        member_shard(settings, name)
    return {"peak_memory_bytes": machine.peak_memory()}


PARTS = {"base": base, "bare": bare, "framework": framework, "alone": alone}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every part in a process of its own, twice for hospitals: few, and all of them."""
    found: dict[str, Any] = {}

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

    for hospitals in (options.few, options.hospitals):
        for part in PARTS:
            found[f"{part}-{hospitals}"] = run(part, hospitals, options.model)
    found["alone-smaller"] = run("alone", options.few, _SMALLER)
    found["bare-smaller"] = run("bare", 2, _SMALLER)
    many, few = options.hospitals, options.few
    model = found[f"bare-{many}"]["model_bytes"]
    turns = many * options.rounds
    seconds, plain = found[f"framework-{many}"]["seconds"], found[f"bare-{many}"]["seconds"]

    def peak(part: str) -> int:
        return int(found[part]["peak_memory_bytes"])

    def models(part: str, less: str, count: int) -> float:
        return round((peak(f"{part}-{count}") - peak(f"{less}-{count}")) / model, 2)

    def slope(count: int) -> float:
        smaller = found["bare-smaller"]["model_bytes"]
        return (peak(f"alone-{count}") - peak("alone-smaller")) / (model - smaller)

    return {
        "hospitals": many,
        "rounds": options.rounds,
        "model": options.model,
        "model_bytes": model,
        "framework_seconds": round((seconds - plain) / turns, 4),
        "bare_seconds": round(plain / turns, 4),
        "ratio": round(seconds / plain, 3),
        "server_models": round(slope(many), 2),
        "server_models_with_few": round(slope(few), 2),
        "server_base_bytes": int(peak(f"alone-{many}") - slope(many) * model),
        "inline_models": models("framework", "bare", many),
        "inline_models_with_few": models("framework", "bare", few),
        "inline_models_over_base": models("framework", "base", many),
        "bare_models_over_base": models("bare", "base", many),
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
