"""One hospital: its shard, its plan, its ledger, and one round of training."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmed import files, models, timing
from fedmed.config import Model, Settings
from fedmed.data.network import member_names, training_shard
from fedmed.data.released import released_shard
from fedmed.data.shard import Shard
from fedmed.errors import RunError, UserError
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.planning import units_in
from fedmed.privacy.ledger import Ledger, OverBudget
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.plan import (
    GradientPlan,
    ImagePlan,
    NoPrivacy,
    Plan,
    UpdatePlan,
    make_plan,
    noise_source,
)
from fedmed.privacy.updates import BadUpdate, GaussianNoise, clip, finite
from fedmed.training import LocalResult, pick_device, train_plain, train_private

log = logging.getLogger("fedmed.hospital")


class Refusal(Exception):
    """A hospital's refusal: a code from ``messages.ERRORS`` and nothing else."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Hospital:
    """Everything one member needs for a round; kept by its process between rounds."""

    name: str
    settings: Settings
    shard: Shard
    plan: Plan
    ledger: Ledger
    source: NoiseSource

    def train(
        self, round_number: int, parameters: dict[str, Tensor], frozen: dict[str, Tensor]
    ) -> Reply:
        """One round: train, then clip and noise as the plan says.

        Under a plan of the hospital's own (``dp-sgd``, ``local-update``) the spend is reserved
        before the shard is read, and a request that was answered gets the stored bytes. Raises
        :class:`Refusal`.
        """
        steps = _own_steps(self.plan)
        if steps == 0:
            update, result = self._update(round_number, parameters, frozen, "")
            if isinstance(self.plan, NoPrivacy):
                return Reply(self.name, update, result.loss, len(self.shard))
            return Reply(self.name, update)
        model = messages.fingerprint(parameters)
        with _ledger_failures():
            stored = self.ledger.answered(round_number, model)
            if stored is not None:
                return Reply(self.name, messages.unpack(stored))
            # No step beyond the plan, whatever the server asks: interrupted rounds count as taken.
            # Reproducible noise repeated for the same round and model is the same release again.
            entry = self.ledger.reserve(
                round_number,
                model,
                steps,
                limit=self.settings.train.rounds * steps,
                distinct=self.source.reproducible,
            )
        update, result = self._update(round_number, parameters, frozen, model)
        if isinstance(self.plan, GradientPlan) and result.steps != steps:
            raise Refusal("plan")  # what was not accounted is not released
        with _ledger_failures():
            self.ledger.commit(entry, messages.pack(update))
        return Reply(self.name, update)

    def _update(
        self,
        round_number: int,
        parameters: dict[str, Tensor],
        frozen: dict[str, Tensor],
        model_hash: str,
    ) -> tuple[dict[str, Tensor], LocalResult]:
        """The change of the parameters by local training, clipped and noised as planned."""
        model = _model(self.settings.model, self.settings.data.image_size, self._device)
        try:
            messages.install(model, {**frozen, **parameters})
        except ValueError as error:
            raise Refusal("mismatch") from error
        context = (self.name, round_number, model_hash)
        try:
            with timing.measured("training"):  # the mechanism included, as it is in DP-SGD's steps
                if isinstance(self.plan, GradientPlan):
                    result = train_private(
                        model, self.shard, self.settings, self.plan, self.source, context
                    )
                else:
                    result = train_plain(model, self.shard, self.settings, context[:2])
                after = models.trainable(model)
                update = {n: after[n].detach().cpu() - before for n, before in parameters.items()}
                if isinstance(self.plan, UpdatePlan):
                    update = clip(update, self.plan.clipping_norm)
                    if self.plan.placement == "hospital":
                        noise = GaussianNoise(self.plan.noise_standard_deviation)
                        update = noise.add(update, self.source.torch("update", *context))
                elif not finite(update):
                    raise Refusal("not-finite")
        except (BadUpdate, FloatingPointError) as error:
            raise Refusal("not-finite") from error
        except (RunError, UserError) as error:
            log.error("%s: %s", self.name, error)
            raise Refusal("plan") from error
        return update, result

    @property
    def _device(self) -> torch.device:
        try:
            return pick_device(self.settings.run.device)
        except RunError as error:
            log.error("%s", error)
            raise Refusal("plan") from error


@contextlib.contextmanager
def _ledger_failures() -> Iterator[None]:
    """A ledger that cannot be used is a refusal: without a record nothing is released."""
    try:
        yield
    except OverBudget as error:
        raise Refusal("budget") from error
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


@functools.lru_cache(maxsize=128)
def hospital_for(settings: Settings, index: int, run_id: int) -> Hospital:
    """The member with this partition id, ready to train; kept by the process between rounds."""
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    name = name_of(settings, index)
    source = noise_source(settings)
    try:
        shard = training_shard(settings.data, name)
    except UserError as error:
        log.error("%s: %s", name, error)
        raise Refusal("data") from error
    try:
        plan = make_plan(settings, units_in(shard, settings), name)
    except UserError as error:
        log.error("%s: %s", name, error)
        raise Refusal("plan") from error
    try:
        if isinstance(plan, ImagePlan):
            shard = released_shard(shard, plan.mechanism, source)
    except UserError as error:
        log.error("%s: %s", name, error)
        raise Refusal("data") from error
    ledger = Ledger(files.ledger_path(files.run_folder(settings.run.out, run_id), index))
    return Hospital(name, settings, shard, plan, ledger, source)


def _own_steps(plan: Plan) -> int:
    """Steps of a round that the hospital's own ledger pays for."""
    if isinstance(plan, GradientPlan):
        return plan.steps_per_round
    if isinstance(plan, UpdatePlan) and plan.placement == "hospital":
        return 1
    return 0


@functools.lru_cache(maxsize=1)
def _model(model: Model, image_size: int, device: torch.device) -> nn.Module:
    """The process's one model; every round overwrites its whole state with the server's."""
    return models.build(models.without_weights(model, image_size), image_size, seed=0).to(device)
