"""A comparison's run directory: its runs are compared, and ``comparison.json`` is written.

:func:`fedmed.evaluation.comparison.comparison.compare` does the same for tables in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from fedmed import __version__
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.opening import is_folder
from fedmed.config.arms import ARMS
from fedmed.evaluation.comparison import endpoint
from fedmed.evaluation.comparison.comparison import compare
from fedmed.evaluation.comparison.places import Noised, noised
from fedmed.evaluation.comparison.splitting import STEPS
from fedmed.evaluation.intervals.resampling import Progress
from fedmed.evaluation.measuring.measures import RESAMPLES, SEED
from fedmed.evaluation.tables import predictions

__all__ = ["compare", "from_directory", "write"]

NAME: Final = "comparison.json"
FORMAT: Final = 6  # of comparison.json; another makes it anew
Json = dict[str, Any]


@dataclass
class Runs:
    """The finished runs of a directory: where their tables lie, what their results tell."""

    paths: dict[str, dict[int, Path]] = field(default_factory=dict)
    results: dict[str, dict[int, Json]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    between: dict[str, list[str]] = field(default_factory=dict)  # arms that split an arm's cost
    primary: endpoint.Endpoint | None = None
    redraws: bool = False  # whether thresholds are chosen anew in every resample

    def inputs(self) -> dict[str, str]:
        """SHA-256 of every run's predictions table, by ``ARM/seed-N``."""
        return {
            f"{arm}/{path.parent.name}": files.digest(path)
            for arm, by_seed in self.paths.items()
            for path in by_seed.values()
        }

    def epsilons(self) -> dict[str, float | None]:
        """The largest epsilon of each arm's runs, None where one has none."""
        return self._largest("epsilon")

    def units(self) -> dict[str, str]:
        """Whose data each arm's epsilon protects."""
        return {
            arm: str(next(iter(by_seed.values())).get("unit"))
            for arm, by_seed in self.results.items()
        }

    def schemes(self) -> dict[str, str]:
        """How each arm is trained: federated, pooled, or each hospital alone."""
        return {
            arm: str(next(iter(by_seed.values())).get("scheme"))
            for arm, by_seed in self.results.items()
        }

    def noised(self) -> dict[str, Noised]:
        """Where each arm of federated DP-SGD adds its noise; others are left out."""
        units, schemes = self.units(), self.schemes()
        epsilons, deltas = self.epsilons(), self._largest("delta")
        by_arm = {
            arm: noised(
                str(next(iter(by_seed.values())).get("arm")),
                schemes[arm],
                units[arm],
                epsilons[arm],
                deltas[arm],
            )
            for arm, by_seed in self.results.items()
        }
        return {arm: told for arm, told in by_arm.items() if told is not None}

    def _largest(self, key: str) -> dict[str, float | None]:
        """The largest number of each arm's runs, None where one has none."""
        largest: dict[str, float | None] = {}
        for arm, by_seed in self.results.items():
            each = [_number(result.get(key)) for result in by_seed.values()]
            largest[arm] = None if None in each else max(e for e in each if e is not None)
        return largest


def from_directory(
    out: Path,
    *,
    baseline: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    redraw_threshold: bool = False,
    progress: Progress | None = None,
) -> Json:
    """Compare the finished runs of a comparison's directory; others are named in `notes`.

    Without `baseline` it is the federated arm without privacy, else the pooled one, else the first
    arm. With `redraw_threshold`, or where the experiment says so, thresholds are chosen anew in
    every resample. Raises UserError where the directory is absent or holds no finished run, for an
    unknown baseline, and where runs have different test images.
    """
    runs = find(out)
    runs.redraws = runs.redraws or redraw_threshold
    return _compared(out, runs, baseline, resamples, seed, progress)


def write(out: Path, *, resamples: int = RESAMPLES, seed: int = SEED) -> Path:
    """Write ``comparison.json`` in a comparison's directory, atomically, and return its path.

    Nothing is computed where the file is there already, made by this version from the same tables,
    epsilons and numbers of resamples. Raises UserError as :func:`from_directory`.
    """
    path = out / NAME
    runs = find(out)
    made_from = _made_from(runs, resamples, seed)
    if path.exists():
        try:
            earlier: Json | None = files.read_object(path)
        except UserError:  # damaged: made again
            earlier = None
        if earlier is not None and earlier.get("made_from") == made_from:
            return path
    found = _compared(out, runs, None, resamples, seed)
    files.write_json(path, {**found, "made_from": made_from})
    return path


def find(out: Path) -> Runs:
    """Finished runs with readable predictions, in the experiment's order of arms.

    Raises UserError where the directory is absent or holds no finished run.
    """
    if not is_folder(out):
        raise UserError(f"{out}: no such folder; give the folder that fedmed run wrote")
    about = _object(out / "experiment.json") or {}
    listed = about.get("arms")
    order = [str(arm) for arm in listed] if isinstance(listed, list) else []
    found = [
        (folder.parent.name, int(digits), folder)
        for folder in sorted(out.glob("*/seed-*"))
        if files.is_seed(digits := folder.name.removeprefix("seed-"))
    ]
    found.sort(key=lambda run: (order.index(run[0]) if run[0] in order else len(order), *run[:2]))
    named = about.get("primary")
    primary = None if named is None else endpoint.read(named, str(out / "experiment.json"))
    runs = Runs(between=_between(about), primary=primary, redraws=_redraws(about))
    histograms = 0
    for arm, number, folder in found:
        result = _object(folder / "result.json")
        path = folder / "predictions.parquet"
        name = f"{arm}/{folder.name}"
        if not result:
            runs.notes.append(f"{name} is not finished: left out")
        elif _metrics(result).get("source") == "histograms":
            histograms += 1
            runs.notes.append(
                f"{name} was evaluated at the hospitals and has no table of predictions: left out"
            )
        elif not path.is_file():
            runs.notes.append(f"{name} has no predictions.parquet: left out")
        else:
            runs.paths.setdefault(arm, {})[number] = path
            runs.results.setdefault(arm, {})[number] = result
    if not runs.paths and histograms:
        raise UserError(
            f"{out}: its {histograms} finished run(s) were evaluated at the hospitals, which send "
            "histograms and no predictions, so differences between arms cannot be tested; the "
            "report has each arm's own AUROC, gaps and intervals, and evaluation.where = 'both' "
            "adds predictions of images that the server holds"
        )
    if not runs.paths:
        why = f" ({runs.notes[0]})" if runs.notes else ""
        raise UserError(f"{out} holds no finished run{why}; give the folder that fedmed run wrote")
    return runs


def _between(about: Json) -> dict[str, list[str]]:
    """Which arms split the cost of which one, as ``experiment.json`` says."""
    told = about.get("decompose")
    if not isinstance(told, dict):
        return {}
    return {
        arm: [str(name) for name in names]
        for arm, names in told.items()
        if isinstance(names, list) and len(names) == len(STEPS) - 1
    }


def _redraws(about: Json) -> bool:
    """Whether ``experiment.json`` asks for thresholds that are chosen anew."""
    base = about.get("base")
    return isinstance(base, dict) and base.get("evaluation.redraw-threshold") is True


def _compared(
    out: Path,
    runs: Runs,
    baseline: str | None,
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> Json:
    notes = list(runs.notes)
    tables: dict[str, dict[int, pd.DataFrame]] = {}
    for arm, by_seed in runs.paths.items():
        for number, path in by_seed.items():
            try:
                table = predictions.read(path)
            except UserError as error:
                notes.append(f"{arm}/seed-{number} is left out: {_inside(out, str(error))}")
            else:
                tables.setdefault(arm, {})[number] = table
    if not tables:
        raise UserError(f"{out} holds no readable predictions; {notes[-1]}")
    if baseline is None:
        baseline, note = _baseline({arm: runs.results[arm] for arm in tables})
        notes += note
    found = compare(
        tables,
        baseline,
        runs.epsilons(),
        units=runs.units(),
        schemes=runs.schemes(),
        noised=runs.noised(),
        between=runs.between,
        primary=runs.primary,
        redraw_threshold=runs.redraws,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    found["inputs"] = runs.inputs()
    found["notes"] = notes + found["notes"]
    return found


def _baseline(results: Mapping[str, Mapping[int, Json]]) -> tuple[str, list[str]]:
    """The arm that others are compared with, and a note where it is not the expected one."""
    kinds = {arm: next(iter(by_seed.values())) for arm, by_seed in results.items()}
    for scheme in ("federated", "pooled"):
        for arm, result in kinds.items():
            if _untreated(result) and result.get("scheme") == scheme:
                note = f"there is no federated arm without privacy: {arm} is the baseline"
                return arm, [] if scheme == "federated" else [note]
    first = next(iter(kinds))
    return first, [f"there is no arm without privacy: {first}, the first one, is the baseline"]


def _untreated(result: Json) -> bool:
    """Whether a run's arm trains without any treatment."""
    arm = ARMS.get(str(result.get("arm")))
    return arm is not None and arm.plan == "none"


def _made_from(runs: Runs, resamples: int, seed: int) -> Json:
    """All that decides what the file says."""
    return {
        "format": FORMAT,
        "fedmed": __version__,
        "inputs": runs.inputs(),
        "epsilons": runs.epsilons(),
        "units": runs.units(),
        "schemes": runs.schemes(),
        "noised": {arm: asdict(told) for arm, told in runs.noised().items()},
        "between": runs.between,
        "primary": None if runs.primary is None else runs.primary.to_dict(),
        "redraws": runs.redraws,
        "baseline": _baseline(runs.results)[0],
        "resamples": resamples,
        "seed": seed,
        "notes": runs.notes,
    }


def _inside(out: Path, text: str) -> str:
    """A message without the directory's own path, which another machine does not have."""
    return text.replace(f"{out}/", "")


def _metrics(result: Json) -> Json:
    found = result.get("metrics")
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    """A number of a result; None for anything else."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else None


def _object(path: Path) -> Json | None:
    """A JSON object, None where the file is absent or damaged."""
    try:
        return files.read_object(path)
    except UserError:
        return None
