"""What a run does beside training and its own evaluation: a row for each step, in their order."""

from collections.abc import Sequence
from typing import Any

from fedmed.coordinator.steps.extra_sets import ExtraSets
from fedmed.coordinator.steps.step import Context, Step

__all__ = ["STEPS", "Context", "Step", "after_round", "after_run", "started"]

STEPS: tuple[type[Step], ...] = (ExtraSets,)


def started() -> list[Step]:
    """The steps of one run."""
    return [step() for step in STEPS]


def after_round(steps: Sequence[Step], context: Context) -> dict[str, Any]:
    """What all steps add to the line of a round."""
    return {key: value for step in steps for key, value in step.after_round(context).items()}


def after_run(steps: Sequence[Step], context: Context) -> dict[str, Any]:
    """What all steps add to the result."""
    return {key: value for step in steps for key, value in step.after_run(context).items()}
