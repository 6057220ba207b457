"""One hospital: its shard, its plan, its ledger, and one round of training."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedmed import exchange, files, models, sites, timing
from fedmed.config import Data, Model, Settings
from fedmed.data.network import load_network, member_names
from fedmed.data.released import released_shard
from fedmed.data.shard import Shard
from fedmed.errors import RunError, UserError
from fedmed.exchange import Joining, Reply
from fedmed.features import featured
from fedmed.planning import make_member_plan, member_shard, patients_of
from fedmed.privacy.deciding import against_evaluation, decide, request_for
from fedmed.privacy.evaluating import evaluation_plan
from fedmed.privacy.filtering import OverBudget
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.plan import noise_source
from fedmed.privacy.plans import GradientPlan, ImagePlan, NoPrivacy, Plan, UpdatePlan, part
from fedmed.privacy.policy import SIMULATION, Policy, load_policy, read_policy
from fedmed.privacy.updates import BadUpdate, GaussianNoise, clip, finite
from fedmed.training import LocalResult, pick_device, train_plain, train_private

log = logging.getLogger("fedmed.hospital")


class Refusal(Exception):
    """A hospital's refusal: a code from ``fedmed.exchange.ERRORS`` and nothing else."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Site:
    """Where a site keeps its own policy and ledger: what its node was started with.

    Empty in a simulation, where the settings say (``run.policies``, ``run.ledgers``). What a site
    names here, no setting that comes with a request can replace.
    """

    policy: str = ""
    ledger: str = ""
    audit: str = ""  # the ledger's log; empty = beside it

    def rules(self, settings: Settings, name: str) -> Policy:
        """The policy that holds; raises :class:`UserError` for a file that cannot be used."""
        if self.policy:
            return read_policy(Path(self.policy))
        return load_policy(settings.run.policies, name)

    def book(self, settings: Settings, name: str, run_id: int) -> Ledger:
        """The ledger that pays."""
        if self.ledger:
            return Ledger(Path(self.ledger), Path(self.audit) if self.audit else None)
        if self.policy:
            raise UserError(
                "the node names a policy but no ledger, so that every run would have a fresh "
                "budget; start it with ledger as well"
            )
        folder = files.run_folder(settings.run.out, run_id)
        return Ledger(files.ledger_path(settings.run.ledgers, folder, name))


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
    ) -> Reply:
        """One round of ``run``: train, then clip and noise as the plan says.

        Under a plan of the hospital's own (``dp-sgd``, ``local-update``) the spend is reserved
        before the shard is read, and a request that was answered gets the stored bytes. Raises
        :class:`Refusal`.
        """
        if self.plan.payer != "hospital":
            update, result = self._update(round_number, parameters, frozen, "")
            if isinstance(self.plan, NoPrivacy):
                return Reply(self.name, update, result.loss, len(self.shard))
            return Reply(self.name, update)
        model = exchange.fingerprint(parameters)
        owner = self.ledger.path.stem
        charge = request_for(self.settings, owner, self.plan, self.policy, self.shard)
        with ledger_failures(self.ledger, self.name):
            stored = self.ledger.answered(run, round_number, model)
            if stored is not None:
                return Reply(self.name, exchange.unpack(stored))
            self.ledger.open_plan(run, charge, self.policy.limit)
            # No step beyond the plan, whatever the server asks: interrupted rounds count as taken.
            # Reproducible noise repeated for the same round and model is the same release again.
            entry = self.ledger.reserve(
                run,
                round_number,
                model,
                self.plan.steps_per_round,
                limit=self.policy.limit,
                repeatable=self.source.reproducible,
            )
        update, result = self._update(round_number, parameters, frozen, model)
        if part(self.plan, GradientPlan) and result.steps != self.plan.steps_per_round:
            raise Refusal("plan")  # what was not accounted is not released
        with ledger_failures(self.ledger, self.name):
            self.ledger.commit(entry, exchange.pack(update), cohort=self.shard.fingerprint())
        return Reply(self.name, update)

    def _update(
        self,
        round_number: int,
        parameters: dict[str, Tensor],
        frozen: dict[str, Tensor],
        model_hash: str,
    ) -> tuple[dict[str, Tensor], LocalResult]:
        """The change of the parameters by local training, clipped and noised as planned."""
        model = self.model_with({**frozen, **parameters})
        context = (self.name, round_number, model_hash)
        try:
            with timing.measured("training"):  # the mechanism included, as it is in DP-SGD's steps
                gradient, noised = part(self.plan, GradientPlan), part(self.plan, UpdatePlan)
                settings = self.settings
                shard = featured(
                    model,
                    self.shard,
                    settings.model.channels,
                    settings.train.augment,
                    settings.data.dimensions,
                )
                if gradient is not None:
                    result = train_private(
                        model,
                        shard,
                        settings,
                        gradient,
                        self.source,
                        context,
                        round_number,
                    )
                else:
                    result = train_plain(model, shard, settings, context[:2], round_number)
                after = models.trainable(model)
                update = {n: after[n].detach().cpu() - before for n, before in parameters.items()}
                if noised is not None and noised.adaptive is None:
                    update = clip(update, noised.clipping_norm)
                    if noised.placement == "hospital":
                        noise = GaussianNoise(noised.noise_standard_deviation)
                        update = noise.add(update, self.source.normals("update", *context))
                elif not finite(update):
                    raise Refusal("not-finite")
        except (BadUpdate, FloatingPointError) as error:
            raise Refusal("not-finite") from error
        except (RunError, UserError) as error:
            log.error("%s: %s", self.name, error)
            raise Refusal("plan") from error
        if result.dropped:  # private: for the hospital's own log, never for a message
            log.warning(
                "%s: round %d left out %d gradients that were not finite",
                self.name,
                round_number,
                result.dropped,
            )
        return update, result

    def model_with(self, arrays: dict[str, Tensor]) -> nn.Module:
        """The process's model with the server's state; :class:`Refusal` where it does not fit.

        All of that state: an array left out would still hold what an earlier round trained.
        """
        model = _model(self.settings.model, self.settings.data, self._device)
        if arrays.keys() != model.state_dict().keys():
            raise Refusal("mismatch")
        try:
            exchange.install(model, arrays)
        except ValueError as error:
            raise Refusal("mismatch") from error
        return model

    @property
    def _device(self) -> torch.device:
        try:
            return pick_device(self.settings.run.device)
        except RunError as error:
            log.error("%s", error)
            raise Refusal("plan") from error


@contextlib.contextmanager
def ledger_failures(ledger: Ledger, name: str) -> Iterator[None]:
    """A ledger that cannot be used is a refusal: without a record nothing is released."""
    try:
        yield
    except OverBudget as error:
        log.warning("%s: %s", name, error)
        with contextlib.suppress(RunError, UserError):
            ledger.note("refused", reason=str(error))
        raise Refusal("policy" if error.by_policy else "budget") from error
    except (RunError, UserError) as error:
        log.error("%s", error)
        raise Refusal("ledger") from error


def name_of(settings: Settings, index: int) -> str:
    """Name of the member with this partition id; raises :class:`Refusal` where data are missing."""
    try:
        names = member_names(settings)
    except UserError as error:
        log.error("data: %s", error)
        raise Refusal("data") from error
    if index >= len(names):
        raise Refusal("plan")
    return names[index]


def review(
    settings: Settings, index: int, run_id: int, site: Site | None = None, run: str = ""
) -> Joining:
    """Who this member is and whether its policy takes the plan of ``run``; no image is read.

    Raises :class:`Refusal` where no plan or no decision can be made.
    """
    site = site or Site()
    name, asked = name_of(settings, index), settings
    with refusing("plan", name):
        if settings.evaluation.train_metrics and (site.policy or site.ledger):
            raise UserError(
                "evaluation.train-metrics lets the server read training images, which is for "
                "simulations; remove it"
            )
        settings = sites.own_settings(asked, name)
        policy = site.rules(settings, name)
        plan = make_member_plan(settings, name, policy)
    with refusing("ledger", name):
        ledger = site.book(settings, name, run_id)
    patients = patients_of(settings, name)
    with refusing("ledger", name):
        decision = decide(settings, name, plan, policy, ledger, patients, run)
        if decision.accepts:
            against = ""
            if settings.evaluation.where != "server":
                against = sites.against_evaluation(asked, settings) or against_evaluation(
                    settings,
                    plan,
                    evaluation_plan(settings),
                    policy,
                    ledger,
                    run,
                    fixed_split=load_network(settings.data).fixed_split,
                )
            if against:
                log.warning("%s will not evaluate: %s", name, against)
                ledger.note("refused", reason=against, arm=settings.privacy.arm)
            return Joining(
                hospital=name,
                public_size=policy.public_size,
                evaluates=not against,
                own=sites.difference(asked, settings),
            )
        log.warning("%s refuses: %s", name, decision.reason)
        ledger.note("refused", reason=decision.reason, arm=settings.privacy.arm)
    return Joining(hospital=name, accepts=False, rounds=decision.rounds, epsilon=decision.epsilon)


@functools.lru_cache(maxsize=128)
def hospital_for(settings: Settings, index: int, run_id: int, site: Site | None = None) -> Hospital:
    """The member with this partition id, ready to train; kept by the process between rounds."""
    site = site or Site()
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    name = name_of(settings, index)
    with refusing("plan", name):
        settings = sites.own_settings(settings, name)
    source = noise_source(settings)
    with refusing("data", name):
        shard = member_shard(settings, name)
    with refusing("plan", name):
        policy = site.rules(settings, name)
        plan = make_member_plan(settings, name, policy)
    with refusing("ledger", name):
        ledger = site.book(settings, name, run_id)
        # The budget is checked with each reservation.
        if not decide(settings, name, plan, policy, ledger, len(shard.patients())).allowed:
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
    image = part(plan, ImagePlan)
    if image is not None:
        with ledger_failures(ledger, name), refusing("data", name):
            shard = released_shard(
                shard,
                image.mechanism,
                source,
                clip=settings.privacy.clip_released,
                before=lambda release, new: _pay(
                    ledger, settings, image, policy, shard, release, new
                ),
            )
    return Hospital(name, settings, shard, plan, ledger, source, policy)


def _pay(
    ledger: Ledger,
    settings: Settings,
    image: ImagePlan,
    policy: Policy,
    shard: Shard,
    release: str,
    new: str,
) -> None:
    """Write a release of images down before it is drawn; a known one costs nothing again.

    Images that are ``new`` to a known release cost once more: every image is then over-counted,
    and none is noised for nothing.
    """
    request = request_for(settings, ledger.path.stem, image, policy, shard)
    if request.step is None:
        # The policy names the arm: it is wanted without a guarantee for the account's unit.
        ledger.note("released without a guarantee", arm=settings.privacy.arm, release=release)
        return
    if ledger.steps(release):
        if not new:
            return
        release = f"{release}:{new}"
    request = replace(request, arm=image.mechanism.key)
    ledger.open_plan(release, request, policy.limit)
    ledger.reserve(release, 0, "", 1, limit=policy.limit, repeatable=True)


@contextlib.contextmanager
def refusing(code: str, name: str) -> Iterator[None]:
    """What goes wrong is logged here, at the hospital; only the code leaves it."""
    try:
        yield
    except (UserError, RunError) as error:
        log.error("%s: %s", name, error)
        raise Refusal(code) from error


@functools.lru_cache(maxsize=1)
def _model(model: Model, data: Data, device: torch.device) -> nn.Module:
    """The process's one model; every round overwrites its whole state with the server's."""
    fresh = models.without_weights(model, data.image_size)
    built = models.build(
        fresh, data.image_size, seed=0, dimensions=data.dimensions, outputs=data.outputs
    )
    return built.to(device)
