"""The strategy of a run: made as its settings say, at the initial model or at the checkpoint's."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from fedmed.base import files
from fedmed.base.errors import RunError, UserError
from fedmed.config import Settings
from fedmed.coordinator.averages import without_averages
from fedmed.coordinator.bounds import Bounds, planned_bounds
from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.history import History
from fedmed.coordinator.joining import Participants
from fedmed.coordinator.strategies import Averaging, FederationStrategy, LocalOnly, Start
from fedmed.coordinator.summed import CentralSum, SecureSum, make_secret
from fedmed.coordinator.summing import Arrays
from fedmed.experiment.directory import RunDirectory
from fedmed.federation import messages
from fedmed.federation.members import public_sizes
from fedmed.privacy.ledger.filtering import Charge
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.plans import SummedPlan, UpdatePlan, part
from fedmed.privacy.plans.making import noise_source

HALF = 0.5  # most of the weight of one hospital that declares its own size

Owners = dict[str, Arrays]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a strategy is made of; ``in_process``: hospitals train in this process.

    Such a grid holds what is sent in any case, so that nothing is saved by putting it on the disk.
    """

    settings: Settings
    directory: RunDirectory
    participants: Participants
    history: History
    in_process: bool

    @property
    def server_plan(self) -> UpdatePlan | None:
        """The plan of the noise that the server adds, one for all hospitals; None without any."""
        plan = part(next(iter(self.participants.plans.values())), UpdatePlan)
        return plan if plan is not None and plan.placement == "server" else None

    @property
    def summed_plan(self) -> SummedPlan | None:
        """The plan of a sum over all hospitals' patients; None for any other arm."""
        return part(next(iter(self.participants.plans.values())), SummedPlan)


def make_strategy(setup: Setup, model: nn.Module) -> FederationStrategy:
    """The strategy of the settings after the last whole round; the history is resumed with it.

    ``model`` is the initial one; a checkpoint has other arrays for it.
    """
    settings, directory, history = setup.settings, setup.directory, setup.history
    plan = setup.server_plan
    initial = messages.parameters_of(model)
    kept = directory.load_checkpoint()
    completed, selected, owners = kept or (0, 0, _initial(setup, initial))
    if kept is not None:
        history.resume(completed, selected)
    start = Start(
        settings.train,
        setup.participants.members,
        messages.encode_arrays(messages.frozen_of(model)),
        completed,
        run=directory.run,
        state={} if kept is None else without_averages(directory.server_state()),
        roster=setup.participants,
        wire=settings.run.wire,
        # The central arms clip every update in any case.
        bounds=_bounds(setup, initial) if plan is None and not setup.summed_plan else None,
        recall=None if setup.in_process else lambda: _recalled(directory, history),
    )
    if settings.train.scheme == "local-only":
        return LocalOnly(start, owners)
    if (summed := setup.summed_plan) is not None:
        return _summed(setup, start, owners["global"], summed)
    if plan is not None:
        return _central(setup, start, owners["global"], plan)
    return _averaging(setup, start, owners["global"])


def _central(setup: Setup, start: Start, model: Arrays, plan: UpdatePlan) -> CentralGaussian:
    return CentralGaussian(
        start,
        model,
        plan,
        _server_ledger(setup, plan),
        noise_source(setup.settings),
        clipping_norm=setup.directory.clipping_norm(),
    )


def _summed(setup: Setup, start: Start, model: Arrays, plan: SummedPlan) -> CentralSum | SecureSum:
    plans = setup.participants.plans
    if plan.placement == "shares":
        if not setup.settings.data.site_names:
            make_secret(setup.directory.path)
        return SecureSum(start, model, plan, plans, sorted(setup.participants.expected))
    ledger, source = _server_ledger(setup, plan), noise_source(setup.settings)
    return CentralSum(start, model, plan, plans, ledger, source)


def _averaging(setup: Setup, start: Start, model: Arrays) -> Averaging:
    settings = setup.settings
    deployed = bool(settings.data.site_names)
    sizes: Mapping[str, int] = setup.participants.sizes  # as declared, some of them later
    if not deployed:
        sizes = public_sizes(settings) if settings.train.weighting == "size" else {}
    share = settings.train.largest_share or (HALF if deployed else 1.0)
    trim = settings.train.trim if settings.train.scheme == "federated" else 0
    return Averaging(start, model, sizes, largest_share=share, trim=trim)


def _initial(setup: Setup, initial: Arrays) -> Owners:
    """The models of round 0 by owner: one, or without exchange one of each hospital."""
    if setup.settings.train.scheme != "local-only":
        return {"global": initial}
    # Also of those that come late. Copies: a checkpoint keeps every hospital's arrays apart.
    taking_part = [n for n in setup.participants.expected if n not in setup.participants.refused]
    return {name: {n: v.clone() for n, v in initial.items()} for name in taking_part}


def _bounds(setup: Setup, model: Arrays) -> Bounds:
    """How long updates may be; those of the rounds so far are known from the history."""
    settings, plans, lines = setup.settings, setup.participants.plans, setup.history.lines
    parameters = sum(value.numel() for value in model.values())
    return Bounds(
        settings.train.update_bound,
        lambda: planned_bounds(settings, plans, parameters),  # some join later
        spool=None if setup.in_process else setup.directory.path,
        norms=dict(lines[-1].get("update_norms", {})) if lines else {},
    )


def _recalled(directory: RunDirectory, history: History) -> Arrays:
    """The global model of the last whole round."""
    folder = directory.path
    try:
        kept = directory.load_checkpoint()
    except UserError as error:
        raise RunError(f"the checkpoint in {folder} cannot be read any more") from error
    if kept is None or kept[0] != history.last_round:
        raise RunError(
            f"the checkpoint in {folder} is gone or another process's; stop the other run "
            "with this run.out, and run again"
        )
    return kept[2]["global"]


def _server_ledger(setup: Setup, plan: UpdatePlan | SummedPlan) -> Ledger:
    """The server's own ledger, with this run's plan opened in it."""
    settings, directory = setup.settings, setup.directory
    ledger = Ledger(files.ledger_path(settings.run.ledgers, directory.path, None))
    ledger.open_plan(
        directory.run,
        Charge(
            account=f"server/{plan.unit}",
            unit=plan.unit,
            arm=settings.privacy.arm,
            relation=plan.facts(settings.train.scheme).relation,
            step=plan.step,
            steps=plan.steps,
            delta=plan.delta,
        ),
    )
    return ledger
