"""``python -m fuzz --inputs 2000 --seed 1``: bad inputs through the command line, and a count.

Every failure is printed with the command that makes it again.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from fuzz import bases, kinds
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


@dataclasses.dataclass
class Tally:
    """What came of some inputs."""

    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    codes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    slowest: float = 0.0
    largest: int = 0

    def add(self, other: Tally) -> None:
        """Count what another process found."""
        for name in ("kinds", "faults", "codes"):
            getattr(self, name).update(getattr(other, name))
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)


def several(seed: int, numbers: range, real: int, again: str) -> Tally:
    """Run inputs one after the other; every fault is printed as it is found."""
    found = Tally()
    for number in numbers:
        try:
            new = bool(real) and number % real == real - 1
            case, outcome, wrong = one(seed, number, real=new)
        except Exception as error:  # of the input's maker, which must not end the others
            print(f"{again} --only {number}: the input cannot be made: {error!r}", flush=True)
            found.faults["unmade"] += 1
            continue
        found.kinds[case.kind] += 1
        found.codes[str(outcome.code)] += 1
        found.slowest = max(found.slowest, outcome.seconds)
        found.largest = max(found.largest, outcome.peak)
        for fault in wrong:
            found.faults[fault.partition(":")[0].split(" ")[0]] += 1
            print(f"{again} --only {number} [{case.kind}] {case.note!r}: {fault}", flush=True)
    return found


def beside(seed: int, numbers: range, real: int, again: str, jobs: int) -> Tally:
    """The same by several processes."""
    found, folder = Tally(), Path(tempfile.mkdtemp(prefix="fuzz-jobs-"))
    children = []
    for job in range(jobs):
        child = os.fork()
        if not child:
            code = 1
            try:
                part = several(seed, numbers[job::jobs], real, again)
                (folder / str(job)).write_text(json.dumps(vars(part)))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    lost = [child for child in children if os.waitpid(child, 0)[1]]
    for path in sorted(folder.iterdir()):
        told = json.loads(path.read_text())
        counters = {name: collections.Counter(told.pop(name)) for name in _COUNTERS}
        found.add(Tally(**counters, **told))
    found.faults["lost processes"] += len(lost)
    shutil.rmtree(folder)
    return found


_COUNTERS = ("kinds", "faults", "codes")


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
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args()
    left_out = (HEAVY if asked.short else set()) | {n for n in KINDS if asked.kind not in n}
    for name in left_out & set(KINDS):
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
    numbers = range(asked.first, asked.first + asked.inputs)
    bases.prepare()  # once, not in each process
    found = beside(asked.seed, numbers, asked.real, again, max(1, asked.jobs))
    print(f"\n{sum(found.kinds.values())} inputs, seed {asked.seed}, "
          f"{time.monotonic() - begin:.0f} s; slowest {found.slowest:.1f} s, "
          f"largest {found.largest / 2**30:.2f} GiB")  # fmt: skip
    print("exit codes:", ", ".join(f"{code}: {n}" for code, n in sorted(found.codes.items())))
    for name, n in sorted(found.kinds.items()):
        print(f"  {n:5} {name}")
    red = +found.faults
    print("faults:", ", ".join(f"{name}: {n}" for name, n in sorted(red.items())) or "none")
    return bool(red)


if __name__ == "__main__":
    sys.exit(main())
