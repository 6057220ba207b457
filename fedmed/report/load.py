"""Reading a comparison's run directory, whatever state it is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.base.cells import csv_text
from fedmed.base.errors import UserError
from fedmed.base.files import MOST_JSON, is_seed, write_text
from fedmed.base.opening import MIB, absolute, is_folder, opened, present, read_bytes
from fedmed.base.packed import check_zip
from fedmed.base.parsing import parse_json
from fedmed.evaluation.group_gaps import HEADLINE
from fedmed.evaluation.metrics import shown
from fedmed.evaluation.tables import predictions
from fedmed.report import checking, evidence
from fedmed.report.reading import Json, Number, dig, json_object, number, pair, table, texts
from fedmed.report.reading import rows as objects

_ROUNDS: Final = 100_000  # lines of a history
_SAMPLES: Final = 64 * MIB  # bytes of the sample images
MEGABYTE: Final = 1e6
_GAPS: Final = (*HEADLINE, "pearson_size_auroc")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm at one seed, as far as it has come; `result` is None until it is finished."""

    arm: str
    seed: int
    config: Json
    history: list[Json]
    privacy: Json
    result: Json | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything a run directory says; `problems` are the files that could not be used."""

    directory: Path
    title: str
    description: str
    synthetic: bool
    cohort: str
    paper: str
    notes: list[str]
    base: Json
    runs: list[Run]
    samples: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    evidence: evidence.Evidence | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the experiment's order."""
        return list(dict.fromkeys(run.arm for run in self.runs))


def load(directory: Path) -> Comparison:
    """Read a run directory.

    Files that are absent leave their part out; damaged ones are skipped and named in `problems`.
    Raises UserError where the directory is absent or holds no run.
    """
    if not is_folder(directory):
        raise UserError(f"{directory}: no such folder; give the folder that fedmed run wrote")
    problems: list[str] = []
    about = json_object(directory / "experiment.json", directory, problems)
    planned = checking.planned(about)
    stored = _stored_runs(directory)
    if not planned and not stored:
        raise UserError(f"{directory} holds no run; give the folder that fedmed run wrote")
    if not about and not present(directory / "experiment.json"):
        problems.append("experiment.json is absent: title, order of arms and settings are missing")
    keys = list(dict.fromkeys([*planned, *stored]))
    order = list(dict.fromkeys(arm for arm, _ in keys))
    keys.sort(key=lambda key: (order.index(key[0]), key[1]))
    runs = [_run(directory, arm, seed, problems) for arm, seed in keys]
    results = [run.result for run in runs if run.result is not None]
    return Comparison(
        directory=directory,
        title=str(about.get("title") or about.get("name") or absolute(directory).name),
        description=str(about.get("description") or ""),
        synthetic=bool(about.get("synthetic")) or any(r.get("synthetic") for r in results),
        cohort=str(about.get("cohort") or (results[0].get("cohort") if results else "") or ""),
        paper=str(about.get("paper") or ""),
        notes=texts(about, "notes"),
        base=table(about, "base"),
        runs=runs,
        samples=_samples(directory / "samples.npz", problems),
        evidence=evidence.read(
            directory,
            [f"{run.arm}/seed-{run.seed}" for run in runs if run.result is not None],
            problems,
        ),
        problems=problems,
    )


def summary_table(directory: Path) -> pd.DataFrame:
    """One row per finished arm and seed; see :func:`rows`. Raises UserError for an empty folder."""
    return rows(load(directory))


def write_summary(directory: Path) -> Path:
    """Write the summary table to ``summary.csv`` in the run directory, atomically."""
    path = directory / "summary.csv"
    write_text(path, csv_text(summary_table(directory)))
    return path


def rows(comparison: Comparison) -> pd.DataFrame:
    """One row per finished run: arm, guarantee, metrics, gaps by sex and age, and cost.

    `epsilon` is empty where no differential privacy is claimed, and holds for `unit` only;
    `auroc_low` to `auroc_high` is the interval of this run: of an arm's only seed the one that the
    report and ``fedmed evaluate`` show, from ``comparison.json`` where there is one. `seconds` is
    the whole run; `peak_memory_mb` counts 10^6 bytes.
    """
    table = [
        _row(run, run.result, comparison.evidence)
        for run in comparison.runs
        if run.result is not None
    ]
    return pd.DataFrame(table, columns=list(_row(_EMPTY, {}, None)))


_EMPTY: Final = Run(arm="", seed=0, config={}, history=[], privacy={}, result=None)


def _interval(run: Run, metrics: Json, compared: evidence.Evidence | None) -> tuple[Number, Number]:
    """The run's interval of AUROC: that of the comparison, where it is one run's."""
    if compared is not None and dig(compared.by_arm, run.arm, "seeds") == [run.seed]:
        told = compared.estimate(run.arm, "metrics", "auroc")
        if told is not None and told.low is not None:
            return told.low, told.high
    return pair(metrics.get("auroc_interval"))


def _row(run: Run, result: Json, compared: evidence.Evidence | None) -> Json:
    metrics = table(result, "metrics")
    low, high = _interval(run, metrics, compared)
    row: Json = {
        "arm": run.arm,
        "seed": run.seed,
        "kind": result.get("arm"),
        "scheme": result.get("scheme"),
        "unit": result.get("unit"),
        "epsilon": result.get("epsilon"),
        "delta": result.get("delta"),
        "trust": result.get("trust"),
        "auroc": metrics.get("auroc"),
        "auroc_low": low,
        "auroc_high": high,
    }
    for key in ("auroc_val", *shown("summary"), "threshold"):
        row[key] = metrics.get(key)
    for attribute in ("sex", "age"):
        gaps = table(metrics, "fairness", attribute)
        row[f"worst_{attribute}_auroc"] = gaps.get("worst_auroc")
        row[f"worst_{attribute}_group"] = gaps.get("worst_group")
        for key in _GAPS:
            # Two sexes have no correlation.
            if (key, attribute) != ("pearson_size_auroc", "sex"):
                row[f"{key}_{attribute}"] = gaps.get(key)
    memory = number(result.get("peak_memory_bytes"))
    row["rounds"] = result.get("rounds")
    row["seconds"] = dig(result, "seconds", "total")
    row["peak_memory_mb"] = None if memory is None else memory / MEGABYTE
    return row


def _stored_runs(directory: Path) -> list[tuple[str, int]]:
    """Arms and seeds that have a folder."""
    keys = []
    for folder in sorted(directory.glob("*/seed-*")):
        digits = folder.name.removeprefix("seed-")
        if folder.is_dir() and is_seed(digits):
            keys.append((folder.parent.name, int(digits)))
    return keys


def _run(directory: Path, arm: str, seed: int, problems: list[str]) -> Run:
    folder = directory / arm / f"seed-{seed}"
    result = json_object(folder / "result.json", directory, problems)
    config = json_object(folder / "config.json", directory, problems)
    wrong: list[str] = []
    privacy = checking.statement(json_object(folder / "privacy.json", directory, problems), wrong)
    if wrong:
        names = ", ".join(dict.fromkeys(wrong))
        problems.append(f"{arm}/seed-{seed}/privacy.json: {names} cannot be read and is left out")
    if result:
        absent = [
            name
            for name, there in (("privacy.json", privacy), ("config.json", config))
            if not there and not present(folder / name)
        ]
        problems += [f"{arm}/seed-{seed}/{name} is absent: its part is missing" for name in absent]
        problems += _unreadable(folder / "predictions.parquet", directory)
    return Run(
        arm=arm,
        seed=seed,
        config=table(config, "config"),
        history=_history(folder / "history.jsonl", directory, problems),
        privacy=privacy,
        result=result or None,
    )


def _unreadable(path: Path, directory: Path) -> list[str]:
    """A line where a run's predictions are damaged; one that has none is not to be compared."""
    if not present(path):
        return []
    try:
        predictions.read(path)
    except UserError:
        where = path.relative_to(directory)
        return [f"{where} is damaged or no table of predictions: this run is not compared"]
    return []


def _history(path: Path, directory: Path, problems: list[str]) -> list[Json]:
    """Rounds by number; a round that was run again counts once, as it went last."""
    try:
        lines = read_bytes(path, MOST_JSON).decode("utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (UserError, ValueError):
        lines = ["damaged"]
    if len(lines) > _ROUNDS:
        lines = ["damaged"]
    rounds: dict[int, Json] = {}
    for place, line in enumerate(lines, start=1):
        if not line and place == len(lines):  # what follows the last line end
            continue
        try:
            entry = parse_json(line)
            if not isinstance(entry["round"], int):
                raise TypeError("round")
            rounds[entry["round"]] = entry
        except (ValueError, TypeError, KeyError):
            where = path.relative_to(directory)
            problems.append(f"{where}, line {place}, is damaged or half written: skipped")
    cut: dict[str, list[str]] = {}
    for round_number in sorted(rounds):
        for one in objects(rounds[round_number], "cut"):
            cut.setdefault(str(one.get("hospital")), []).append(str(round_number))
    for hospital, where_cut in cut.items():
        problems.append(
            f"{path.parent.relative_to(directory)}: {hospital}'s update was longer than it may be "
            f"and was cut in {len(where_cut)} round(s), first in round {where_cut[0]}"
        )
    return [rounds[round_number] for round_number in sorted(rounds)]


def _is_images(array: npt.NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and 0 not in array.shape


def _samples(path: Path, problems: list[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with opened(path, _SAMPLES) as file:
            check_zip(file, _SAMPLES, path.name)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        if not all(_is_images(array) or name == "label" for name, array in arrays.items()):
            raise ValueError("samples")
        return arrays
    except FileNotFoundError:
        return {}
    except Exception:  # a damaged zip raises many kinds, and none may stop the report
        problems.append(f"{path.name} is damaged or half written: skipped")
        return {}
