"""One run of one arm, from the first message to the last file."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from fedmed.base import files, timing
from fedmed.base.errors import RunError, UserError
from fedmed.base.holding import held
from fedmed.config import Settings
from fedmed.coordinator import histograms
from fedmed.coordinator.bounds import Bounds, believed, planned_bounds
from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.evaluation import Evaluator, initial_model
from fedmed.coordinator.extra_sets import Further
from fedmed.coordinator.joining import Roll
from fedmed.coordinator.results import Outcome, write_results
from fedmed.coordinator.strategies import Averaging, BudgetSpent, FederationStrategy, LocalOnly
from fedmed.coordinator.summing import Arrays
from fedmed.data.network import member_names
from fedmed.experiment.directory import RunDirectory
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.members import epsilon_after, make_plans, public_sizes
from fedmed.federation.streaming import StreamingGrid
from fedmed.privacy.ledger.filtering import Request
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.plans import Plan, UpdatePlan, part
from fedmed.privacy.plans.making import noise_source
from fedmed.site import own_settings

log = logging.getLogger("fedmed.server")

HALF = 0.5  # most of the weight of one hospital that declares its own size

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
    :class:`RunError` where the run cannot go on.
    """
    with held(folder):
        return _Coordinator(
            grid, settings, RunDirectory(folder), name or _name(settings), on_round
        ).run()


def _name(settings: Settings) -> str:
    scheme = settings.train.scheme
    return settings.privacy.arm if scheme == "federated" else scheme


@dataclass
class _Coordinator:
    grid: Grid
    settings: Settings
    directory: RunDirectory
    name: str
    on_round: OnRound
    history: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """The whole run; where it cannot go on, the run directory says why and how to."""
        self.interrupted = (self.directory.path / "config.json").is_file()
        self.directory.open(self.settings, self.name)
        if self.directory.finished:
            result: dict[str, Any] = files.read_json(self.directory.path / "result.json")
            return result
        self.directory.start()
        self.plans: dict[str, Plan] = {}
        self.roll = Roll(self.grid, self.settings, self.directory, self.plans)
        try:
            return self._run()
        except RunError as error:
            self.directory.stop(
                str(error),
                self.history[-1]["round"] if self.history else 0,
                present=list(self.roll.members.values()),
                absent=self.roll.absent,
                refused=list(self.roll.refused),
            )
            raise

    def _run(self) -> dict[str, Any]:
        timing.reset()
        started = time.perf_counter()
        if self.settings.data.site_names:
            own_settings.check_coordinator(self.settings)
        else:
            self.plans.update(make_plans(self.settings))
        self.roll.gather()
        model = initial_model(self.settings)
        self.evaluator: Evaluator | None = None
        if self.settings.evaluation.where != "hospitals":
            self.evaluator = Evaluator.create(self.settings, model)
        self.further: Further | None = None
        if self.evaluator is not None:
            self.further = Further(self.evaluator, frozenset(self.roll.refused))
        strategy = self._strategy(model)
        del model  # the evaluator has it, or nobody
        strategy.roster, strategy.wire = self.roll, self.settings.run.wire
        if not isinstance(strategy, CentralGaussian):  # which clips every update in any case
            strategy.bounds = self._bounds(strategy)
        if isinstance(strategy, Averaging) and not isinstance(self.grid, InlineGrid):
            strategy.recall = self._recall  # an inline grid holds what is sent in any case
        earlier = sum(h["seconds"] for h in self.history)
        self.round_started = time.perf_counter()
        try:
            strategy.start(
                StreamingGrid(self.grid, strategy.again),
                ArrayRecord(),
                num_rounds=self.settings.train.rounds - strategy.completed,
                timeout=self.settings.train.timeout,
                evaluate_fn=lambda number, _: self._after_round(number, strategy),
            )
        except BudgetSpent:
            log.warning(
                "the privacy budget of an interrupted round was spent: the run ends after round %d",
                self.history[-1]["round"] if self.history else 0,
            )
        except RunError:
            self._record_failure(strategy)
            raise
        owners = self._selected(strategy)
        collected = None
        if self.settings.evaluation.where != "server":
            collected = histograms.collect(
                self.grid,
                self.settings,
                {n: name for n, name in self.roll.members.items() if name not in self.roll.silent},
                strategy.frozen,
                owners,
                self.directory.run,
                self._believed_sizes(),
            )
        outcome = Outcome(
            name=self.name,
            owners=owners,
            rounds=self.history[-1]["round"],
            selected_round=self.best,
            resumed_from_round=strategy.completed,
            answered=self._answered(),
            refused=self.roll.refused,
            arms=self.roll.arms,
            seconds=time.perf_counter() - started + earlier,
            collected=collected,
        )
        return write_results(self.settings, self.directory, self.plans, self.further, outcome)

    def _strategy(self, model: torch.nn.Module) -> FederationStrategy:
        """The arm's strategy, at the initial model or at the checkpoint's."""
        settings, members = self.settings, self.roll.members
        frozen = messages.encode_arrays(messages.frozen_of(model))
        kept = self.directory.load_checkpoint()
        self.history = self.directory.history()
        self.best = 0
        initial = messages.parameters_of(model)
        owners: dict[str, Arrays] = {"global": initial}
        if settings.train.scheme == "local-only":
            # Copies: a checkpoint keeps every hospital's arrays apart.
            owners = {
                member: {n: v.clone() for n, v in initial.items()} for member in self._trained()
            }
        completed = 0
        if kept is not None:
            completed, self.best, owners = kept
        self.history = [h for h in self.history if h["round"] <= completed]
        if kept is None:
            self.history = []
        train, run = settings.train, self.directory.run
        state = {} if kept is None else self.directory.server_state()
        if train.scheme == "local-only":
            return LocalOnly(train, members, frozen, completed, owners, run=run, state=state)
        plan = part(next(iter(self.plans.values())), UpdatePlan)
        if plan is not None and plan.placement == "server":
            return CentralGaussian(
                train,
                members,
                frozen,
                completed,
                owners["global"],
                plan,
                self._central_ledger(plan),
                noise_source(settings),
                run=run,
                clipping_norm=self.directory.clipping_norm(),
                state=state,
            )
        sizes: Mapping[str, int] = self.roll.sizes  # a deployed federation's: those declared
        if not settings.data.site_names:
            sizes = public_sizes(settings) if train.weighting == "size" else {}
        return Averaging(
            train,
            members,
            frozen,
            completed,
            owners["global"],
            sizes,
            run=run,
            state=state,
            largest_share=train.largest_share or (HALF if settings.data.site_names else 1.0),
        )

    def _bounds(self, strategy: FederationStrategy) -> Bounds:
        """How long updates may be; those of the rounds so far are known from the history."""
        model = next(iter(strategy.models().values()))
        parameters = sum(value.numel() for value in model.values())
        return Bounds(
            self.settings.train.update_bound,
            lambda: planned_bounds(self.settings, self.plans, parameters),  # some join later
            spool=None if isinstance(self.grid, InlineGrid) else self.directory.path,
            norms=dict(self.history[-1].get("update_norms", {})) if self.history else {},
        )

    def _believed_sizes(self) -> dict[str, float]:
        """Of hospitals that declare their own; a simulation's images are the server's to count."""
        if not self.settings.data.site_names:
            return {}
        return believed(self.roll.sizes, self.settings.train.update_bound)

    def _recall(self) -> Arrays:
        """The global model of the last whole round."""
        folder = self.directory.path
        try:
            kept = self.directory.load_checkpoint()
        except UserError as error:
            raise RunError(f"the checkpoint in {folder} cannot be read any more") from error
        if kept is None or kept[0] != self.history[-1]["round"]:
            raise RunError(
                f"the checkpoint in {folder} is gone or another process's; stop the other run "
                "with this run.out, and run again"
            )
        return kept[2]["global"]

    def _central_ledger(self, plan: UpdatePlan) -> Ledger:
        """The server's own ledger, with this run's plan opened in it."""
        settings = self.settings
        path = files.ledger_path(settings.run.ledgers, self.directory.path, None)
        ledger = Ledger(path)
        ledger.open_plan(
            self.directory.run,
            Request(
                account="server/hospital",
                unit="hospital",
                arm=settings.privacy.arm,
                relation=plan.facts(settings.train.scheme).relation,
                step=plan.step,
                steps=plan.steps,
                delta=plan.delta,
            ),
        )
        return ledger

    def _after_round(self, number: int, strategy: FederationStrategy) -> MetricRecord | None:
        """Evaluate on validation, keep the checkpoint, then the history line."""
        round_number = number + strategy.completed
        if number == 0 and strategy.completed:
            self.on_round(round_number, self.settings.train.rounds, self.history[-1]["auroc"])
            return None
        models = strategy.models()
        auroc = None if self.evaluator is None else self.evaluator.validation_auroc(models)
        curves = None if self.further is None else self.further.curve(models)
        before = self._auroc_of(self.best)
        # Where AUROC is not defined nothing can be compared: the later round stands.
        better = auroc is None or before is None or auroc > before
        if self.settings.train.selection == "last":
            self.best = round_number
        elif better:
            self.best = round_number
            self._save_selected(models)
        now = time.perf_counter()
        self.history.append(
            {
                "round": round_number,
                "auroc": auroc,
                "seconds": round(now - self.round_started, 4),
                "hospitals": strategy.report.hospitals,
                "failures": strategy.report.failures,
                "train_loss": strategy.report.loss,
                "update_norms": strategy.report.norms,
                "cut": strategy.report.cut,
                **({} if curves is None else {"curves": curves}),
                "bytes_sent": strategy.report.sent,
                "bytes_received": strategy.report.received,
                "epsilon_spent": self._epsilon_spent(round_number),
                **strategy.report.extra,
            }
        )
        self.round_started = now
        # In this order: what the history says beyond the checkpoint is dropped on resume.
        self.directory.write_history(self.history)
        self.directory.keep_earlier()
        self.directory.save_checkpoint(
            round_number,
            models,
            self.best,
            getattr(strategy, "clipping_norm", None),
            strategy.state(),
        )
        self.directory.keep_selected(self.best)
        self.on_round(round_number, self.settings.train.rounds, auroc)
        return None if auroc is None else MetricRecord({"AUROC": auroc})

    def _trained(self) -> list[str]:
        """Whose models are trained where each has its own: also of those that come late."""
        return [name for name in self.roll.expected if name not in self.roll.refused]

    def _epsilon_spent(self, round_number: int) -> float | None:
        """By the plans of those who take part; see :func:`epsilon_after`.

        None once the run was interrupted: the round that was cut short may have been paid for as
        well, so that the plans would tell less than the ledgers.
        """
        if self.interrupted:
            return None
        taking_part = [p for name, p in self.plans.items() if name not in self.roll.refused]
        return epsilon_after(self.settings, taking_part, round_number)

    def _auroc_of(self, round_number: int) -> float | None:
        values = [h["auroc"] for h in self.history if h["round"] == round_number]
        return values[0] if values else None

    def _save_selected(self, models: Mapping[str, Arrays]) -> None:
        self.directory.selected(self.best).save_checkpoint(self.best, models, self.best)

    def _answered(self) -> dict[str, int]:
        """Rounds in which each member answered: the least that its ledger must show."""
        rounds = [h for h in self.history if h["round"] > 0]
        failed = [{f["hospital"] for f in h["failures"]} for h in rounds]
        return {
            m: 0 if m in self.roll.refused else sum(m not in f for f in failed)
            for m in member_names(self.settings)
        }

    def _selected(self, strategy: FederationStrategy) -> Mapping[str, Arrays]:
        if self.settings.train.selection == "last":
            return strategy.models()
        kept = self.directory.selected(self.best).load_checkpoint()
        return strategy.models() if kept is None else kept[2]

    def _record_failure(self, strategy: FederationStrategy) -> None:
        done = self.history[-1]["round"] if self.history else 0
        failure = {
            "round": done + 1,
            "auroc": None,
            "seconds": round(time.perf_counter() - self.round_started, 4),
            "hospitals": strategy.report.hospitals,
            "failures": strategy.report.failures,
            "train_loss": None,
            "failed": True,
        }
        self.directory.write_history([*self.history, failure])
