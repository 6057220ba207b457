"""What absences cost a secure sum: 20 hospitals, each away from a step with probability 0.1.

    python -m experiments.dropouts --seeds 5 --json

The probe of ``central-local.toml`` on PneumoniaMNIST, dealt to 20 hospitals, under
``distributed-dp-sgd`` at epsilon 8 with a threshold of 14: once with everybody there, and once with
absences drawn anew for every step. Recorded are the test AUROC and how many steps had how many
hospitals; a step below the threshold would be given up.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from experiments.recording import record
from fedmed.config import Settings
from fedmed.experiment.file import load_experiment
from fedmed.hospital.hospital import Hospital
from fedmed.hospital.refusals import Refusal
from fedmed.launch import run_inline

RESULT: Final = Path(__file__).parent / "results" / "dropouts.json"
EXPERIMENT: Final = Path(__file__).parent / "central-local.toml"
ARM: Final = "distributed-8"
CHANGES: Final[dict[str, Any]] = {
    "data.hospitals": 20,
    "privacy.threshold": 14,
    "train.on-failure": "continue",
}


@contextmanager
def absent(probability: float, seed: int) -> Iterator[None]:
    """Inside, a hospital of this process answers no request for a step with this probability."""
    train, draw = Hospital.train, random.Random(seed)

    def sometimes(self: Hospital, *given: Any) -> Any:
        if draw.random() < probability:
            raise Refusal("memory")
        return train(self, *given)

    with mock.patch.object(Hospital, "train", sometimes):
        yield


def one_run(settings: Settings, probability: float) -> tuple[float, Counter[int], int]:
    """Test AUROC, how many steps had how many hospitals, and how many were given up."""
    with tempfile.TemporaryDirectory() as folder, absent(probability, settings.run.seed):
        out = Path(folder) / "run"
        result = run_inline(settings, out, ARM, lambda *_: None)
        lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines[1:]]
    given_up = sum(1 for step in steps if step.get("given_up"))
    return result["metrics"]["auroc"], Counter(step["hospitals"] for step in steps), given_up


def main() -> None:
    """Run with and without absences and print them; ``--json`` records them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--probability", type=float, default=0.1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    base = load_experiment(EXPERIMENT, arms=[ARM]).arms[ARM].replaced(CHANGES)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for probability in (0.0, arguments.probability):
            area, there, given_up = one_run(base.replaced({"run.seed": seed}), probability)
            row = {"seed": seed, "absent": probability, "auroc": area, "given_up": given_up}
            rows.append({**row, "hospitals": dict(sorted(there.items()))})
            print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        record(RESULT, {"rows": rows, "settings": {"arm": ARM, **CHANGES}})


if __name__ == "__main__":
    main()
