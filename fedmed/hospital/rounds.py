"""What one round makes of a model: an update that leaves in one form, whatever the data are like.

Under an arm that protects anything, whether one patient's image overflows a network must not show.
What is not finite is dropped where it arises or becomes zero, noise is added all the same, and what
went wrong is told to the hospital's own log alone.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedmed import models
from fedmed.base import timing
from fedmed.base.errors import RunError, UserError
from fedmed.config import Settings
from fedmed.data.form import Form
from fedmed.data.shard import Shard
from fedmed.privacy.mechanisms.grid import Vector
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.updates import GaussianNoise, Update, clip, finite
from fedmed.privacy.plans import (
    FeaturePlan,
    GradientPlan,
    ImagePlan,
    Plan,
    SummedPlan,
    UnnoisedPlan,
    UpdatePlan,
    part,
)
from fedmed.training.cached_features import featured
from fedmed.training.local import (
    LocalResult,
    check_engine,
    clipped_sum,
    train_plain,
    train_private,
    train_unnoised,
)
from fedmed.training.released_features import fit_released

log = logging.getLogger("fedmed.hospital")


class NotFinite(Exception):
    """An update with NaN or infinite numbers, where nothing is protected and it may be said."""


@dataclass(frozen=True)
class Round:
    """One hospital's round: who trains, under which plan, with whose noise."""

    name: str
    settings: Settings
    plan: Plan
    source: NoiseSource
    number: int
    model_hash: str = ""  # of a round that the hospital itself pays for

    @property
    def protects(self) -> bool:
        """Whether the arm promises anything, so that no failure may be told."""
        return self.settings.arm.protects

    def update(
        self, model: nn.Module, shard: Shard, parameters: dict[str, Tensor]
    ) -> tuple[Update, LocalResult]:
        """The change of ``parameters`` by training ``model``, clipped and noised as planned.

        Under an arm that protects anything it raises nothing that depends on ``shard``: the engine
        checks the server's weights before, and a round that fails after that is one of a hospital
        without patients. Else :class:`NotFinite`, or whatever training raises.
        """
        if self.protects:
            self._check(model)
        with timing.measured("training"):  # the mechanism included, as it is in DP-SGD's steps
            try:
                update, result = self._change(model, shard, parameters)
            except Exception as error:
                if not self.protects:
                    raise
                # The text of an exception can hold data: its kind alone is logged.
                log.error("%s: round %d failed: %s", self.name, self.number, type(error).__name__)
                update, result = self._without_patients(model, parameters)
            if not finite(update):
                if not self.protects:
                    raise NotFinite
                log.warning("%s: round %d: an update of no numbers is 0", self.name, self.number)
                update = _zeros(parameters)
            update = self._noised(update)
        if result.dropped:  # private: for the hospital's own log, never for a message
            log.warning(
                "%s: round %d left out %d gradients that were not finite",
                self.name,
                self.number,
                result.dropped,
            )
        return update, result

    def step(
        self, model: nn.Module, shard: Shard, parameters: dict[str, Tensor], plan: SummedPlan
    ) -> Vector:
        """One step's clipped sum on the plan's grid, with a share of the noise where it has one.

        As :meth:`update`, it raises nothing that depends on ``shard``: what goes wrong with the
        data is a sum of nobody's gradients, noised all the same.
        """
        self._check(model)
        grid = plan.grid(sum(value.numel() for value in parameters.values()))
        context = (self.name, self.number, self.model_hash)
        with timing.measured("training"):
            try:
                shard = self._featured(model, shard)
                sums, result = clipped_sum(model, shard, self.settings, plan, self.source, context)
            except Exception as error:
                log.error("%s: step %d failed: %s", self.name, self.number, type(error).__name__)
                sums, result = _zeros(parameters), LocalResult(0, None)
            if not finite(sums):
                log.warning("%s: step %d: a sum of no numbers is 0", self.name, self.number)
                sums = _zeros(parameters)
            flat = torch.cat([sums[name].detach().cpu().float().flatten() for name in parameters])
            vector = grid.rounded(flat.numpy())
            if plan.placement == "shares":
                vector = grid.noised(vector, self.source.key("share", *context))
        if result.dropped:  # private: for the hospital's own log, never for a message
            text = "%s: step %d left out %d gradients that were not finite"
            log.warning(text, self.name, self.number, result.dropped)
        return vector

    def _change(
        self, model: nn.Module, shard: Shard, parameters: dict[str, Tensor]
    ) -> tuple[Update, LocalResult]:
        """What local training changes: under DP-SGD noised in every step, else as it is."""
        settings, gradient = self.settings, part(self.plan, GradientPlan)
        unnoised = part(self.plan, UnnoisedPlan)
        features = part(self.plan, FeaturePlan)
        if features is None:
            shard = self._featured(model, shard)
        context = (self.name, self.number, self.model_hash)
        if features is not None:
            result = fit_released(model, shard, features)
        elif gradient is not None:
            result = train_private(
                model, shard, settings, gradient, self.source, context, self.number
            )
        elif unnoised is not None:
            result = train_unnoised(
                model, shard, settings, unnoised, self.source, context[:2], self.number
            )
        else:
            result = train_plain(model, shard, settings, context[:2], self.number)
        after = models.trainable(model)
        return {n: after[n].detach().cpu() - before for n, before in parameters.items()}, result

    def _featured(self, model: nn.Module, shard: Shard) -> Shard:
        data, train = self.settings.data, self.settings.train
        channels = self.settings.model.channels
        return featured(model, shard, channels, train.augment, data.dimensions)

    def _check(self, model: nn.Module) -> None:
        """Have the engine check ``model`` for a batch of nobody; raises :class:`UserError`.

        The engine's samples come by chance, and weights can be made that it takes every other time:
        were it asked once more, or later, where something went wrong with the data, how often it
        refuses would tell.
        """
        if part(self.plan, GradientPlan) is not None:
            check_engine(
                model, self._featured(model, made_up(self.settings, 0, self.plan)), self.settings
            )

    def _without_patients(
        self, model: nn.Module, parameters: dict[str, Tensor]
    ) -> tuple[Update, LocalResult]:
        """The round of a hospital that has none: DP-SGD's is noise, any other's is zero."""
        gradient = part(self.plan, GradientPlan)
        if gradient is None:
            return _zeros(parameters), LocalResult(0, None)
        _restore(model, parameters)
        plan = replace(gradient, declared=True)
        # Of no samples every engine's sum is 0; this one checks no model a second time.
        settings = self.settings.replaced({"privacy.engine": "loop"})
        nobody = made_up(settings, 0, self.plan)
        return replace(self, plan=plan, settings=settings)._change(model, nobody, parameters)

    def _noised(self, update: Update) -> Update:
        noised = part(self.plan, UpdatePlan)
        if noised is None or noised.adaptive is not None:
            return update
        update = clip(update, noised.clipping_norm)
        if noised.placement != "hospital":
            return update
        noise = GaussianNoise(noised.noise_standard_deviation)
        context = (self.name, self.number, self.model_hash)
        return noise.add(update, self.source.normals("update", *context))


def rehearse(settings: Settings, plan: Plan, model: nn.Module) -> None:
    """Train ``model`` for a step on two made-up images, so that no mistake of the settings is left.

    A round that fails afterwards fails by its data, and nothing is said of it. Raises
    :class:`UserError` or :class:`RunError` for settings that cannot be trained with.
    """
    gradient, nobodies = part(plan, GradientPlan), made_up(settings, 2, plan)
    if isinstance(gradient, SummedPlan):
        # As under dp-sgd, with whose noise nothing leaves either.
        plan = gradient = _as_local(gradient)
    if gradient is not None:
        # Both are in the batch, whatever the sampler draws.
        plan = replace(gradient, steps_per_round=1, units=gradient.expected_batch, declared=True)
    short = settings.replaced({"train.local-epochs": 1.0})
    turn = Round("rehearsal", short, plan, NoiseSource(), 1)
    try:
        turn._change(model, nobodies, _copies(model))
    except (UserError, RunError):
        raise
    except Exception as error:
        raise RunError(f"made-up images cannot be trained on ({error}); check [model]") from error


def _as_local(plan: SummedPlan) -> GradientPlan:
    """The plan of ``dp-sgd`` with the same clipping and whole noise."""
    return GradientPlan(
        unit=plan.unit,
        units=plan.units,
        expected_batch=plan.expected_batch,
        steps_per_round=1,
        rounds=1,
        clipping_norm=plan.clipping_norm,
        noise_multiplier=plan.noise_multiplier,
        delta=plan.delta,
    )


def made_up(settings: Settings, images: int, plan: Plan) -> Shard:
    """A shard of ``images`` patients that do not exist, one grey image each, as training has them.

    That is uint8, or float32 where ``plan`` noises images or features.
    """
    data = settings.data
    shape = (images, *Form.of(data).shape)
    labels = np.arange(images) % 2
    table = pd.DataFrame({"image": [f"made-up-{n}" for n in range(images)], "label": labels})
    table["patient_id"] = table["image"].astype("string")
    for name in data.targets:
        table[f"label:{name}"] = labels
    if part(plan, FeaturePlan) is not None:
        vectors = np.zeros((images, settings.model.components), dtype=np.float32)
        return Shard(f"made-up-{images}", vectors, table)
    if part(plan, ImagePlan) is not None:
        return Shard(f"made-up-{images}", np.full(shape, 0.5, dtype=np.float32), table)
    return Shard(f"made-up-{images}", np.full(shape, 128, dtype=np.uint8), table)


def _restore(model: nn.Module, parameters: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in models.trainable(model).items():
            value.copy_(parameters[name])


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in models.trainable(model).items()}


def _zeros(parameters: dict[str, Tensor]) -> Update:
    return {name: torch.zeros_like(value) for name, value in parameters.items()}
