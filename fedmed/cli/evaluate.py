"""What ``fedmed evaluate`` answers: one table's metrics, or a comparison, as JSON and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.opening import is_folder
from fedmed.base.terminal import say
from fedmed.cli.tables import print_table
from fedmed.evaluation.comparison import compare
from fedmed.evaluation.group_gaps import GAPS
from fedmed.evaluation.intervals.resampling import Progress
from fedmed.evaluation.metrics import METRICS, shown
from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.tables import foreign

Json = dict[str, Any]
WORDS: Final = {
    **{name: metric.word for name, metric in METRICS.items()},
    **{name: gap.word for name, gap in GAPS.items()},
}


def answer(
    path: Path,
    baseline: str | None,
    *,
    resamples: int,
    seed: int,
    redraw_threshold: bool = False,
    progress: Progress | None = None,
) -> Json:
    """Metrics of a table (or of one run's folder), or a comparison.

    A comparison is that of a folder's arms, where `baseline` is the name of one, or of a table
    with the table `baseline`. With `redraw_threshold` thresholds are chosen anew in every resample.
    `progress` is told the share of the resamples that is done. Raises UserError for bad input and
    for fewer than 0 resamples.
    """
    if resamples < 0 or seed < 0:
        raise UserError("--resamples and --seed are whole numbers >= 0; correct them")
    if is_folder(path) and not (path / "predictions.parquet").is_file():
        return compare.from_directory(
            path,
            baseline=baseline,
            resamples=resamples,
            seed=seed,
            redraw_threshold=redraw_threshold,
            progress=progress,
        )
    table = foreign.load(_file(path))
    if baseline is None:
        return evaluate(
            table,
            resamples=resamples,
            seed=seed,
            redraw_threshold=redraw_threshold,
            where=str(path),
            progress=progress,
        )
    other = Path(baseline)
    if other == path:
        raise UserError(f"--baseline {other} is the table itself; give another")
    tables = {baseline: {0: foreign.load(_file(other))}, str(path): {0: table}}
    return compare.compare(
        tables,
        baseline,
        {},
        resamples=resamples,
        seed=seed,
        redraw_threshold=redraw_threshold,
        progress=progress,
    )


def show(found: Json, name: str) -> None:
    """Print metrics or a comparison as tables on standard output."""
    if "by_arm" in found:
        _show_comparison(found)
    else:
        _show_metrics(found, name)
    for note in found["notes"]:
        say(f"note: {note}")


def _file(path: Path) -> Path:
    return path / "predictions.parquet" if is_folder(path) else path


def _show_metrics(found: Json, name: str) -> None:
    test = f"{found['n_test']} test images of {found['patients_test']} patients"
    ill = _number(found["prevalence"], "")
    say(f"{name}: {test}, prevalence {ill}; {found['n_val']} validation images")
    say(f"threshold {_number(found['threshold'], '')}: {found['threshold_rule']}\n")
    _print(
        [
            {
                "metric": WORDS[key],
                "value": _number(found[key]),
                "95 % interval": _bounds(*(found["intervals"].get(key) or (None, None))),
            }
            for key in shown("result")
        ]
    )
    for attribute, rows in found["groups"].items():
        say(f"\nby {attribute.replace('_', ' x ')}")
        _print([_group(row) for row in rows])
    gaps = [
        {
            "gap": WORDS[key],
            "between": attribute.replace("_", " x "),
            "value": _number(row[key]),
            "95 % interval": _bounds(*(limits or (None, None))),
        }
        for attribute, row in found["fairness"].items()
        for key, limits in row["intervals"].items()
        if row[key] is not None
    ]
    if gaps:
        say("\ngaps between groups")
        _print(gaps)
    _show_hospitals(found["between_hospitals"])
    targets = [
        {
            "target": target,
            "AUROC": _number(one["auroc"]),
            "95 % interval": _bounds(*(one["intervals"]["auroc"] or (None, None))),
        }
        for target, one in found.get("targets", {}).items()
    ]
    if targets:
        say("\nby target")
        _print(targets)
    say("")
    for attribute, row in found["fairness"].items():
        for note in row["notes"]:
            say(f"note: {attribute}: {note}")


def _show_hospitals(told: Json | None) -> None:
    """AUROC at each hospital and without it, and what a further one may have."""
    if told is None:
        return
    say("\nhospitals, one left out at a time")
    _print(
        [
            {
                "hospital": row["hospital"],
                "AUROC": _number(row["auroc"]),
                "95 % interval": _bounds(*(row["interval"] or (None, None))),
                "AUROC without it": _number(row["auroc_without"]),
                "95 % interval without it": _bounds(*(row["interval_without"] or (None, None))),
            }
            for row in told["each"]
        ]
    )
    if told["note"]:
        say(f"note: {told['note']}")
        return
    mean = f"{_number(told['mean'])} ({_bounds(*told['mean_interval'])})"
    say(f"mean of hospitals: AUROC {mean}; a new one: {_bounds(*told['new_hospital'])}")


def _group(row: Json) -> Json:
    columns: Json = {
        "group": row["group"],
        "images": row["n"],
        "positives": row["positives"],
        "AUROC": _number(row["auroc"], row["note"] or "not defined"),
        "95 % interval": _bounds(*(row["intervals"]["auroc"] or (None, None))),
    }
    for name, metric in shown("comparison of groups").items():
        if name != "auroc":
            columns[metric.word] = _number(row[metric.group_key], "")
    columns["detectable AUROC gap"] = _number(row["minimum_detectable_gap"]["auroc"], "")
    return columns


def _show_comparison(found: Json) -> None:
    say(
        f"{found['images']} test images of {found['patients']} patients; compared with "
        f"{found['baseline']}\n"
    )
    rows = []
    for arm, told in found["by_arm"].items():
        auroc = told["metrics"]["auroc"]
        row = {
            "arm": arm,
            "seeds": len(told["seeds"]),
            "AUROC": _number(auroc["value"]),
            "95 % interval": _bounds(auroc["low"], auroc["high"]),
            "sd over seeds": _number(auroc["training_sd"], ""),
        }
        for name, metric in shown("terminal").items():
            row[metric.word] = _number(told["metrics"][name]["value"], "")
        rows.append(row)
    _print(rows)
    headline = [row for row in found["differences"] if row["headline"]]
    if headline:
        say(f"\nchanges against {found['baseline']}")
        _print([_change(row) for row in headline])
    _show_primary(found["primary"])
    told = [c for c in found["correlations"] if c["r"] is not None]
    for correlation in told:
        of = correlation.get("arm") or correlation.get("unit")
        low, high = correlation["low"], correlation["high"]
        say(f"{correlation['name']} ({of}): r = {correlation['r']:.2f} ({low:.2f} to {high:.2f})")
    say("")


def _show_primary(told: Json | None) -> None:
    """The change that the experiment named, and whether its margin is kept."""
    if told is None:
        return
    kept = {True: "shown", False: "not shown", None: "no interval"}[told["shown"]]
    if told["worse"]:
        kept = "shown to be beyond the margin"
    named = " (named after results were seen)" if told["after_results"] else ""
    say(
        f"\nprimary endpoint{named}: {told['test']} of {told['arm']} in {WORDS[told['metric']]}, "
        f"margin {told['margin']:g}: {kept}; change {_number(told['change'])} "
        f"({_bounds(told['low'], told['high'])})"
    )


def _change(row: Json) -> Json:
    change = row["difference"]
    of = "" if row["attribute"] is None else f", {row['attribute']}"
    return {
        "arm": row["arm"],
        "quantity": WORDS[row["quantity"]] + of,
        "baseline": _number(row["baseline_value"]),
        "arm's": _number(row["value"]),
        "change": _number(change["value"]),
        "95 % interval": _bounds(change["low"], change["high"]),
        "with training": _bounds(change["both_low"], change["both_high"]),
        "p": _p(row["p"]),
        "p (Holm)": _p(row["p_holm"]),
        "detectable": _number(row["minimum_detectable"], ""),
    }


def _print(rows: list[Json]) -> None:
    print_table(pd.DataFrame(rows, dtype=object))


def _number(value: float | None, missing: str = "not defined") -> str:
    return missing if value is None else f"{value:.3f}"


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else _number(value, "")


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
