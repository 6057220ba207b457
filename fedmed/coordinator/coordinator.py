"""One run of one arm, from the first message to the last file."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from fedmed.base import files, timing
from fedmed.base.errors import RunError
from fedmed.base.holding import held
from fedmed.config import Settings
from fedmed.coordinator import histograms, steps
from fedmed.coordinator.averages import RoundAverages
from fedmed.coordinator.bounds import believed
from fedmed.coordinator.evaluation import Evaluator, initial_model
from fedmed.coordinator.histograms import Collected
from fedmed.coordinator.history import History
from fedmed.coordinator.joining import Participants
from fedmed.coordinator.results import Outcome, write_results
from fedmed.coordinator.starting import Setup, make_strategy
from fedmed.coordinator.steps import Context, Step
from fedmed.coordinator.strategies import BudgetSpent, FederationStrategy
from fedmed.coordinator.summing import Arrays
from fedmed.data.network import member_names
from fedmed.experiment.directory import RunDirectory
from fedmed.federation.inline import InlineGrid
from fedmed.federation.members import epsilon_after, make_plans
from fedmed.federation.streaming import StreamingGrid
from fedmed.site import own_settings

log = logging.getLogger("fedmed.server")

OnRound = Callable[[int, int, float | None], None]


def coordinate(
    grid: Grid,
    settings: Settings,
    folder: Path,
    *,
    name: str | None = None,
    on_round: OnRound = lambda number, rounds, auroc: None,
) -> dict[str, Any]:
    """Run one arm over ``grid`` and return its result; a finished run is returned as it is.

    ``folder`` becomes the run directory (or is resumed from its last whole round); ``name`` is the
    arm's name in its comparison; ``on_round`` hears of every evaluated round. Raises
    :class:`UserError` for a mistake, or where another process runs in the folder, and
    :class:`RunError` where the run cannot go on; the run directory then says why and how to.
    """
    name = name or _name(settings)
    with held(folder):
        directory = RunDirectory(folder)
        interrupted = (folder / "config.json").is_file()
        directory.open(settings, name)
        if directory.finished:
            result: dict[str, Any] = files.read_json(folder / "result.json")
            return result
        directory.start()
        participants = Participants(grid, settings, directory, {})
        history = History(directory, settings.train.selection)
        try:
            return _run(grid, participants, history, name, on_round, interrupted)
        except RunError as error:
            directory.stop(
                str(error),
                history.last_round,
                present=list(participants.members.values()),
                absent=participants.absent,
                refused=list(participants.refused),
            )
            raise


def _name(settings: Settings) -> str:
    scheme = settings.train.scheme
    return settings.privacy.arm if scheme == "federated" else scheme


def _run(
    grid: Grid,
    participants: Participants,
    history: History,
    name: str,
    on_round: OnRound,
    interrupted: bool,
) -> dict[str, Any]:
    """Gather the hospitals, train, and write what came of it."""
    timing.reset()
    started = time.perf_counter()
    settings, directory = participants.settings, participants.directory
    if settings.data.site_names:
        own_settings.check_coordinator(settings)
    else:
        participants.plans.update(make_plans(settings))
        own_settings.check_sites(settings, member_names(settings))
    participants.gather()
    setup = Setup(
        settings=settings,
        directory=directory,
        participants=participants,
        history=history,
        in_process=isinstance(grid, InlineGrid),
    )
    evaluator, strategy = _prepared(setup)
    averages = RoundAverages(settings.train.round_average, directory.server_state())
    run = _Run(grid, setup, evaluator, strategy, averages, steps.started(), on_round, interrupted)
    earlier = history.seconds
    run.train()
    owners = run.selected()
    collected = None if settings.evaluation.where == "server" else run.collect(owners)
    refused = participants.refused
    outcome = Outcome(
        name=name,
        owners=owners,
        rounds=history.last_round,
        selected_round=history.selected,
        resumed_from_round=strategy.completed,
        answered=history.answered(member_names(settings), refused),
        refused=refused,
        arms=participants.arms,
        seconds=time.perf_counter() - started + earlier,
        collected=collected,
    )
    return write_results(settings, directory, participants.plans, evaluator, run.steps, outcome)


def _prepared(setup: Setup) -> tuple[Evaluator | None, FederationStrategy]:
    """The evaluator, where the server has images, and the strategy; both from the initial model."""
    model = initial_model(setup.settings)  # the evaluator keeps it, or nobody
    evaluator = None
    if setup.settings.evaluation.where != "hospitals":
        evaluator = Evaluator.create(setup.settings, model)
    return evaluator, make_strategy(setup, model)


@dataclass(frozen=True)
class _Run:
    """A run whose hospitals are there: trains round after round and keeps each whole one."""

    grid: Grid
    setup: Setup
    evaluator: Evaluator | None
    strategy: FederationStrategy
    averages: RoundAverages
    steps: list[Step]
    on_round: OnRound
    interrupted: bool  # and resumed

    def train(self) -> None:
        """All rounds that are left; ends early where a budget is spent."""
        train, strategy, history = self.setup.settings.train, self.strategy, self.setup.history
        history.begin()
        try:
            strategy.start(
                StreamingGrid(self.grid, strategy.again),
                ArrayRecord(),
                num_rounds=train.rounds - strategy.completed,
                timeout=train.timeout,
                evaluate_fn=lambda number, _: self._after_round(number),
            )
        except BudgetSpent:
            log.warning(
                "the privacy budget of an interrupted round was spent: the run ends after round %d",
                history.last_round,
            )
        except RunError:
            history.write_failure(strategy.report)
            raise

    def _after_round(self, number: int) -> MetricRecord | None:
        """Evaluate on validation, select, write the history line, keep the checkpoint."""
        strategy, history, directory = self.strategy, self.setup.history, self.setup.directory
        round_number, rounds = number + strategy.completed, self.setup.settings.train.rounds
        if number == 0 and strategy.completed:
            self.on_round(round_number, rounds, history.lines[-1]["auroc"])
            return None
        if round_number:
            self.averages.update(round_number, strategy.models())
        models = self.averages.after(round_number, strategy.models())
        auroc = None if self.evaluator is None else self.evaluator.validation_auroc(models)
        added = steps.after_round(self.steps, self._context(models))
        if history.select(round_number, auroc):
            kept = directory.selected(round_number)
            kept.save_checkpoint(round_number, models, round_number)
        line = {"round": round_number, "auroc": auroc, "seconds": history.lap()}
        # In this order: what the history says beyond the checkpoint is dropped on resume.
        history.add({**line, **self._told(round_number, added)})
        directory.keep_earlier()
        directory.save_checkpoint(
            round_number,
            strategy.models(),
            history.selected,
            strategy.clipping_norm,
            {**strategy.state(), **self.averages.state},
        )
        directory.keep_selected(history.selected)
        self.on_round(round_number, rounds, auroc)
        return None if auroc is None else MetricRecord({"AUROC": auroc})

    def _told(self, round_number: int, added: dict[str, Any]) -> dict[str, Any]:
        """What a round's line says beside its AUROC; ``added`` comes from steps."""
        report = self.strategy.report
        return {
            "hospitals": report.hospitals,
            "failures": report.failures,
            "train_loss": report.loss,
            "update_norms": report.norms,
            "cut": report.cut,
            **added,
            "bytes_sent": report.sent,
            "bytes_received": report.received,
            "epsilon_spent": self._epsilon_spent(round_number),
            **report.extra,
        }

    def _context(self, models: Mapping[str, Arrays]) -> Context:
        return Context(
            settings=self.setup.settings,
            models=models,
            evaluator=self.evaluator,
            refused=frozenset(self.setup.participants.refused),
        )

    def _epsilon_spent(self, round_number: int) -> float | None:
        """By the plans of those who take part; see :func:`epsilon_after`.

        None once the run was interrupted: the round that was cut short may have been paid for as
        well, so that the plans would tell less than the ledgers.
        """
        if self.interrupted:
            return None
        who = self.setup.participants
        taking_part = [plan for name, plan in who.plans.items() if name not in who.refused]
        return epsilon_after(self.setup.settings, taking_part, round_number)

    def selected(self) -> Mapping[str, Arrays]:
        """The model(s) that the run ends with, by owner."""
        history, last = self.setup.history, self.strategy.models()
        averages = self.averages.after(history.last_round, last)
        if self.setup.settings.train.selection == "last":
            return averages
        kept = self.setup.directory.selected(history.selected).load_checkpoint()
        return averages if kept is None else kept[2]

    def collect(self, owners: Mapping[str, Arrays]) -> Collected:
        """Histograms of the model(s) from every hospital that gives any."""
        settings, who = self.setup.settings, self.setup.participants
        sizes: dict[str, float] = {}  # a simulation's images are the server's to count
        if settings.data.site_names:
            sizes = believed(who.sizes, settings.train.update_bound)
        return histograms.collect(
            self.grid,
            settings,
            {node: name for node, name in who.members.items() if name not in who.silent},
            self.strategy.frozen,
            owners,
            self.setup.directory.run,
            sizes,
        )
