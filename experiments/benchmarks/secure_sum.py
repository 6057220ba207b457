"""Is the unmasked sum the plain one, whoever leaves, and what do masks cost?

    python -m experiments.benchmarks.secure_sum --cases 10000 --absent 1000 --json
    python -m experiments.benchmarks.secure_sum --cost --json

Without ``--cost``: random sums of 3 to 8 members, of whom some leave before or after they sent
their vectors, against the plain sum of those who stayed, bit for bit; then steps of 20 members of
whom each is absent with probability 0.1, with a threshold of 14. With it: seconds and bytes of one
member and of the collector for a step, by members and numbers; noise and training are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

import fedmed
from fedmed.secure_sum import Collector, Identity, Member, SumRefused, Terms

RESULTS: Final = Path(__file__).parent / "results"
SIZES: Final = ((5, 20_000), (5, 11_000_000), (20, 20_000), (50, 20_000), (100, 20_000))
ABSENT: Final = 0.1
_PARTS: Final = ("mask", "sign and open", "collector", "bytes")


def together(terms: Terms) -> dict[str, Member]:
    """Members who have met."""
    identities = {name: Identity.new() for name in terms.members}
    public = {name: identity.public for name, identity in identities.items()}
    members = {name: Member(name, terms, identities[name], public) for name in terms.members}
    hellos = {name: member.hello(1) for name, member in members.items()}
    for member in members.values():
        member.meet(hellos)
    return members


def terms_of(members: int, threshold: int, colluding: int, count: int) -> Terms:
    """Terms of so many members."""
    return Terms(
        run="r",
        members=tuple(f"m{number:03}" for number in range(members)),
        threshold=threshold,
        colluding=colluding,
        count=count,
    )


def one_step(
    members: dict[str, Member], step: int, there: dict[str, np.ndarray], silent: set[str]
) -> np.ndarray:
    """The unmasked sum of those who are there; `silent` leave before they open anything."""
    terms = next(iter(members.values())).terms
    collector = Collector(terms, 1, step)
    for name, vector in there.items():
        collector.add(name, members[name].mask(step, vector.copy()))
    for name in collector.survivors:
        collector.signed(name, members[name].sign(step, collector.survivors))
    for name in collector.survivors:
        if name not in silent:
            collector.opened(name, members[name].open(collector.ask(name)))
    return collector.total()


def exactness(cases: int, seed: int) -> dict[str, Any]:
    """How many random sums were exact, refused, or wrong."""
    generator, seen = np.random.default_rng(seed), Counter[str]()
    started = time.perf_counter()
    done = 0
    while done < cases:
        size = int(generator.integers(3, 9))
        colluding = int(generator.integers(0, max(1, size - 2)))
        least = (size + colluding) // 2 + 1
        terms = terms_of(size, int(generator.integers(least, size + 1)), colluding,
                         int(generator.integers(1, 2000)))  # fmt: skip
        members = together(terms)
        for step in range(1, min(50, cases - done) + 1):
            gone = generator.random(size) < generator.choice([0.0, 0.1, 0.3])
            there = {
                name: generator.integers(0, 2**32, terms.count, dtype=np.uint32)
                for name, away in zip(terms.members, gone, strict=True)
                if not away
            }
            silent = {name for name in there if generator.random() < 0.05}
            done += 1
            try:
                total = one_step(members, step, there, silent)
            except SumRefused:
                enough = len(there) >= terms.threshold
                opening = len(there) - len(silent) >= terms.threshold
                fine = not enough or not opening or (silent and len(there) < size)
                seen["given up, as told" if fine else "refused for nothing"] += 1
                continue
            plain = sum(there.values(), np.zeros(terms.count, np.uint32))
            seen["exact" if np.array_equal(total, plain) else "WRONG"] += 1
            seen["of them without somebody"] += len(there) < size
            if len(there) < terms.threshold:
                seen["UNMASKED BELOW THE THRESHOLD"] += 1
    return {"cases": done, **seen, "seconds": round(time.perf_counter() - started, 1)}


def absences(steps: int, seed: int) -> dict[str, Any]:
    """20 members, each away from a step with probability 0.1."""
    generator, terms = np.random.default_rng(seed), terms_of(20, 14, 1, 514)
    members, seen = together(terms), Counter[str]()
    started = time.perf_counter()
    for step in range(1, steps + 1):
        there = {
            name: generator.integers(0, 2**32, terms.count, dtype=np.uint32)
            for name in terms.members
            if generator.random() >= ABSENT
        }
        try:
            total = one_step(members, step, there, set())
        except SumRefused:
            seen["given up"] += 1
            seen["given up above the threshold"] += len(there) >= terms.threshold
            continue
        plain = sum(there.values(), np.zeros(terms.count, np.uint32))
        seen["exact" if np.array_equal(total, plain) else "WRONG"] += 1
        seen["unmasked below the threshold"] += len(there) < terms.threshold
    return {"steps": steps, **seen, "seconds": round(time.perf_counter() - started, 1)}


def cost(members: int, count: int, rounds: int) -> dict[str, Any]:
    """Seconds and bytes of a step at one member and at the collector, nobody being absent."""
    everybody = together(terms_of(members, members // 2 + 2, 1, count))
    steps = [_timed_step(everybody, step) for step in range(1, rounds + 1)]

    def median(what: str) -> float:
        return round(1000 * statistics.median(step[what] for step in steps), 1)

    return {
        "members": members,
        "numbers": count,
        "member_ms": round(median("mask") + median("sign and open"), 1),
        "of_which_masking_ms": median("mask"),
        "collector_ms": median("collector"),
        "bytes_of_a_member": int(steps[-1]["bytes"]),
        "rounds": rounds,
    }


def _timed_step(everybody: dict[str, Member], step: int) -> dict[str, float]:
    """Seconds by what is done, of the first member and of the collector; bytes of the former."""
    terms = next(iter(everybody.values())).terms
    first, collector = terms.members[0], Collector(terms, 1, step)
    vector, spent = np.arange(terms.count, dtype=np.uint32), dict.fromkeys(_PARTS, 0.0)
    for name, member in everybody.items():
        own = vector.copy()
        begun = time.perf_counter()
        masked = member.mask(step, own)
        sent = time.perf_counter()
        collector.add(name, masked)
        spent["collector"] += time.perf_counter() - sent
        if name == first:
            spent["mask"] += sent - begun
            spent["bytes"] += masked.vector.nbytes + len(masked.note.to_text())
    for name, member in everybody.items():
        begun = time.perf_counter()
        told = member.sign(step, collector.survivors)
        spent["sign and open"] += (time.perf_counter() - begun) * (name == first)
        collector.signed(name, told)
    for name, member in everybody.items():
        asked = collector.ask(name)
        begun = time.perf_counter()
        opened = member.open(asked)
        if name == first:
            spent["sign and open"] += time.perf_counter() - begun
            spent["bytes"] += len(asked.to_text()) + len(opened.to_text())
        collector.opened(name, opened)
    begun = time.perf_counter()
    collector.total()
    spent["collector"] += time.perf_counter() - begun
    return spent


def main() -> None:
    """Run, print, and with ``--json`` write results/secure_sum.json (or _cost)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--absent", type=int, default=1000)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any]
    if arguments.cost:
        result = {"cost": [cost(*size, arguments.rounds) for size in SIZES]}
    else:
        result = {
            "seed": arguments.seed,
            "exactness": exactness(arguments.cases, arguments.seed),
            "absences": absences(arguments.absent, arguments.seed + 1),
        }
    result |= {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in ("numpy", "cryptography", "pycryptodome")}
        | {"fedmed": fedmed.__version__, "python": platform.python_version()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        name = "secure_sum_cost" if arguments.cost else "secure_sum"
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
