"""What a step of a run is, and what it is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from fedmed.config import Settings
from fedmed.coordinator.evaluation import Evaluator

Owners = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The run as a step finds it: after a round, or after the last with the selected models."""

    settings: Settings
    models: Owners  # by owner: "global", or each hospital that has its own
    evaluator: Evaluator | None  # of the server's held-out images, where it has any
    refused: frozenset[str] = frozenset()  # hospitals whose policy refused the plan
    predictions: pd.DataFrame | None = None  # of the held-out images, after the run


class Step:
    """Adds to what a run tells; one object for each run, which may keep what it made."""

    def after_round(self, context: Context) -> dict[str, Any]:
        """What it adds to the round's line in ``history.jsonl``."""
        return {}

    def after_run(self, context: Context) -> dict[str, Any]:
        """What it adds to ``result.json``."""
        return {}
