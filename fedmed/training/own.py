"""DP-SGD on a model, an optimiser and tensors of one's own; nothing here knows of hospitals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.base.errors import UserError
from fedmed.models import trainable
from fedmed.privacy.gradients import ClippedSum, Clipping, Loss, Options, make_engine
from fedmed.privacy.gradients.clipping import Kind
from fedmed.privacy.gradients.engine import BINARY
from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import GradientPlan
from fedmed.training.local import poisson_batch


class PrivateTraining:
    """Trains ``model`` by DP-SGD (Abadi et al. 2016) as ``plan`` says, and counts the steps.

    Every step draws each patient with the plan's probability, and of a drawn patient one image,
    clips each image's gradient, adds the plan's noise to their sum, divides by the expected batch
    and calls ``optimizer``. So ``epsilon()`` holds for one patient with all images. What it rests
    on:

    - Gradients are those of ``loss``, a function of outputs and labels that is a sum over samples
      (a :class:`Loss` may say "mean"); by default that of one logit and labels 0 or 1.
    - ``model`` keeps samples apart: batch norm in training mode and layers that no engine knows
      are refused with a :class:`UserError`. Its mode stays as it is; buffers may not change.
    - Noise and draws come from the operating system. A ``source`` with a seed repeats them: for
      simulations only, as no epsilon holds against anyone who knows the seed.
    - It counts its own steps alone, in no ledger: another training on the same patients adds up
      with :func:`fedmed.privacy.composed_epsilon`. No loss is told, as it would be a release.

    ``engine``, ``clipping``, ``physical_batch_size`` (images in memory at once) and ``autocast``
    are those of docs/engine.md.

    >>> import torch
    >>> from fedmed.privacy import plan
    >>> model = torch.nn.Linear(4, 1)
    >>> private = PrivateTraining(
    ...     model,
    ...     torch.optim.SGD(model.parameters(), lr=0.1),
    ...     plan(patients=40, batch=8, epochs=1, noise_multiplier=1.0, delta=1e-3),
    ... )
    >>> spent = private.fit(torch.randn(40, 4), torch.arange(40) % 2)
    >>> private.taken, round(spent, 2)
    (5, 2.27)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: GradientPlan,
        *,
        loss: Loss = BINARY,
        engine: str = "fedmed",
        clipping: Kind = "flat",
        physical_batch_size: int = 32,
        autocast: torch.dtype | None = None,
        source: NoiseSource | None = None,
    ) -> None:
        if plan.unit != "patient":
            raise UserError(
                f"plan: its unit is '{plan.unit}', whose cap of images per patient is not kept "
                "here; make one per patient with fedmed.plan"
            )
        self._parameters = trainable(model)
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not moved & {id(p) for p in self._parameters.values()}:
            raise UserError(
                "optimizer: it holds no trainable parameter of the model; make it from "
                "model.parameters()"
            )
        self._model, self._optimizer, self.plan = model, optimizer, plan
        self._options = Options(loss=loss, clipping=Clipping(clipping), autocast=autocast)
        self._engine, self._physical = engine, physical_batch_size
        self._source = source or NoiseSource()
        self._sampler = self._source.numpy("sampling", "own")
        self.taken = 0  # steps, also those that failed halfway

    def epsilon(self) -> float:
        """Epsilon of the steps taken so far, at the plan's delta."""
        return self.plan.epsilon(self.taken)

    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        patients: Sequence[Any] | NDArray[Any] | pd.Series | None = None,
        *,
        steps: int | None = None,
    ) -> float:
        """Take ``steps`` (by default all that the plan has left), and return epsilon so far.

        ``images`` (n, ...) are the model's inputs, ``labels`` (n, ...) the loss's; ``patients`` (n)
        says whose each image is (None: every image is of another patient). Raises
        :class:`UserError` where the patients are not as many as the plan's, where the plan has
        fewer steps left, and for a model that does not keep samples apart.
        """
        units = self._units(len(images), len(labels), patients)
        left = self.plan.steps - self.taken
        wanted = left if steps is None else steps
        if not 1 <= wanted <= left:
            raise UserError(
                f"steps: {wanted} of a plan that has {left} of {self.plan.steps} left; make a plan "
                "of more epochs before training"
            )
        device = next(iter(self._parameters.values())).device
        if self._options.loss is BINARY:
            labels = labels.float()
        buffers = {name: value.clone() for name, value in self._model.named_buffers()}
        engine = make_engine(self._engine, self._model, self._physical, self._options)
        try:
            for _ in range(wanted):
                self.taken += 1  # before the data are touched: a crash can only over-count
                rows = torch.from_numpy(
                    poisson_batch(units, self.plan.sampling_rate, self._sampler)
                )
                drawn = images[rows.to(images.device)].to(device)
                batch = engine.clipped_sum(
                    drawn, labels[rows.to(labels.device)].to(device), self.plan.clipping_norm
                )
                self._refuse_changed(buffers)
                self._step(batch)
        finally:
            engine.close()
        return self.epsilon()

    def _step(self, batch: ClippedSum) -> None:
        plan = self.plan
        noise = SumNoise(self._source.normals("gradient", "own", self.taken))
        deviation = plan.noise_multiplier * batch.sensitivity
        mean = noise.noised_mean(batch.gradients, deviation, plan.expected_batch)
        self._optimizer.zero_grad()  # also of what is no parameter of the model
        for name, parameter in self._parameters.items():
            parameter.grad = mean[name]
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _units(self, images: int, labels: int, patients: Any) -> list[NDArray[np.int64]]:
        """Rows of each patient; as many patients as the plan has, unless it was declared."""
        if patients is None:
            patients = range(images)
        if not images == labels == len(patients):
            raise UserError(
                f"{images} images, {labels} labels and {len(patients)} patients do not fit "
                "together; give one of each per image"
            )
        codes, names = pd.factorize(np.asarray(patients))
        if (codes < 0).any():
            raise UserError(f"patients: row {int((codes < 0).argmax()) + 1} has none; name it")
        if len(names) != self.plan.units and not self.plan.declared:
            raise UserError(
                f"the images are of {len(names)} patients, the plan is for {self.plan.units}; "
                f"make a plan with patients={len(names)}"
            )
        order = np.argsort(codes, kind="stable")
        return np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])

    def _refuse_changed(self, buffers: dict[str, Tensor]) -> None:
        """No buffer may change: it would hold statistics of the data, which no noise covers."""
        for name, value in self._model.named_buffers():
            if not torch.equal(value, buffers[name]):
                value.copy_(buffers[name])
                raise UserError(
                    f"model: its buffer '{name}' changes while it is trained, which no noise "
                    "covers; put that layer into evaluation mode"
                )
