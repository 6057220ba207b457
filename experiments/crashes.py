"""Kill a DP-SGD run at random moments, start it again, and compare ledger and truth.

    python -m experiments.crashes --kills 200 --json

Each trial starts a short federated DP-SGD run of two hospitals in a child process, kills it
(SIGKILL) at a random moment, checks every ledger, starts the run again and lets it finish. The
truth is a file that the gradient engine writes to before each step. What must hold, at the kill and
at the end: no ledger shows fewer steps than were taken, none shows more than the plan, every ledger
and its log verify, and the run has its result.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fedmed.hospital.app
import fedmed.hospital.hospital
import fedmed.models
import fedmed.training.local
from fedmed.base import machine
from fedmed.base.files import ledger_path, read_json
from fedmed.config import Settings
from fedmed.data.network import member_names
from fedmed.launch import run_inline
from fedmed.privacy.gradients import make_engine
from fedmed.privacy.ledger.ledger import Ledger

SETTINGS = {
    "data.patients": 60,
    "data.hospitals": 2,
    "data.image-size": 16,
    "train.rounds": 4,
    "train.batch-size": 4,
    "train.local-epochs": 1.0,
    "privacy.arm": "dp-sgd",
    "privacy.delta": 1e-3,
}


def trial(folder: Path, settings: Settings, moment: float) -> dict[str, Any]:
    """One run killed after ``moment`` seconds and started again; what was found, or why it failed.

    Raises ``AssertionError`` where a ledger and the truth disagree.
    """
    child = _start(folder, settings)
    time.sleep(moment)
    killed = _running(child)
    if killed:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    at_kill = _compare(folder, settings)
    second = _start(folder, settings)
    _, status = os.waitpid(second, 0)
    _require(os.waitstatus_to_exitcode(status) == 0, "the restarted run failed")
    _require((folder / "result.json").is_file(), "the restarted run has no result")
    at_end = _compare(folder, settings)
    stated = {h["hospital"]: h["steps"] for h in read_json(folder / "privacy.json")["hospitals"]}
    for name, (_, recorded, _) in at_end.items():
        _require(stated[name] == recorded, f"{name}: the statement says {stated[name]} steps")
    rounds = int(read_json(folder / "result.json")["rounds"])
    return {"killed": killed, "at_kill": at_kill, "at_end": at_end, "rounds": rounds}


def main(arguments: list[str] | None = None) -> int:
    """Run the trials and print a summary; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    settings = Settings().replaced(SETTINGS)
    started = time.time()
    trials: list[dict[str, Any]] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fedmed-crashes-") as temporary:
        os.environ["FEDMED_HOME"] = str(Path(temporary) / "home")
        whole = _duration(Path(temporary) / "whole", settings)
        while len([f for f in trials if f["killed"]]) + len(failures) < options.kills:
            folder = Path(temporary) / f"trial-{len(trials) + len(failures)}"
            moment = rng.uniform(0.0, whole)
            try:
                trials.append(trial(folder, settings, moment))
            except AssertionError as error:
                failures.append(f"after {moment:.3f} s: {error}")
    kills = [f for f in trials if f["killed"]]
    summary = {
        "kills": len(kills) + len(failures),
        "failures": failures,
        "run_seconds": round(whole, 3),
        "kills_after_a_reservation": sum(
            any(r for _, r, _ in f["at_kill"].values()) for f in kills
        ),
        "kills_between_reservation_and_last_step": sum(
            any(r > t for t, r, _ in f["at_kill"].values()) for f in kills
        ),
        "runs_shortened": sum(f["rounds"] < settings.train.rounds for f in kills),
        "steps_overcounted": sum(r - t for f in kills for t, r, _ in f["at_end"].values()),
        "steps_taken": sum(t for f in kills for t, _, _ in f["at_end"].values()),
        "seconds": round(time.time() - started, 1),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "seed": options.seed,
    }
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        for name, value in summary.items():
            print(f"{name}: {value}")
    return 1 if failures else 0


def _duration(folder: Path, settings: Settings) -> float:
    """Seconds of an uninterrupted run, the second of two: the first fills the caches."""
    elapsed = 0.0
    for number in range(2):
        started = time.perf_counter()
        _, status = os.waitpid(_start(folder / str(number), settings), 0)
        _require(os.waitstatus_to_exitcode(status) == 0, "the run fails even uninterrupted")
        elapsed = time.perf_counter() - started
    return elapsed


def _start(folder: Path, settings: Settings) -> int:
    """Fork a child that runs (or resumes) the run in ``folder``; returns its process id."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (folder / "child.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        _trace(folder)
        run_inline(settings, folder, "dp-sgd", lambda number, rounds, auroc: None)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _trace(folder: Path) -> None:
    """Let the engine write a byte before every step, and use a network that trains at once."""
    present = [""]
    train = fedmed.hospital.hospital.train_private

    def traced_train(
        model: Any, shard: Any, settings: Any, plan: Any, source: Any, context: Any
    ) -> Any:
        present[0] = str(context[0])
        return train(model, shard, settings, plan, source, context)

    def traced_engine(*given: Any, **options: Any) -> Any:
        engine = make_engine(*given, **options)
        inner = engine.clipped_sum

        def clipped_sum(*arguments: Any, **named: Any) -> Any:
            with (folder / f"truth-{present[0]}").open("ab") as truth:
                truth.write(b"1")
            return inner(*arguments, **named)

        engine.clipped_sum = clipped_sum
        return engine

    fedmed.hospital.hospital.train_private = traced_train
    fedmed.training.local.make_engine = traced_engine
    fedmed.models.build = lambda model, image_size, seed, **_: _network(image_size)


def _network(image_size: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * (image_size // 2) ** 2, 1),
    )


def _compare(folder: Path, settings: Settings) -> dict[str, tuple[int, int, int]]:
    """Steps taken, recorded and planned, by hospital; raises ``AssertionError`` if they differ."""
    steps = {}
    if not (folder / "config.json").exists():
        return {}
    run = str(read_json(folder / "config.json")["run"])
    for name in member_names(settings):
        truth = folder / f"truth-{name}"
        taken = truth.stat().st_size if truth.exists() else 0
        ledger = Ledger(ledger_path("", folder, name))
        recorded = ledger.steps(run)
        plans = [row.body["steps"] for row in ledger.rows() if row.kind == "plan"]
        planned = int(plans[0]) if plans else 0
        _require(recorded >= taken, f"{name} took {taken} steps and its ledger shows {recorded}")
        _require(recorded <= planned, f"{name}: {recorded} steps recorded, {planned} planned")
        if ledger.path.exists():
            ledger.verify()
        steps[name] = (taken, recorded, planned)
    return steps


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _running(child: int) -> bool:
    """Whether the child is still there; it stays a zombie until it is waited for."""
    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


if __name__ == "__main__":
    sys.exit(main())
