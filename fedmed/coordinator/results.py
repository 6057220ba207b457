"""The files that end a run: predictions, statement, model, result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fedmed.base import files, machine, timing
from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.coordinator import histograms
from fedmed.coordinator.evaluation import Evaluator, initial_model
from fedmed.coordinator.histograms import Collected
from fedmed.coordinator.steps import Context, Step, after_run
from fedmed.coordinator.summing import Arrays
from fedmed.data.network import load_network
from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.tables import predictions as predictions_table
from fedmed.experiment.directory import RunDirectory, save_arrays
from fedmed.federation import messages
from fedmed.federation.members import trained_parameters
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.plans import Plan
from fedmed.privacy.plans.evaluation import evaluation_plan, ledger_run
from fedmed.privacy.plans.making import noise_source
from fedmed.privacy.statement.contents import statement
from fedmed.privacy.statement.evaluation import EvaluationRecord, evaluation_record
from fedmed.privacy.statement.figures import Spend


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What training left: the selected model(s) by owner, and how it went."""

    name: str
    owners: Mapping[str, Arrays]
    rounds: int
    selected_round: int
    resumed_from_round: int
    answered: Mapping[str, int]
    refused: Mapping[str, str]
    seconds: float
    arms: Mapping[str, str] = field(default_factory=dict)  # of hospitals with one of their own
    collected: Collected | None = None  # what hospitals sent for a federated evaluation


def write_results(
    settings: Settings,
    directory: RunDirectory,
    plans: Mapping[str, Plan],
    evaluator: Evaluator | None,
    steps: Sequence[Step],
    outcome: Outcome,
) -> dict[str, Any]:
    """Write everything and return the result; ``result.json`` comes last and ends the run.

    Without an ``evaluator`` (the server has no images) the metrics are those of the hospitals'
    histograms, and there is no table of predictions.

    Raises :class:`RunError` where a member took more private steps than its plan accounts for.
    """
    path = directory.path
    metrics = _metrics(settings, path, evaluator, steps, outcome)
    privacy = _statement(settings, directory, plans, outcome)
    files.write_json(path / "privacy.json", privacy)
    model = initial_model(settings) if evaluator is None else evaluator.model
    frozen = messages.frozen_of(model)
    save_arrays(path / "model.safetensors", {**_arrays(outcome.owners), **frozen})
    seconds = _seconds(outcome)
    own = None if evaluator is None else _each_on_everything(evaluator, outcome.owners)
    result: dict[str, Any] = {
        "name": outcome.name,
        "arm": settings.privacy.arm,
        "scheme": settings.train.scheme,
        "seed": settings.run.seed,
        "epsilon": privacy["epsilon"],
        "delta": privacy["delta"],
        "unit": privacy["unit"],
        "trust": privacy["trust"],
        "rounds": outcome.rounds,
        "rounds_planned": settings.train.rounds,
        "refused": list(outcome.refused),
        "resumed_from_round": outcome.resumed_from_round,
        "selected_round": outcome.selected_round,
        **metrics,
        "hospital_auroc": own,
        "seconds": seconds,
        "peak_memory_bytes": machine.peak_memory(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        **_cohort(settings),
    }
    files.write_json(path / "result.json", result)
    # What a hostile hospital did may be seen at the end alone.
    directory.drop_checkpoint(earlier=not settings.data.site_names)
    return result


def _metrics(
    settings: Settings,
    path: Path,
    evaluator: Evaluator | None,
    steps: Sequence[Step],
    outcome: Outcome,
) -> dict[str, Any]:
    """Metrics of the server's table, of the hospitals' histograms, and what steps add to them."""
    metrics = predictions = None
    if evaluator is not None:
        predictions = evaluator.predictions(outcome.owners)
        predictions_table.write(predictions, path / "predictions.parquet")
        metrics = _evaluated(settings, predictions)
    added = after_run(
        steps,
        Context(
            settings=settings,
            models=outcome.owners,
            evaluator=evaluator,
            refused=frozenset(outcome.refused),
            predictions=predictions,
        ),
    )
    if outcome.collected is None:
        return {"metrics": metrics, **added}
    pooled = histograms.pooled_metrics(settings, outcome.collected)
    if metrics is None:
        return {"metrics": pooled, **added}
    return {"metrics": metrics, "federated_evaluation": pooled, **added}


def _statement(
    settings: Settings, directory: RunDirectory, plans: Mapping[str, Plan], outcome: Outcome
) -> dict[str, Any]:
    """The content of ``privacy.json``, from what the ledgers show."""
    collected, data = outcome.collected, settings.data
    return statement(
        settings,
        _spends(settings, directory, plans, outcome),
        outcome.name,
        noise_source(settings),
        refused=list(outcome.refused),
        parameters=trained_parameters(
            settings.model, data.image_size, data.dimensions, data.outputs
        ),
        evaluation=None if collected is None else _released(settings, directory, collected),
    )


def _seconds(outcome: Outcome) -> dict[str, float | None]:
    """Of the run by purpose, where that is known.

    Hospitals in other processes never tell their times, and an earlier session's are gone.
    """
    training, evaluation = timing.spent("training"), timing.spent("evaluation")
    known = training > 0 and not outcome.resumed_from_round
    return {
        "total": round(outcome.seconds, 3),
        "training": round(training, 3) if known else None,
        "evaluation": round(evaluation, 3) if known else None,
        "other": round(outcome.seconds - training - evaluation, 3) if known else None,
    }


def _cohort(settings: Settings) -> dict[str, Any]:
    """The cohort's name; the server of a deployed federation knows the hospitals' names alone."""
    if settings.data.site_names:
        return {"synthetic": False, "cohort": f"of {', '.join(settings.data.site_names)}"}
    cohort = load_network(settings.data).cohort
    return {"synthetic": cohort.synthetic, "cohort": cohort.name}


def _evaluated(settings: Settings, predictions: pd.DataFrame) -> dict[str, Any]:
    """Metrics of a table; evaluation.specificity and .resamples are those of its numbers."""
    given = settings.evaluation
    return evaluate(
        predictions,
        resamples=given.resamples,
        specificity=given.specificity,
        redraw_threshold=given.redraw_threshold,
    )


def _released(
    settings: Settings, directory: RunDirectory, collected: Collected
) -> EvaluationRecord:
    """What the statement says of the histograms: a hospital that reserved has paid."""
    paid = [*collected.counts]
    if evaluation_plan(settings) is not None:
        for member in collected.missing:
            path = files.ledger_path(settings.run.ledgers, directory.path, member)
            # A crash after the reservation: the noise may have been seen.
            if Ledger(path).steps(ledger_run(directory.run)):
                paid.append(member)
    return evaluation_record(
        settings,
        collected.spec,
        noise_source(settings),
        hospitals=sorted(paid, key=lambda name: (len(name), name)),
        missing=collected.missing,
    )


def _arrays(owners: Mapping[str, Arrays]) -> Arrays:
    """One flat set of arrays; with several owners each name starts with its owner's."""
    several = len(owners) > 1
    return {
        f"{owner}/{name}" if several else name: value.contiguous()
        for owner, arrays in owners.items()
        for name, value in arrays.items()
    }


def _each_on_everything(
    evaluator: Evaluator, owners: Mapping[str, Arrays]
) -> dict[str, float | None] | None:
    """Test AUROC of every hospital's own model on the whole test cohort (local-only)."""
    if len(owners) == 1:
        return None
    return {owner: evaluator.test_auroc(arrays) for owner, arrays in owners.items()}


def _spends(
    settings: Settings, directory: RunDirectory, plans: Mapping[str, Plan], outcome: Outcome
) -> dict[str, Spend]:
    """What every member really took, read from the ledgers of this simulation.

    A ledger that shows less than the rounds its owner answered is not at hand or was tampered
    with: the whole plan is charged, which is the most that a hospital lets itself be asked.
    Hospitals that refused are left out.
    """
    spends = {}
    for member, plan in plans.items():
        taken = _taken(settings, directory, member, plan)
        if member in outcome.refused and (plan.payer != "hospital" or not taken):
            continue  # a resumed run may have been refused after rounds that were paid for
        if plan.payer != "nobody":
            if taken > plan.steps:
                raise RunError(
                    f"{member} took {taken} private steps but {plan.steps} were accounted"
                )
            rounds = outcome.rounds if plan.payer == "server" else outcome.answered[member]
            known = _ledger(settings, directory, member, plan).path.exists()
            if taken < rounds * plan.steps_per_round or (outcome.rounds and not known):
                taken = plan.steps
        spends[member] = Spend(plan, taken, outcome.arms.get(member, ""))
    return spends


def _taken(settings: Settings, directory: RunDirectory, member: str, plan: Plan) -> int:
    if plan.payer == "nobody":
        return plan.steps  # none, or one: every image is noised once, see fedmed/data/released.py
    return _ledger(settings, directory, member, plan).steps(directory.run)


def _ledger(settings: Settings, directory: RunDirectory, member: str, plan: Plan) -> Ledger:
    owner = None if plan.payer == "server" else member
    return Ledger(files.ledger_path(settings.run.ledgers, directory.path, owner))
