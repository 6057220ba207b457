"""``python -m fuzz --inputs 2000 --seed 1``: bad inputs through the command line, and a count.

Every failure is printed with the command that makes it again.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

from fuzz import kinds
from fuzz.cases import HEAVY, KINDS, Case, draw
from fuzz.running import Outcome, forked, preload, spawned
from fuzz.verdict import faults

__all__ = ["kinds", "main", "one"]


def one(seed: int, number: int, *, real: bool = False, keep: bool = False
        ) -> tuple[Case, Outcome, list[str]]:  # fmt: skip
    """Draw an input, run it, and say what is wrong with how it ended."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    try:
        (folder / "work").mkdir()
        case = draw(seed, number, folder / "work")
        run = spawned if real else forked
        outcome = run(case, folder)
        if outcome.stopped == "time":  # another process may have had the machine: once more
            again = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
            try:
                (again / "work").mkdir()
                case = draw(seed, number, again / "work")
                outcome = run(case, again)
                return case, outcome, faults(case, outcome, again)
            finally:
                shutil.rmtree(again, ignore_errors=True)
        return case, outcome, faults(case, outcome, folder)
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run so many inputs; 1 where one of them fails."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="this input alone, with all that it printed")
    parser.add_argument("--kind", default="", help="kinds whose names hold this text only")
    parser.add_argument("--short", action="store_true", help="no input that is large")
    parser.add_argument("--real", type=int, default=40, help="every n-th as a new process")
    asked = parser.parse_args()
    if asked.kind:
        for name in [name for name in KINDS if asked.kind not in name]:
            del KINDS[name]
    if asked.short:
        for name in HEAVY & set(KINDS):
            del KINDS[name]
    warnings.filterwarnings("ignore")  # of those who make bad files
    preload()
    if asked.only is not None:
        case, outcome, wrong = one(asked.seed, asked.only, keep=True)
        print(f"{case.kind}: {case.note}\nfedmed {case.arguments}\n{outcome}\n{wrong}")
        return bool(wrong)
    again = f"--seed {asked.seed}{' --short' if asked.short else ''}"
    again += f" --kind {asked.kind!r}" if asked.kind else ""
    begin = time.monotonic()
    count: collections.Counter[str] = collections.Counter()
    red: collections.Counter[str] = collections.Counter()
    codes: collections.Counter[str] = collections.Counter()
    slowest, largest = 0.0, 0
    for number in range(asked.first, asked.first + asked.inputs):
        real = bool(asked.real) and number % asked.real == asked.real - 1
        try:
            case, outcome, wrong = one(asked.seed, number, real=real)
        except Exception as error:  # of the input's maker, which must not end the others
            print(f"{again} --only {number}: the input cannot be made: {error!r}")
            red["unmade"] += 1
            continue
        count[case.kind] += 1
        codes[str(outcome.code)] += 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.peak)
        for fault in wrong:
            red[fault.partition(":")[0].split(" ")[0]] += 1
            print(f"{again} --only {number} [{case.kind}] {case.note}: {fault}",
                  flush=True)  # fmt: skip
    print(f"\n{sum(count.values())} inputs, seed {asked.seed}, {time.monotonic() - begin:.0f} s; "
          f"slowest {slowest:.1f} s, largest {largest / 2**30:.2f} GiB")  # fmt: skip
    print("exit codes:", ", ".join(f"{code}: {n}" for code, n in sorted(codes.items())))
    for name, n in sorted(count.items()):
        print(f"  {n:5} {name}")
    print("faults:", ", ".join(f"{name}: {n}" for name, n in sorted(red.items())) or "none")
    return bool(red)


if __name__ == "__main__":
    sys.exit(main())
