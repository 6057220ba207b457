"""DP-SGD on a model, an optimiser and tensors of one's own; nothing here knows of hospitals."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
      (a :class:`Loss` may say "mean"); by default that of one logit and labels 0 or 1. It trains
      nothing of its own.
    - ``model`` keeps samples apart: batch norm in training mode and layers that no engine knows
      are refused with a :class:`UserError`. Its mode stays as it is. Buffers and frozen parameters
      may not change; what it keeps elsewhere (a plain attribute) nobody sees.
    - Noise, draws and the masks of dropout come from the operating system. A ``source`` with a
      seed repeats them: for simulations only, as no epsilon holds against anyone who knows it.
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
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UserError("optimizer: LBFGS asks for several gradients a step; use SGD or Adam")
        function = loss.function
        if isinstance(function, nn.Module) and any(p.requires_grad for p in function.parameters()):
            raise UserError(
                "loss: it has parameters of its own, whose gradients would have no noise; make "
                "them requires_grad_(False)"
            )
        if physical_batch_size < 1:
            raise UserError(f"physical_batch_size: {physical_batch_size}; give 1 or more")
        self._model, self._optimizer, self._plan = model, optimizer, plan
        self._parameters = self._trained()
        self._options = Options(loss=loss, clipping=Clipping(clipping), autocast=autocast)
        self._engine, self._physical = engine, physical_batch_size
        self._source = source or NoiseSource()
        self._sampler = self._source.numpy("sampling", "own")
        self._taken = 0  # steps, also those that failed halfway

    @property
    def plan(self) -> GradientPlan:
        """All steps are accounted by it, so it stays: another plan is another training."""
        return self._plan

    @property
    def taken(self) -> int:
        """Steps so far, also those that failed halfway."""
        return self._taken

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
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise UserError("images and labels: give tensors; torch.as_tensor(...) makes them")
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
        self._parameters = self._trained()
        held = {name: value.detach().clone() for name, value in _held(self._model)}
        engine = make_engine(self._engine, self._model, self._physical, self._options)
        try:
            for _ in range(wanted):
                self._taken += 1  # before the data are touched: a crash can only over-count
                rows = torch.from_numpy(
                    poisson_batch(units, self.plan.sampling_rate, self._sampler)
                )
                drawn = images[rows.to(images.device)].to(device)
                answers = labels[rows.to(labels.device)].to(device)
                with self._secret_masks(), _unchanged(self._model, held):
                    batch = engine.clipped_sum(drawn, answers, self.plan.clipping_norm)
                self._step(batch)
        finally:
            engine.close()
            for parameter in self._parameters.values():
                parameter.grad = None
        return self.epsilon()

    def _trained(self) -> dict[str, nn.Parameter]:
        """The model's trainable parameters now, of which the optimiser holds one at least."""
        parameters = trainable(self._model)
        moved = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        if not moved & {id(p) for p in parameters.values()}:
            raise UserError(
                "optimizer: it holds no trainable parameter of the model; make it from "
                "model.parameters()"
            )
        for name, parameter in parameters.items():
            if parameter.dtype not in (torch.float32, torch.float64):
                raise UserError(
                    f"model: parameter '{name}' is {parameter.dtype}, in which a sum loses more "
                    "than clipping allows; use model.float(), and autocast for a faster pass"
                )
        return parameters

    @contextmanager
    def _secret_masks(self) -> Iterator[None]:
        """Dropout by a secret seed: one row more moves the masks of others, which must not show."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(int(self._source.numpy("masks", "own", self.taken).integers(2**63)))
            yield

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
        codes, names = pd.factorize(_ids(patients))
        if len(names) != self.plan.units and not self.plan.declared:
            raise UserError(
                f"the images are of {len(names)} patients, the plan is for {self.plan.units}; "
                f"make a plan with patients={len(names)}"
            )
        order = np.argsort(codes, kind="stable")
        return np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])


def _ids(patients: Any) -> NDArray[Any]:
    """One id per image, all numbers or all texts: else 1 and "1" could be one patient or two."""
    ids = np.asarray(patients)
    if ids.ndim != 1:
        raise UserError("patients: give one id per image, a number or a text")
    given = pd.Series(list(patients), dtype=object)
    # Before numpy makes texts of all: a missing one would be the patient "nan".
    missing = given.isna() | pd.isna(ids) | given.map(lambda one: str(one).strip() == "")
    if missing.any():
        raise UserError(f"patients: row {int(missing.to_numpy().argmax()) + 1} has none; name it")
    if given.map(lambda one: isinstance(one, str)).nunique() > 1:
        raise UserError("patients: some ids are texts and some are not; make all of them texts")
    return ids


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What no step may change: buffers and parameters that are not trained."""
    yield from model.named_buffers()
    yield from ((name, p) for name, p in model.named_parameters() if not p.requires_grad)


@contextmanager
def _unchanged(model: nn.Module, held: dict[str, Tensor]) -> Iterator[None]:
    """Refuse a change of what is held: it would keep the data, which no noise covers.

    All of it is put back, also where another error comes first.
    """
    changed = []
    try:
        yield
    finally:
        for name, value in _held(model):
            before = held.get(name, torch.zeros_like(value))
            if name in held and _same(value, before):
                continue
            changed.append(name)
            value.data = before.clone()
    if changed:
        kind = "buffer" if changed[0] in dict(model.named_buffers()) else "frozen parameter"
        raise UserError(
            f"model: its {kind} '{changed[0]}' changes while it is trained, which no noise covers; "
            "put that layer into evaluation mode"
        )


def _same(first: Tensor, second: Tensor) -> bool:
    """Equal in every place; NaN equals NaN."""
    if first.shape != second.shape:
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())
