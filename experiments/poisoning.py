"""What one hospital that poisons costs: each arm and each defence, on PneumoniaMNIST.

    python -m experiments.poisoning --seeds 3 --json

One of five hospitals sends 100 times its update (of a sum: its clipped sum), or has all its labels
the wrong way round, in every round. Recorded is the test AUROC of the global model, by the mean, by
updates no longer than the median of the others' (``train.update-bound = 1``) and by a trimmed mean
(``train.trim = 1``). The hospital is outside the promise that it makes to its own patients: it
changes what its guard would have sent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal
from unittest import mock

import numpy as np
from torch import Tensor, nn

from experiments.recording import record
from fedmed.config import Settings
from fedmed.data.shard import Shard
from fedmed.experiment.file import load_experiment
from fedmed.hospital.rounds import Round
from fedmed.launch import run_inline
from fedmed.privacy.mechanisms.grid import Vector
from fedmed.privacy.mechanisms.updates import Update
from fedmed.privacy.plans import SummedPlan
from fedmed.training.local import LocalResult

Attack = Literal["none", "scaled", "flipped"]
RESULT: Final = Path(__file__).parent / "results" / "poisoning.json"
EXPERIMENT: Final = Path(__file__).parent / "central-local.toml"
FACTOR: Final = 100
ATTACKS: Final[tuple[Attack, ...]] = ("none", "scaled", "flipped")
DEFENCES: Final[dict[str, dict[str, Any]]] = {
    "mean": {},
    "bound 1": {"train.update-bound": 1.0},
    "trim 1": {"train.trim": 1},
}
ARMS: Final = ("none", "local-8", "central-8", "distributed-8")
SUMMED: Final = ("central-8", "distributed-8")  # nobody sees one hospital's update


@contextmanager
def attacked(kind: Attack, hospital: str) -> Iterator[None]:
    """Inside, this hospital of a simulation in this process attacks in every round."""
    update, step = Round.update, Round.step

    def hostile(
        self: Round, model: nn.Module, shard: Shard, parameters: dict[str, Tensor]
    ) -> tuple[Update, LocalResult]:
        if self.name != hospital:
            return update(self, model, shard, parameters)
        sent, result = update(self, model, _given(kind, shard), parameters)
        return {n: FACTOR * v if kind == "scaled" else v for n, v in sent.items()}, result

    def hostile_step(
        self: Round,
        model: nn.Module,
        shard: Shard,
        parameters: dict[str, Tensor],
        plan: SummedPlan,
    ) -> Vector:
        if self.name != hospital:
            return step(self, model, shard, parameters, plan)
        vector = step(self, model, _given(kind, shard), parameters, plan)
        return vector * np.uint32(FACTOR) if kind == "scaled" else vector

    with (
        mock.patch.object(Round, "update", hostile),
        mock.patch.object(Round, "step", hostile_step),
    ):
        yield


def _given(kind: Attack, shard: Shard) -> Shard:
    """The shard that a hospital trains on: its own, or with all labels the wrong way round."""
    if kind != "flipped":
        return shard
    return replace(shard, table=shard.table.assign(label=1 - shard.table["label"]))


def settings_of(arm: str, seed: int) -> Settings:
    """An arm of the experiment."""
    return load_experiment(EXPERIMENT, arms=[arm]).settings(arm, seed)


def auroc(settings: Settings, attack: Attack) -> float:
    """Test AUROC of the global model of one run."""
    with tempfile.TemporaryDirectory() as folder, attacked(attack, "hospital-1"):
        result = run_inline(settings, Path(folder) / "run", "arm", lambda *_: None)
    return float(result["metrics"]["auroc"])


def main() -> None:
    """Run all cases and print them; ``--json`` records them beside arms that it had before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arm", action="append", choices=ARMS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for arm in arguments.arm or ARMS:
        for defence, changes in DEFENCES.items():
            if arm in SUMMED and changes:
                continue
            for attack in ATTACKS:
                areas = [
                    round(auroc(settings_of(arm, seed).replaced(changes), attack), 4)
                    for seed in range(arguments.seeds)
                ]
                row = {"arm": arm, "defence": defence, "attack": attack, "auroc": areas}
                rows.append(row)
                print(arm, defence, attack, " ".join(f"{area:.4f}" for area in areas), flush=True)
    if arguments.json:
        kept = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
        rows = [row for row in kept if row["arm"] not in {one["arm"] for one in rows}] + rows
        record(RESULT, {"rows": rows, "factor": FACTOR})


if __name__ == "__main__":
    main()
