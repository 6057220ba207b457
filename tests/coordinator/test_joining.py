"""Waiting for hospitals: who is missing is said while there is still time to start them."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.coordinator import joining
from fedmed.coordinator.joining import Participants


class Clock:
    """Time that passes only where somebody sleeps."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Silent:
    """A grid whose nodes take messages and answer none."""

    def __init__(self, nodes: int) -> None:
        self.nodes = list(range(1, nodes + 1))

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def push_messages(self, queries: list[int]) -> list[str]:
        return [f"query to {node}" for node in queries]

    def pull_messages(self, _: list[str]) -> list[Any]:
        return []


@pytest.mark.parametrize("deployed", [False, True])
def test_who_is_missing_is_said_after_ten_seconds_and_every_thirty(
    deployed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    monkeypatch.setattr(joining, "time", clock)
    monkeypatch.setattr(joining, "Message", lambda _, node, *__, **___: node)  # no run is here
    names = ["north", "south", "west"] if deployed else ["hospital-1", "hospital-2", "hospital-3"]
    settings = Settings().replaced(
        {
            "data.hospitals": 3,
            "train.join-timeout": 75.0,
            **(
                {"data.sites": ", ".join(names), "evaluation.where": "hospitals"}
                if deployed
                else {}
            ),
        }
    )
    directory: Any = SimpleNamespace(run="a-run", path=tmp_path)
    grid: Any = Silent(2)
    waiting = Participants(grid, settings, directory, {})
    waiting.members = {1: names[0]}
    with caplog.at_level(logging.WARNING, "fedmed.server"), pytest.raises(RunError):
        waiting.gather()
    told = [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()]
    assert told == [
        f"waiting for {names[1]}, {names[2]}, at most {left} s more; here: {names[0]}; "
        "nodes connected: 2 of 3"
        for left in (65, 35, 5)
    ]
    assert clock.now == pytest.approx(1075, abs=1)
