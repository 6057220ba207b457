"""The rounds of one run so far: a line each, which of them is selected, and who answered."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fedmed.coordinator.strategies import RoundReport
from fedmed.experiment.directory import RunDirectory

Line = dict[str, Any]


@dataclass
class History:
    """What ``history.jsonl`` holds; ``selected`` is the round whose model the run ends with.

    ``selection`` is ``train.selection``. Empty until a run that was interrupted is resumed.
    """

    directory: RunDirectory
    selection: str
    lines: list[Line] = field(default_factory=list)
    selected: int = 0
    _round_started: float = field(default_factory=time.perf_counter)

    @property
    def last_round(self) -> int:
        """The last whole round; 0 before the first."""
        done: int = self.lines[-1]["round"] if self.lines else 0
        return done

    @property
    def seconds(self) -> float:
        """Of all rounds so far, those before an interruption as well."""
        total: float = sum(line["seconds"] for line in self.lines)
        return total

    def resume(self, completed: int, selected: int) -> None:
        """Go on after the checkpoint's round: what the file says beyond it is dropped."""
        self.lines = [line for line in self.directory.history() if line["round"] <= completed]
        self.selected = selected

    def begin(self) -> None:
        """The next round starts now."""
        self._round_started = time.perf_counter()

    def select(self, round_number: int, auroc: float | None) -> bool:
        """Select this round where it should be; whether its model has to be kept for that."""
        if self.selection == "last":
            self.selected = round_number
            return False
        before = next((h["auroc"] for h in self.lines if h["round"] == self.selected), None)
        # Where AUROC is not defined nothing can be compared: the later round stands.
        better = auroc is None or before is None or auroc > before
        if better:
            self.selected = round_number
        return better

    def lap(self) -> float:
        """Seconds of the round that ends here; the next begins."""
        before, self._round_started = self._round_started, time.perf_counter()
        return round(self._round_started - before, 4)

    def add(self, line: Line) -> None:
        """Write a whole round's line."""
        self.lines.append(line)
        self.directory.write_history(self.lines)

    def write_failure(self, report: RoundReport) -> None:
        """Write beside the whole rounds that the next one failed."""
        failure = {
            "round": self.last_round + 1,
            "auroc": None,
            "seconds": self.lap(),
            "hospitals": report.hospitals,
            "failures": report.failures,
            "train_loss": None,
            "failed": True,
        }
        self.directory.write_history([*self.lines, failure])

    def answered(self, names: Iterable[str], refused: Iterable[str]) -> dict[str, int]:
        """Rounds in which each hospital answered: the least that its ledger must show."""
        none = {*refused}
        rounds = [line for line in self.lines if line["round"] > 0]
        failed = [{failure["hospital"] for failure in line["failures"]} for line in rounds]
        return {
            name: 0 if name in none else sum(name not in those for those in failed)
            for name in names
        }
