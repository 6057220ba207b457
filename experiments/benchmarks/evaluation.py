"""How long do 2,000 paired resamples of patients take, and how much memory?

    python -m experiments.benchmarks.evaluation --json
    python -m experiments.benchmarks.evaluation --rows 1000000 --json

Ten thousand test images, four arms. `comparison`: from tables to all that `fedmed evaluate` says of
four arms, with groups of sex, age, both and hospital: every metric of every group, intervals, gaps,
differences, p-values. `resampled`: the resampled metrics alone, with twelve groups. `auroc`: AUROC
of one model alone, against a loop over scikit-learn with the same weights as sample weights. They
are timed in turns, and memory is that of a process of its own which makes the comparison.
Other work on the machine moves seconds, and processor seconds hardly: `times_faster` is of the
latter. With `--rows` one large table is written to a file, and a process of its own runs `fedmed
evaluate` on it once without resamples and once with them: seconds from the start of Python to the
end, and peak memory.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

import fedmed
from fedmed.evaluation.comparison.comparison import compare
from fedmed.evaluation.intervals.resampling import for_each_block
from fedmed.evaluation.measuring.measures import Column, Measured, measure

RESULTS = Path(__file__).parent / "results"
SEED = 1
LOOPED = 10  # resamples that the loop is timed on


def cohort(images: int, models: int) -> dict[str, Any]:
    """What `measure` takes: two images per patient, sex 2 + age 5 + hospital 5 groups."""
    generator = np.random.default_rng(0)
    patient = np.arange(images) // 2
    labels = (generator.random(images) < 0.3).astype(np.int64)
    scores = 1.0 / (1.0 + np.exp(1.0 - 1.5 * labels - generator.normal(size=(models, images))))
    columns = [
        Column(name=str(index), scores=row, threshold=0.4, specificity_threshold=0.6)
        for index, row in enumerate(scores)
    ]
    people = int(patient.max()) + 1
    groups = {
        name: generator.integers(0, count, people)[patient].astype(str)
        for name, count in (("sex", 2), ("age", 5), ("hospital", 5))
    }
    return {"columns": columns, "labels": labels, "patients": patient, "attributes": groups}


def tables(images: int, arms: int) -> dict[str, dict[int, pd.DataFrame]]:
    """What `compare` takes: `images` test images and a tenth as many for validation; one seed."""
    generator = np.random.default_rng(0)
    val = images // 10
    patient = np.arange(images + val) // 2
    people = int(patient.max()) + 1
    labels = (generator.random(patient.size) < 0.3).astype(np.int64)
    base = pd.DataFrame(
        {
            "image": [f"i{number:06d}" for number in range(patient.size)],
            "patient_id": [f"p{number}" for number in patient],
            "hospital": generator.choice(["hospital-1", "hospital-2"], people)[patient],
            "split": np.where(np.arange(patient.size) < val, "val", "test"),
            "label": labels,
            "age": generator.uniform(5, 95, people)[patient],
            "sex": generator.choice(["F", "M"], people)[patient],
            "view": None,
        }
    )
    noise = generator.normal(size=(arms, patient.size))
    return {
        f"arm-{arm}": {
            0: base.assign(score=1.0 / (1.0 + np.exp(1.0 - (1.5 - 0.1 * arm) * labels - own)))
        }
        for arm, own in enumerate(noise)
    }


def comparison(
    given: dict[str, dict[int, pd.DataFrame]], resamples: int, threads: int
) -> dict[str, Any]:
    """All that is said of the arms."""
    return compare(given, "arm-0", {}, resamples=resamples, seed=SEED, threads=threads)


def everything(data: dict[str, Any], resamples: int, threads: int) -> Measured:
    """All metrics of all groups."""
    return measure(**data, resamples=resamples, seed=SEED, threads=threads)


def area_alone(data: dict[str, Any], resamples: int, threads: int) -> Measured:
    """AUROC of all images, of one model."""
    few = data | {"columns": data["columns"][:1], "attributes": {}}
    return measure(**few, resamples=resamples, seed=SEED, threads=threads, metrics=["auroc"])


def looped(data: dict[str, Any], weights: npt.NDArray[np.float64]) -> list[float]:
    """AUROC of the same model by scikit-learn, one resample after the other."""
    scores = data["columns"][0].scores
    return [float(roc_auc_score(data["labels"], scores, sample_weight=w)) for w in weights]


def drawn(measured: Measured, count: int) -> npt.NDArray[np.float64]:
    """Image weights [count, n] of the first resamples of a measurement."""
    kept = np.empty((measured.resamples, measured.images), dtype=np.uint8)

    def keep(where: slice, weights: npt.NDArray[np.float64]) -> None:
        kept[where] = weights[measured.design.patient].T

    for_each_block(measured.design, measured.resamples, SEED, keep, threads=1)
    return kept[:count].astype(np.float64)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that the work takes, and those of processors: other processes move these less."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def peak(arguments: argparse.Namespace) -> float:
    """Resident memory in GB of a process that makes the comparison once."""
    command = [sys.executable, "-m", "experiments.benchmarks.evaluation", "--once"]
    for name in ("images", "models", "resamples", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def timings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of all four in turns, their ratio, the largest difference of AUROC, and memory."""
    data = cohort(arguments.images, arguments.models)
    given = tables(arguments.images, arguments.models)
    groups = next(iter(comparison(given, 0, 1)["by_arm"].values()))["groups"]
    measured = area_alone(data, arguments.resamples, arguments.threads)
    weights = drawn(measured, LOOPED)
    error = np.abs(measured.quantity("auroc").samples[:LOOPED, 0] - looped(data, weights)).max()
    rounds = []
    for _ in range(arguments.rounds):
        told = timed(lambda: comparison(given, arguments.resamples, arguments.threads))
        whole = timed(lambda: everything(data, arguments.resamples, arguments.threads))
        area = timed(lambda: area_alone(data, arguments.resamples, arguments.threads))
        some = timed(lambda: looped(data, weights))
        loop = (some[0] * arguments.resamples / LOOPED, some[1] * arguments.resamples / LOOPED)
        rounds.append((told, whole, area, loop))
    told, whole, area, loop = zip(*rounds, strict=True)
    return {
        "images": arguments.images,
        "models": arguments.models,
        "groups_compared": sum(len(names) for names in groups.values()),
        "groups_resampled": sum(len(set(codes)) for codes in data["attributes"].values()),
        "resamples": arguments.resamples,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "comparison": _summary(told),
        "resampled": _summary(whole),
        "auroc": _summary(area),
        "loop": _summary(loop),
        "loop_timed_on_resamples": LOOPED,
        "times_faster": round(
            statistics.median(a[1] / b[1] for a, b in zip(loop, area, strict=True)), 1
        ),
        "times_faster_by_wall": round(
            statistics.median(a[0] / b[0] for a, b in zip(loop, area, strict=True)), 1
        ),
        "largest_difference": float(error),
        "peak_gb": round(peak(arguments), 3),
        **_machine(),
    }


def large_table(rows: int) -> pd.DataFrame:
    """One table with two patients in five rows, a tenth of them for validation, and four groups.

    Groups are of sex and age band, two of each; every patient has one image at least.
    """
    generator = np.random.default_rng(0)
    people = rows * 2 // 5
    patient = np.concatenate([np.arange(people), generator.integers(0, people, rows - people)])
    labels = (generator.random(rows) < 0.3).astype(np.int64)
    return pd.DataFrame(
        {
            "image": [f"i{number:07d}" for number in range(rows)],
            "patient_id": [f"p{number}" for number in patient],
            "split": np.where(generator.random(people) < 0.1, "val", "test")[patient],
            "label": labels,
            "score": 1.0 / (1.0 + np.exp(1.0 - 1.5 * labels - generator.normal(size=rows))),
            "age": generator.choice([45.0, 65.0], people)[patient],
            "sex": generator.choice(["F", "M"], people)[patient],
        }
    )


def large(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak memory of `fedmed evaluate` on a large table, by format of its file."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = large_table(arguments.rows)
        table.to_parquet(Path(folder) / "table.parquet", index=False)
        table.to_csv(Path(folder) / "table.csv", index=False)
        del table
        for kind, resamples in (("parquet", 0), ("parquet", arguments.resamples), ("csv", 0)):
            code = (
                "import sys\n"
                "from fedmed.cli.commands import main\n"
                "try:\n main()\n"
                "finally:\n"
                # Of this program alone: ru_maxrss is at least that of the process that started it.
                " peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
                " print(int(peak[0].split()[1]) / 1e6, file=sys.stderr)"
            )
            command = [sys.executable, "-c", code, "evaluate", f"{folder}/table.{kind}", "--json"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            done = subprocess.run(
                [*command, "--resamples", str(resamples)],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            seconds = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            figures[f"{kind}, {resamples} resamples"] = {
                "seconds": round(seconds, 1),
                "processor_seconds": round(busy, 1),
                "peak_gb": round(float(done.stderr.split()[-1]), 2),
            }
    return {"rows": arguments.rows, "patients": arguments.rows * 2 // 5, **figures, **_machine()}


def _machine() -> dict[str, Any]:
    return {
        "load": round(os.getloadavg()[0], 2),
        "processors": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "pandas")}
        | {"fedmed": fedmed.__version__},
    }


def _summary(values: tuple[tuple[float, float], ...]) -> dict[str, float]:
    wall, busy = zip(*values, strict=True)
    return {
        "median_seconds": round(statistics.median(wall), 3),
        "fewest_seconds": round(min(wall), 3),
        "processor_seconds": round(min(busy), 3),
    }


def main() -> None:
    """Time and print; `--json` also writes results/evaluation-N.json (N threads, or rows-N)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="of one large table, in place of all else")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        comparison(
            tables(arguments.images, arguments.models), arguments.resamples, arguments.threads
        )
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return
    result = large(arguments) if arguments.rows else timings(arguments)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        name = f"rows-{arguments.rows}" if arguments.rows else str(arguments.threads)
        path = RESULTS / f"evaluation-{name}.json"
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
