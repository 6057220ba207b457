"""MLflow: settings, summary and documents of a finished comparison, one MLflow run for each run."""

from __future__ import annotations

import logging
import math
import os
import warnings
from numbers import Real
from pathlib import Path
from typing import Any, Final

# A comparison tells nobody about itself.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Metric, Param, RunTag

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.report.load import Run, load, rows

_TAG: Final = "fedmed.run"  # the run's own name: what it is found by again
_LONGEST: Final = 6000  # characters of a parameter's value
_BATCH: Final = 100  # parameters in one request, MLflow's limit


def log(out: Path, name: str) -> str:
    """Log every finished run of the comparison in ``out`` to the experiment ``name``.

    To ``MLFLOW_TRACKING_URI``, by default a database in ``OUT/mlflow``. Parameters: the settings;
    metrics: the run's row of ``summary.csv``; artifacts: ``summary.csv``, the statement and
    the report, which are replaced where they were logged before. A run that MLflow has is not
    logged again. Returns where it went; raises :class:`UserError` where MLflow fails: results stay.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = given or f"sqlite:///{out.resolve()}/mlflow/mlflow.db"
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        if not given:
            (out / "mlflow").mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies, about each other
            _log(mlflow.MlflowClient(tracking_uri=uri), out, name)
    except Exception as error:  # of its store or its network: many kinds, and results are safe
        text = " ".join(str(error).split())
        raise UserError(
            f"mlflow at {uri}: {text[:200]}; the results are in {out}, run the same command again "
            "to log them"
        ) from error
    return uri


def _log(client: Any, out: Path, name: str) -> None:
    comparison = load(out)
    summary = rows(comparison)
    experiment = _experiment(client, out, name)
    for run in comparison.runs:
        if run.result is None:
            continue
        folder = out / run.arm / f"seed-{run.seed}"
        own = files.read_json(folder / "config.json")["run"]
        chosen = summary[(summary["arm"] == run.arm) & (summary["seed"] == run.seed)]
        number = _find(client, experiment, str(own))
        if number is None:
            row = {str(key): value for key, value in chosen.iloc[0].items()}
            number = _create(client, experiment, run, str(own), row)
        for path in (out / "summary.csv", folder / "privacy.json", out / "report.html"):
            if path.exists():
                client.log_artifact(number, str(path))
        client.set_terminated(number)


def _experiment(client: Any, out: Path, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    place = None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        place = (out.resolve() / "mlflow" / "artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _find(client: Any, experiment: str, own: str) -> str | None:
    """The MLflow run that holds this run's metrics whole, by the tag that is set last."""
    runs = client.search_runs([experiment], f"tags.`{_TAG}` = '{own}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _create(client: Any, experiment: str, run: Run, own: str, row: dict[str, Any]) -> str:
    created = client.create_run(experiment, run_name=f"{run.arm}/seed-{run.seed}")
    number = str(created.info.run_id)
    given = [Param(key, str(value)[:_LONGEST]) for key, value in run.config.items()]
    for start in range(0, len(given), _BATCH):
        client.log_batch(number, params=given[start : start + _BATCH])
    metrics = [
        Metric(key, float(value), created.info.start_time, 0)
        for key, value in row.items()
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    ]
    told = [RunTag(key, str(row[key])) for key in ("unit", "trust") if row.get(key)]
    client.log_batch(number, metrics=metrics, tags=told)
    # Last: a run that was cut short here is logged again, under another number.
    client.set_tag(number, _TAG, own)
    return number
