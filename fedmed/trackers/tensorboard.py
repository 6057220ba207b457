"""TensorBoard: one log per run, made from its history and its result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from torch.utils.tensorboard import SummaryWriter

from fedmed.base import files
from fedmed.config import Settings
from fedmed.evaluation.metrics import shown
from fedmed.experiment.directory import RunDirectory
from fedmed.federation.members import make_plans, trained_parameters

_ROUND: Final = {
    "auroc": "validation/auroc",
    "train_loss": "training/loss",
    "epsilon_spent": "privacy/epsilon_spent",
}

Scalar = tuple[str, float, int]


class RunLog:
    """The log of one run in ``OUT/tensorboard/ARM/seed-N``.

    It is written anew where a run starts or goes on, so that no round is in it twice, and marked
    when whole: that of a finished run is left alone.
    """

    def __init__(self, out: Path, arm: str, seed: int, settings: Settings) -> None:
        self.run = RunDirectory(out / arm / f"seed-{seed}")
        self.folder = out / "tensorboard" / arm / f"seed-{seed}"
        self.settings = settings
        self._logged = -1
        self._writer: SummaryWriter | None = None
        if not self._whole:
            shutil.rmtree(self.folder, ignore_errors=True)

    def follow(self) -> None:
        """Log the rounds of the history that are not in the log yet."""
        if self._whole:
            return
        for scalar in self._rounds():
            self._add(scalar)
        if self._writer is not None:
            self._writer.flush()

    def finish(self) -> None:
        """Log the rest, then what the result and the statement say, and mark the log as whole."""
        if self._whole:
            return
        self.follow()
        result = files.read_json(self.run.path / "result.json")
        privacy = files.read_json(self.run.path / "privacy.json")
        for scalar in final_scalars(result, privacy):
            self._add(scalar)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        files.write_text(self._mark, f"{self.run.run}\n")

    @property
    def _mark(self) -> Path:
        return self.folder / "whole.txt"

    @property
    def _whole(self) -> bool:
        """Whether this very run (not an earlier one in the same folder) is logged already."""
        if not self._mark.exists() or not (self.run.path / "config.json").exists():
            return False
        return self._mark.read_text(encoding="utf-8").strip() == self.run.run

    def _rounds(self) -> Iterator[Scalar]:
        for entry in self.run.history():
            number = int(entry["round"])
            if number <= self._logged or entry.get("failed"):
                continue
            if self._logged < 0:
                yield from self._planned()
            self._logged = number
            for key, name in _ROUND.items():
                if entry.get(key) is not None:
                    yield name, float(entry[key]), number

    def _planned(self) -> Iterator[Scalar]:
        parameters = trained_parameters(
            self.settings.model,
            self.settings.data.image_size,
            self.settings.data.dimensions,
            self.settings.data.outputs,
        )
        plans = make_plans(self.settings).values()
        ratios = [plan.noise_to_signal(parameters) for plan in plans]
        known = [value for value in ratios if value is not None]
        if known:
            yield "privacy/noise_to_signal", max(known), 0

    def _add(self, scalar: Scalar) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder))
        name, value, step = scalar
        self._writer.add_scalar(name, value, step)


def final_scalars(result: dict[str, Any], privacy: dict[str, Any]) -> Iterator[Scalar]:
    """Test metrics, AUROC by group, gaps by sex and age, and what was spent, at the last round."""
    step = int(result["rounds"])
    metrics = result.get("metrics") or {}
    for key in shown("comparison"):
        if metrics.get(key) is not None:
            yield f"test/{key}", float(metrics[key]), step
    for attribute, rows in (metrics.get("groups") or {}).items():
        for row in rows:
            if row.get("auroc") is not None:
                yield f"groups/{attribute}/{row['group']}/auroc", float(row["auroc"]), step
    for attribute, gaps in (metrics.get("fairness") or {}).items():
        if gaps.get("auroc_gap") is not None:
            yield f"gaps/{attribute}/auroc", float(gaps["auroc_gap"]), step
    if privacy.get("epsilon") is not None:
        yield "privacy/epsilon", float(privacy["epsilon"]), step
    evaluation = privacy.get("evaluation") or {}
    if evaluation.get("epsilon") is not None:
        yield "privacy/epsilon_of_evaluation", float(evaluation["epsilon"]), step
