"""Logs for trackers that people already use: TensorBoard and MLflow, each an extra.

Trackers stand at the edge: they read the files of run directories and know nothing of hospitals.
What they log is in those files already; the predictions table is never logged.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

from fedmed.base.errors import UserError
from fedmed.config import TRACKERS, Settings
from fedmed.experiment.file import Experiment
from fedmed.experiment.run import Progress

_MODULE: Final = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


def check(settings: Settings) -> tuple[str, ...]:
    """The trackers asked for; raises :class:`UserError` naming the extra that is not installed."""
    names = settings.run.tracked_by
    for name in names:
        if importlib.util.find_spec(_MODULE[name]) is None:
            raise UserError(
                f"run.trackers names {name}, which is not installed; install the extra: "
                f"pip install 'fedmed[{name}]'"
            )
    return names


def followed(progress: Progress, experiment: Experiment, out: Path) -> Progress:
    """``progress``, and beside it TensorBoard logs where ``run.trackers`` asks for them."""
    if "tensorboard" not in check(experiment.base):
        return progress
    return Followed(progress, experiment, out)


def publish(experiment: Experiment, out: Path) -> str:
    """Log a finished comparison to MLflow where ``run.trackers`` asks for it; says where, or ''."""
    assert set(check(experiment.base)) <= set(TRACKERS)  # noqa: S101 -- settings are validated
    if "mlflow" not in experiment.base.run.tracked_by:
        return ""
    from fedmed.trackers import mlflow

    return mlflow.log(out, experiment.name)


class Followed:
    """Passes everything on, and lets the present run's log follow its files."""

    def __init__(self, inner: Progress, experiment: Experiment, out: Path) -> None:
        from fedmed.trackers import tensorboard

        self._inner, self._experiment, self._out = inner, experiment, out
        self._log: tensorboard.RunLog | None = None

    def preparing(self, what: str) -> None:
        """Pass it on."""
        self._inner.preparing(what)

    def note(self, what: str) -> None:
        """Pass it on."""
        self._inner.note(what)

    def started(self, arm: str, seed: int, rounds: int) -> None:
        """Open the run's log; that of a finished run stays as it is."""
        from fedmed.trackers import tensorboard

        self._inner.started(arm, seed, rounds)
        settings = self._experiment.settings(arm, seed)
        self._log = tensorboard.RunLog(self._out, arm, seed, settings)

    def round(self, number: int, rounds: int, auroc: float | None) -> None:
        """Log the rounds that are new in the history."""
        self._inner.round(number, rounds, auroc)
        if self._log is not None:
            self._log.follow()

    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None:
        """Log what a result adds, and close."""
        if self._log is not None:
            self._log.finish()
            self._log = None
        self._inner.finished(arm, seed, result, cached)
