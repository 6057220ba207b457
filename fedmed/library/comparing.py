"""Running a comparison from Python: its results as tables, and its report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from fedmed import config
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.holding import held
from fedmed.base.rounding import up_text
from fedmed.config import Scalar, Settings
from fedmed.data.network import forget
from fedmed.evaluation.comparison import compare
from fedmed.experiment import pretraining
from fedmed.experiment.file import Experiment, make_experiment
from fedmed.experiment.run import Progress, run_experiment
from fedmed.launch import RaySimulation, run_inline
from fedmed.library.silent import Silent
from fedmed.report import build, summary_table, write_summary
from fedmed.trackers import check, followed, publish

Source = Mapping[str, Any] | Path | str
_SHOWN: Final = ("arm", "seed", "unit", "epsilon", "delta", "auroc", "auroc_low", "auroc_high")
_CHANGE: Final = ("value", "low", "high", "both_low", "both_high")


@dataclass(frozen=True, repr=False)
class Results:
    """A comparison that has run; :func:`run` makes it.

    ``folder`` holds all of its files, ``runs`` what ``result.json`` of each run says.
    """

    folder: Path
    runs: tuple[dict[str, Any], ...]

    def table(self) -> pd.DataFrame:
        """One row per finished run in the folder: arm, guarantee, metrics, gaps, cost."""
        return summary_table(self.folder)

    def differences(self) -> pd.DataFrame:
        """Every arm against the one without privacy: one row per quantity, with its interval.

        ``change`` is the arm's minus the baseline's, ``low`` to ``high`` its interval over
        patients, ``both_low`` to ``both_high`` over patients and trainings (NaN with one seed).
        """
        comparison = files.read_object(compare.write(self.folder))
        rows = [
            {
                **{key: row[key] for key in ("arm", "quantity", "attribute", "group")},
                "baseline": row["baseline_value"],
                "of_arm": row["value"],
                "change": row["difference"]["value"],
                **{key: row["difference"][key] for key in _CHANGE[1:]},
                **{key: row[key] for key in ("p", "p_holm", "headline")},
            }
            for row in comparison["differences"]
        ]
        return pd.DataFrame(rows)

    def write_report(self, *, paper: bool = False) -> Path:
        """See :func:`write_report`."""
        return write_report(self.folder, paper=paper)

    def __repr__(self) -> str:
        lines = [f"Results in {self.folder}"]
        for run in self.runs:
            auroc = (run.get("metrics") or {}).get("auroc")
            shown = "not defined" if auroc is None else f"{auroc:.3f}"
            spent = run.get("epsilon")
            cost = "no guarantee" if spent is None else f"epsilon {up_text(spent)} ({run['unit']})"
            lines.append(f"  {run['name']}, seed {run['seed']}: AUROC {shown}, {cost}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: each run's guarantee and AUROC."""
        table = self.table()[list(_SHOWN)]
        shown: str = table.to_html(index=False, float_format="{:.4g}".format, na_rep="")
        return shown


def run(
    experiment: Source,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    changes: Mapping[str, Scalar] | None = None,
    out: Path | str | None = None,
    engine: Literal["inline", "ray"] = "inline",
    progress: Progress | None = None,
) -> Results:
    """Run a comparison: every arm and seed that has no result yet. What ``fedmed run`` does.

    ``experiment`` is the path of its TOML, or the same as a dict, whose relative paths are taken
    from the present folder. ``arms`` and ``seeds`` select; ``changes`` are settings by dotted key
    (``{"train.rounds": 2}``). Results go to ``out``, by default runs/NAME, and a second call goes
    on from there. ``progress`` hears how it goes. Raises :class:`UserError` before anything is
    trained where something is wrong, and :class:`RunError` where a run cannot go on.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before Flower is imported
    if engine not in ("inline", "ray"):
        raise UserError(f"engine = '{engine}': use 'inline' or 'ray'")
    from fedmed.hospital.hospital import hospital_for

    loaded = open_experiment(experiment, arms, seeds, changes)
    folder = folder_of(loaded, out)
    hospital_for.cache_clear()  # of an earlier call, whose folder may be gone
    check(loaded.base)
    with held(folder):
        shown = followed(progress or Silent(), loaded, folder)
        if engine == "ray":
            with RaySimulation() as simulation:
                results = run_experiment(loaded, folder, simulation.run, shown)
        else:
            results = run_experiment(loaded, folder, run_inline, shown)
        write_summary(folder)
    publish(loaded, folder)
    return Results(folder, tuple(results))


def write_report(folder: Path | str, *, paper: bool = False) -> Path:
    """Write ``summary.csv``, ``comparison.json`` and ``report.html`` from a comparison's files.

    With ``paper`` also the folder ``paper``: figures, tables, Methods and a .bib. Returns the path
    of the page. What ``fedmed report`` does; raises :class:`UserError` for a folder that holds no
    run, or whose runs cannot be compared.
    """
    directory = Path(folder)
    with held(directory):
        try:
            compare.write(directory)
        finally:  # with the intervals of the comparison, and without one too
            write_summary(directory)
        return build(directory, paper=paper)


def open_experiment(
    experiment: Source,
    arms: Sequence[str],
    seeds: Sequence[int],
    changes: Mapping[str, Scalar] | None,
) -> Experiment:
    """The experiment of a TOML file or of a dict, its cohort to be read anew.

    Raises :class:`UserError` naming the key.
    """
    if not isinstance(experiment, Mapping | Path | str):
        raise UserError("experiment: give the path of its TOML, or the same as a dict")
    for name, several in (("arms", arms), ("seeds", seeds)):
        if isinstance(several, str) or not isinstance(several, Iterable):
            raise UserError(f"{name} = {several!r}: give a list")
    if not isinstance(changes or {}, Mapping):
        raise UserError("changes: give a dict of settings by dotted key")
    forget()
    given = {str(key): value for key, value in (changes or {}).items()}
    known = Settings().to_flat()
    for key in given:
        if key.removeprefix(pretraining.PREFIX) not in known:
            raise UserError(f"changes: unknown key '{key}'{config.nearest_key(key, known)}")
    path = Path("experiment") if isinstance(experiment, Mapping) else Path(experiment)
    text = config.plain(experiment) if isinstance(experiment, Mapping) else config.read_toml(path)
    return make_experiment(text, path, arms=arms, seeds=seeds, changes=given)


def folder_of(experiment: Experiment, out: Path | str | None) -> Path:
    """Where its results lie."""
    return Path("runs") / experiment.name if out is None else Path(out)
