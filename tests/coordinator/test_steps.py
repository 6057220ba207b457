"""Steps: what a run does beside training, and how it is told."""

from types import MappingProxyType
from typing import Any

import pytest
from support import make

from fedmed.coordinator import steps
from fedmed.coordinator.steps import Context, Step
from fedmed.coordinator.steps.extra_sets import ExtraSets

CONTEXT = Context(settings=make(), models=MappingProxyType({}), evaluator=None)


class Counting(Step):
    """Tells how many rounds it has seen."""

    def __init__(self) -> None:
        self.rounds = 0

    def after_round(self, context: Context) -> dict[str, Any]:
        self.rounds += 1
        return {"rounds_seen": self.rounds}

    def after_run(self, context: Context) -> dict[str, Any]:
        return {"rounds_seen": self.rounds, "last": type(self).__name__}


class Telling(Counting):
    """Another, after it."""

    def after_round(self, context: Context) -> dict[str, Any]:
        return {"also": self.rounds}


def test_a_step_keeps_what_it_made_for_one_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEPS", (Counting,))
    one, other = steps.started(), steps.started()
    assert steps.after_round(one, CONTEXT) == {"rounds_seen": 1}
    assert steps.after_round(one, CONTEXT) == {"rounds_seen": 2}
    assert steps.after_round(other, CONTEXT) == {"rounds_seen": 1}
    assert steps.after_run(one, CONTEXT) == {"rounds_seen": 2, "last": "Counting"}


def test_steps_add_in_the_order_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEPS", (Counting, Telling))
    made = steps.started()
    assert list(steps.after_round(made, CONTEXT).items()) == [("rounds_seen", 1), ("also", 0)]
    assert steps.after_run(made, CONTEXT)["last"] == "Telling"


def test_a_step_adds_nothing_unless_it_says_so() -> None:
    assert (Step().after_round(CONTEXT), Step().after_run(CONTEXT)) == ({}, {})


def test_extra_sets_add_nothing_at_a_server_without_images() -> None:
    asked = make(evaluation={"curves": True, "train-metrics": True})
    context = Context(settings=asked, models={}, evaluator=None)
    assert ExtraSets in steps.STEPS
    assert ExtraSets().after_round(context) == ExtraSets().after_run(context) == {}
