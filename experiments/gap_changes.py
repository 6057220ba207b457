"""Does a noisier arm seem to open a gap? A simulation in which no gap changes.

    python -m experiments.gap_changes --json

Groups are of equal size and served equally well, or one of them is served worse by the same amount
under both arms. The second arm ranks worse, so that its rates vary more and luck alone makes a
larger gap under it. Recorded is how often a change of the gap has p < 0.05: by the test that a
comparison makes, and by its normal part alone, which takes the larger gap for a change.
"""

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

import fedmed
from fedmed.evaluation.intervals.estimates import p_change
from fedmed.evaluation.intervals.gaps import Gap, without_gap
from fedmed.evaluation.measuring.measures import Column, measure, spread

RESULT = Path(__file__).parent / "results" / "gap_changes.json"
IMAGES = 1500
ILL = 0.4
COMMON = 0.5  # of a score's variance: common to both arms
AUROC = {"plain": 0.95, "dp": 0.65}
GROUPS = (2, 5, 10)
WORSE = (0.0, 0.05)  # by how much the AUROC of one group is lower, under both arms


def replicate(
    generator: np.random.Generator, groups: int, worse: float, resamples: int
) -> tuple[bool, bool]:
    """Whether a change of the AUROC gap is found, and whether the normal part alone finds one."""
    group = generator.permutation(np.arange(IMAGES) % groups)
    labels = (generator.random(IMAGES) < ILL).astype(np.int64)
    shared = np.sqrt(COMMON) * generator.normal(size=IMAGES)
    columns = []
    for arm, area in AUROC.items():
        effect = np.sqrt(2.0) * norm.ppf(np.where(group == 0, area - worse, area))
        own = np.sqrt(1.0 - COMMON) * generator.normal(size=IMAGES)
        columns.append(Column(name=arm, scores=norm.cdf(labels * effect + shared + own)))
    names = [f"g{number}" for number in range(groups)]
    measured = measure(
        columns,
        labels,
        np.arange(IMAGES),
        {"group": np.array(names)[group]},
        resamples=resamples,
        seed=int(generator.integers(2**31)),
        metrics=["auroc"],
        threads=1,
    )
    each = [measured.quantity("auroc", "group", name) for name in names]
    gap = Gap(spread(each), (tuple(one - two for one, two in combinations(each, 2)),))
    plain, dp = (gap.select([arm]) for arm in AUROC)
    change, null = dp.quantity - plain.quantity, without_gap(dp) - without_gap(plain)
    tests = [p_change(change, null), p_change(change, np.zeros_like(null))]
    return tests[0] is not None and tests[0] < 0.05, tests[1] is not None and tests[1] < 0.05


def main() -> None:
    """Run the replications of each case and print the shares; `--json` records them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    busy = time.process_time()
    cases: list[dict[str, Any]] = []
    streams = np.random.SeedSequence(arguments.seed).spawn(len(GROUPS) * len(WORSE))
    for stream, (groups, worse) in zip(streams, product(GROUPS, WORSE), strict=True):
        each = [
            replicate(np.random.default_rng(one), groups, worse, arguments.resamples)
            for one in stream.spawn(arguments.replications)
        ]
        share, alone = np.mean(each, axis=0)
        case = {
            "groups": groups,
            "one_worse_by": worse,
            "found": round(float(share), 4),
            "found_by_normal_alone": round(float(alone), 4),
        }
        print(json.dumps(case), flush=True)
        cases.append(case)
    result = {
        "replications": arguments.replications,
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "images": IMAGES,
        "auroc": AUROC,
        "standard_error": round((0.95 * 0.05 / arguments.replications) ** 0.5, 4),
        "cases": cases,
        "date": datetime.now(UTC).date().isoformat(),
        "processor_seconds": round(time.process_time() - busy, 1),
        "versions": {name: version(name) for name in ("numpy", "scipy")}
        | {"fedmed": fedmed.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
    }
    if arguments.json:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
