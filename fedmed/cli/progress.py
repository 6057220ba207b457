"""Showing how a comparison goes: bars on a terminal, one line per run elsewhere, or nothing."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fedmed.base.rounding import up, up_text
from fedmed.base.terminal import console, printable
from fedmed.experiment.file import Experiment
from fedmed.experiment.run import Progress
from fedmed.library.silent import Silent


class Lines(Silent):
    """One line per round and per finished run, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._present = ""

    def preparing(self, what: str) -> None:
        """Say what is being prepared."""
        self._console.print(printable(what))

    def note(self, what: str) -> None:
        """Say what the user should look at; above the bars, where there are any."""
        self._console.print(printable(f"note: {what}"), soft_wrap=True)

    def started(self, arm: str, seed: int, rounds: int) -> None:
        """Remember what the rounds belong to."""
        self._present = f"{arm}, seed {seed}"

    def round(self, number: int, rounds: int, auroc: float | None) -> None:
        """Round and validation AUROC."""
        shown = "" if auroc is None else f"  validation AUROC {auroc:.3f}"
        self._console.print(printable(f"{self._present}: round {number}/{rounds}{shown}"))

    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None:
        """Arm, seed, test AUROC, privacy and time."""
        self._console.print(printable(describe(arm, seed, result, cached)), soft_wrap=True)


class Live(Lines):
    """Bars: rounds of the present run with its AUROC so far, and all runs."""

    def __init__(self, console: Console, bars: Bars, total_rounds: int) -> None:
        super().__init__(console)
        self._bars = bars
        self._all = bars.add_task("all runs", total=total_rounds, note="")
        self._inner = bars.add_task("preparing", total=1, note="")
        self._before = 0

    def preparing(self, what: str) -> None:
        """Show what is being prepared."""
        self._bars.update(self._inner, description=printable(what), note="")

    def started(self, arm: str, seed: int, rounds: int) -> None:
        """Restart the inner bar."""
        self._bars.reset(
            self._inner, total=rounds, description=printable(f"{arm}, seed {seed}"), note=""
        )

    def round(self, number: int, rounds: int, auroc: float | None) -> None:
        """Move both bars."""
        note = "" if auroc is None else f"AUROC {auroc:.3f}"
        self._bars.update(self._inner, completed=number, note=note)
        self._bars.update(self._all, completed=self._before + number)

    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None:
        """Print the run's line above the bars."""
        self._before += int(result["rounds_planned"])
        self._bars.update(self._all, completed=self._before)
        super().finished(arm, seed, result, cached)


def describe(arm: str, seed: int, result: dict[str, Any], cached: bool) -> str:
    """One line about a finished run; epsilon never stands without its unit."""
    auroc = result["metrics"]["auroc"]
    shown = "not defined" if auroc is None else f"{auroc:.3f}"
    within = result["metrics"].get("within_hospital_auroc")
    shown += "" if within is None else f" ({within:.3f} within hospitals)"
    privacy = "no privacy claim"
    if result["epsilon"] is not None:
        privacy = f"epsilon {up_text(result['epsilon'])} per {result['unit']}"
        privacy += f", delta {up(result['delta'], 2):.2g}"
    when = "done before" if cached else f"{result['seconds']['total']:.1f} s"
    if result["rounds"] < result["rounds_planned"]:
        done = f"{result['rounds']} of {result['rounds_planned']} rounds"
        when += f"; {done}, an interruption cost the others"
    return f"{arm:<20} seed {seed}  test AUROC {shown}  {privacy}  ({when})"


@contextlib.contextmanager
def make_progress(experiment: Experiment, quiet: bool) -> Iterator[Progress]:
    """Bars where standard error is a terminal, lines elsewhere, nothing when quiet."""
    screen = console(stderr=True)
    if quiet:
        yield Silent()
    elif not screen.is_terminal:
        yield Lines(screen)
    else:
        total = sum(s.train.rounds for s in experiment.arms.values()) * len(experiment.seeds)
        columns = (
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]:<12}", markup=False),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=screen, transient=True) as bars:
            yield Live(screen, bars, total)
