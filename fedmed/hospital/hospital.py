"""One hospital: its shard, its plan, its ledger, and one round of training."""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedmed import models
from fedmed.base.errors import RunError, UserError
from fedmed.config import Data, Model, Settings
from fedmed.data.brightness import findings, tabled
from fedmed.data.form import Form
from fedmed.data.released import released_shard
from fedmed.data.remembering import remembered
from fedmed.data.shard import Shard
from fedmed.federation import exchange
from fedmed.federation.answers import Reply
from fedmed.federation.members import (
    check_patients_known,
    member_shard,
)
from fedmed.federation.sums import packed, packed_masked
from fedmed.hospital import secure_sums
from fedmed.hospital.refusals import Refusal, ledger_failures, refusing, summing
from fedmed.hospital.rounds import NotFinite, Round, rehearse
from fedmed.hospital.secure_sums import Sums
from fedmed.hospital.terms import Site, terms_for
from fedmed.privacy.ledger.deciding import decide, request_for
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import SIMULATION, Policy
from fedmed.privacy.mechanisms.grid import Vector
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.updates import finite
from fedmed.privacy.plans import (
    FeaturePlan,
    GradientPlan,
    ImagePlan,
    NoPrivacy,
    Plan,
    Released,
    SummedPlan,
    part,
)
from fedmed.privacy.plans.making import noise_source
from fedmed.training.local import LocalResult, pick_device
from fedmed.training.released_features import released_features

log = logging.getLogger("fedmed.hospital")


@dataclass(frozen=True)
class Hospital:
    """Everything one member needs for a round; kept by its process between rounds."""

    name: str
    settings: Settings
    shard: Shard
    plan: Plan
    ledger: Ledger
    source: NoiseSource
    policy: Policy = SIMULATION

    def train(
        self,
        run: str,
        round_number: int,
        parameters: dict[str, Tensor],
        frozen: dict[str, Tensor],
        sums: Sums | None = None,
    ) -> Reply:
        """One round of ``run``: train, then clip and noise as the plan says.

        Where a secure sum hides what leaves, ``sums`` has this member's side of it.

        Under a plan of the hospital's own (``dp-sgd``, ``local-update``) the spend is reserved
        before the shard is read, and a request that was answered gets the stored bytes. What goes
        wrong with the data after that changes neither the reply's form nor whether there is one;
        see :mod:`fedmed.hospital.rounds`. Raises :class:`Refusal`.
        """
        model = model_for(self.settings, parameters, frozen)
        summed = part(self.plan, SummedPlan)
        if summed is not None and summed.payer != "hospital":
            turn = Round(self.name, self.settings, self.plan, self.source, round_number)
            vector = self._step(turn, model, parameters, summed)
            return Reply(self.name, packed(vector))
        if self.plan.payer != "hospital":
            update, result = self._released(model)._update(model, round_number, parameters, "")
            if isinstance(self.plan, NoPrivacy):
                loss = result.loss if math.isfinite(result.loss or 0.0) else None
                return Reply(self.name, update, loss, len(self.shard))
            return Reply(self.name, update)
        model_hash = exchange.fingerprint(parameters)
        owner = self.ledger.path.stem
        charge = request_for(self.settings, owner, self.plan, self.policy, self.shard.fingerprint())
        with ledger_failures(self.ledger, self.name):
            stored = self.ledger.answered(run, round_number, model_hash)
            if stored is not None and (sums is None or sums.current(stored, run, self.name)):
                return Reply(self.name, exchange.unpack(stored))
            self.ledger.open_plan(run, charge, self.policy.limit)
            # No step beyond the plan, whatever the server asks: interrupted rounds count as taken.
            # Reproducible noise repeated for the same round and model is the same release again.
            entry = self.ledger.reserve(
                run,
                round_number,
                model_hash,
                self.plan.steps_per_round,
                limit=self.policy.limit,
                repeatable=self.source.reproducible,
            )
        if summed is not None:
            update = self._masked(model, run, round_number, parameters, model_hash, summed, sums)
            with ledger_failures(self.ledger, self.name):
                self.ledger.commit(entry, exchange.pack(update), cohort=self.shard.fingerprint())
            return Reply(self.name, update)
        update, result = self._update(model, round_number, parameters, model_hash)
        if part(self.plan, GradientPlan) and result.steps != self.plan.steps_per_round:
            raise Refusal("plan")  # what was not accounted is not released
        with ledger_failures(self.ledger, self.name):
            self.ledger.commit(entry, exchange.pack(update), cohort=self.shard.fingerprint())
        return Reply(self.name, update)

    def _released(self, model: nn.Module) -> "Hospital":
        """The hospital with what it released of its patients, where that needs ``model``.

        Paid for before it is drawn; what was released before by the same features is free.
        """
        plan = part(self.plan, FeaturePlan)
        if plan is None:
            return self
        with refusing("data", self.name):
            shard = released_features(
                model,
                self.shard,
                self.settings,
                plan,
                self.source,
                before=_payment(
                    self.ledger, self.settings, plan, self.policy, self.shard, self.name
                ),
                member=self.name,
            )
        return replace(self, shard=shard)

    def _masked(
        self,
        model: nn.Module,
        run: str,
        round_number: int,
        parameters: dict[str, Tensor],
        model_hash: str,
        plan: SummedPlan,
        sums: Sums | None,
    ) -> dict[str, Tensor]:
        """The step's noised sum under its masks."""
        if sums is None:
            raise Refusal("plan")
        turn = Round(self.name, self.settings, self.plan, self.source, round_number, model_hash)
        vector = self._step(turn, model, parameters, plan)
        with summing(self.name):
            terms = secure_sums.terms(run, sums.names(self.settings), plan, len(vector))
            with sums.opened(terms, self.name) as member:
                return packed_masked(member.mask(round_number, vector))

    def _step(
        self, turn: Round, model: nn.Module, parameters: dict[str, Tensor], plan: SummedPlan
    ) -> Vector:
        try:
            return turn.step(model, self.shard, parameters, plan)
        except (RunError, UserError) as error:
            log.error("%s: %s", self.name, error)
            raise Refusal("plan") from error

    def _update(
        self,
        model: nn.Module,
        round_number: int,
        parameters: dict[str, Tensor],
        model_hash: str,
    ) -> tuple[dict[str, Tensor], LocalResult]:
        """The round's update; what can be refused here depends on no data that is protected."""
        turn = Round(self.name, self.settings, self.plan, self.source, round_number, model_hash)
        try:
            return turn.update(model, self.shard, parameters)
        except (NotFinite, FloatingPointError) as error:
            raise Refusal("not-finite") from error
        except (RunError, UserError) as error:
            log.error("%s: %s", self.name, error)
            raise Refusal("plan") from error


def model_for(
    settings: Settings, parameters: dict[str, Tensor], frozen: dict[str, Tensor]
) -> nn.Module:
    """The process's model with the server's state; :class:`Refusal` where it does not fit.

    All of that state: an array left out would still hold what an earlier round trained. Decided by
    the state alone, before anything is paid or read.
    """
    arrays = {**frozen, **parameters}
    if not finite({n: v for n, v in arrays.items() if v.is_floating_point()}):
        raise Refusal("not-finite")
    try:
        device = pick_device(settings.run.device)
    except RunError as error:
        log.error("%s", error)
        raise Refusal("plan") from error
    model = _model(settings.model, settings.data, device)
    if arrays.keys() != model.state_dict().keys():
        raise Refusal("mismatch")
    try:
        exchange.install(model, arrays)
    except ValueError as error:
        raise Refusal("mismatch") from error
    return model


@remembered(maxsize=128)
def hospital_for(settings: Settings, index: int, run_id: int, site: Site | None = None) -> Hospital:
    """The member with this partition id, ready to train; kept by the process between rounds.

    Whatever depends on its data alone is refused with the one code ``data``.
    """
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    terms = terms_for(settings, index, run_id, site)
    name, settings, plan, policy, ledger = (
        terms.name, terms.settings, terms.plan, terms.policy, terms.ledger,
    )  # fmt: skip
    with refusing("ledger", name):
        # The budget is checked with each reservation.
        if not decide(settings, name, plan, policy, ledger, terms.patients).allowed:
            raise Refusal("policy")
        if ledger.path.exists():
            ledger.verify()
        if (
            policy is not SIMULATION
            and plan.payer != "hospital"
            and plan.unit in ("none", "hospital")
        ):
            # Nothing of the hospital's own protects what leaves: no row, but a line of the log.
            ledger.note("training without a guarantee of our own", arm=settings.privacy.arm)
    with refusing("plan", name):
        if settings.arm.protects:
            device = pick_device(settings.run.device)
            rehearse(settings, plan, _fresh(settings.model, settings.data, device))
    source = noise_source(settings)
    with refusing("data", name):
        shard = member_shard(settings, name)
        _warn_of_pictures(settings, name, shard)
        if policy.public_size:  # else the plan was made with this check, from the exact numbers
            check_patients_known(settings)
            _warn_of_delta(settings, name, shard)
    image = part(plan, ImagePlan)
    if image is not None:
        with refusing("data", name):
            shard = released_shard(
                shard,
                image.mechanism,
                source,
                clip=settings.privacy.clip_released,
                before=_payment(ledger, settings, image, policy, shard, name),
            )
    return Hospital(name, settings, shard, plan, ledger, source, policy)


def _warn_of_pictures(settings: Settings, name: str, shard: Shard) -> None:
    """Tell a deployed hospital's own log, and nobody else, what looks wrong with its pictures."""
    if settings.data.site_names and shard.measures is not None:
        table = tabled(shard.table["image"], [name] * len(shard), shard.measures)
        for line in findings(table, not Form.of(settings.data).volumes, named=False):
            log.warning("%s; fedmed data inspect names some", line)


def _warn_of_delta(settings: Settings, name: str, shard: Shard) -> None:
    """Tell the hospital's own log where its declared size makes delta a promise of little."""
    privacy = settings.privacy
    units = len(shard.patients()) if privacy.unit == "patient" else len(shard)
    if settings.arm.plan in ("gradient", "summed") and units and privacy.delta >= 1 / units:
        log.warning(
            "%s: privacy.delta = %g is not below one over the true number of %ss, so that the "
            "guarantee means little; declare a larger public-size in the policy",
            name,
            privacy.delta,
            privacy.unit,
        )


def _payment(
    ledger: Ledger, settings: Settings, plan: Released, policy: Policy, shard: Shard, name: str
) -> Callable[[str, str], None]:
    """What pays for a release of that name and what is new of it; raises :class:`Refusal`."""

    def before(release: str, new: str) -> None:
        with ledger_failures(ledger, name):  # not for a reason of the data's
            _pay(ledger, settings, plan, policy, shard, release, new)

    return before


def _pay(
    ledger: Ledger,
    settings: Settings,
    plan: Released,
    policy: Policy,
    shard: Shard,
    release: str,
    new: str,
) -> None:
    """Write a release down before it is drawn; a known one costs nothing again.

    Images, or patients, that are ``new`` to a known release cost once more: every one is then
    over-counted, and none is noised for nothing.
    """
    request = request_for(settings, ledger.path.stem, plan, policy, shard.fingerprint())
    if request.step is None:
        # The policy names the arm: it is wanted without a guarantee for the account's unit.
        ledger.note("released without a guarantee", arm=settings.privacy.arm, release=release)
        return
    last = ledger.last_reserved(release)
    if last is not None:
        if not new or last == (0, new):  # or paid for, and a crash came before it was drawn
            return
        release = f"{release}:{new}"
    request = replace(request, arm=plan.mechanism.key)
    ledger.open_plan(release, request, policy.limit)
    ledger.reserve(release, 0, new, 1, limit=policy.limit, repeatable=True)


@functools.lru_cache(maxsize=1)
def _model(model: Model, data: Data, device: torch.device) -> nn.Module:
    """The process's one model; every round overwrites its whole state with the server's."""
    return _fresh(model, data, device)


def _fresh(model: Model, data: Data, device: torch.device) -> nn.Module:
    """A model as the settings ask for, that no data have trained."""
    fresh = models.without_weights(model, data.image_size)
    built = models.build(
        fresh, data.image_size, seed=0, dimensions=data.dimensions, outputs=data.outputs
    )
    return built.to(device)
