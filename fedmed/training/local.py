"""The local training loop: a model, a shard and a plan; one round at a time."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.data.shard import Shard
from fedmed.models import trainable
from fedmed.models.scaling import MEAN, SPREAD
from fedmed.privacy.gradients import Clipping, Engine, Options, make_engine
from fedmed.privacy.gradients.engine import binary
from fedmed.privacy.gradients.memory import keep_freed_memory
from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import GradientPlan, Sampling, SummedPlan, UnnoisedPlan
from fedmed.training.augmentation import augment, seeded
from fedmed.training.optimiser import LocalSteps

Gradient = Callable[[Tensor, Tensor, int], tuple[dict[str, Tensor], int]]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # of the forward pass
_POINTS_AT_ONCE = 256 * 224 * 224  # of the images that are scored together


@dataclass(frozen=True)
class LocalResult:
    """What one round of local training did; ``loss`` is private and None under DP-SGD.

    ``dropped`` counts samples whose gradient was not finite and that contributed nothing. It is
    private too, and stays at the hospital.
    """

    steps: int
    loss: float | None
    dropped: int = 0


def to_input(
    images: NDArray[np.uint8] | NDArray[np.float32],
    channels: int,
    device: torch.device,
    dimensions: int = 2,
) -> Tensor:
    """Model input (n, channels, *size) from uint8 (0..255) or float32 (0..1) images.

    Images (n, size, size), or with 3 ``dimensions`` volumes (n, size, size, size), are repeated in
    every channel; images (n, channels, size, size) have their channels already. Features (n, width)
    that were computed before stay as they are.
    """
    tensor = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(device)
    if tensor.dim() == 2:
        return tensor
    if tensor.dtype == torch.uint8:
        tensor = tensor.float().div_(255)
    tensor = (
        tensor.sub_(MEAN).div_(SPREAD) if images.dtype == np.uint8 else (tensor - MEAN) / SPREAD
    )
    if tensor.dim() == dimensions + 2:
        if tensor.shape[1] != channels:
            raise RunError(
                f"images of {tensor.shape[1]} channels for a model of {channels}; set "
                "model.channels = data.slices"
            )
        return tensor
    return tensor.unsqueeze(1).expand(-1, channels, *[-1] * dimensions)


def train_plain(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    context: tuple[str | int, ...],
    round_number: int = 1,
) -> LocalResult:
    """Mini-batch training for ``train.local-epochs`` passes, ordered by seed and ``context``."""
    keep_freed_memory()
    device = next(model.parameters()).device
    model.train()
    labels = torch.from_numpy(shard.labels).to(device)
    order = data_order(len(shard), settings.train.local_epochs, settings.run.seed, context)
    size = settings.train.batch_size
    steps = LocalSteps(
        trainable(model).values(), settings.train, round_number, -(-len(order) // size)
    )
    draws = seeded(settings.run.seed, context)
    autocast = PRECISIONS[settings.train.precision]
    losses: list[Tensor] = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        images = to_input(
            shard.images[rows], settings.model.channels, device, settings.data.dimensions
        )
        images = augment(images, settings.train.augment, 1, draws)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            logits = model(images)
        loss = binary(logits, labels[torch.from_numpy(rows).to(device)]) / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        steps.step()
        losses.append(loss.detach())
    steps.finish()
    return LocalResult(len(losses), float(torch.stack(losses).mean()))


def train_private(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    plan: GradientPlan,
    source: NoiseSource,
    context: tuple[str | int, ...],
    round_number: int = 1,
) -> LocalResult:
    """One round of DP-SGD: exactly ``plan.steps_per_round`` noised steps, empty batches included.

    Each step Poisson-samples units at the plan's rate from a secret generator, sums their clipped
    gradients (each the mean over ``train.views`` views), adds the plan's Gaussian noise and divides
    by the *expected* batch. Raises :class:`RunError` where the shard is not the one that was
    planned for.
    """
    engine = _engine(model, settings)

    def gradient(images: Tensor, labels: Tensor, step: int) -> tuple[dict[str, Tensor], int]:
        # A stream for each step: reproducible noise is keyed by site, round, model and step.
        noise = SumNoise(source.normals("gradient", *context, step))
        batch = engine.clipped_sum(images, labels, plan.clipping_norm, settings.train.views)
        if batch.sensitivity > plan.clipping_norm:
            raise RunError("the engine's sensitivity is above the plan's; nothing was noised")
        mean = noise.noised_mean(
            batch.gradients, plan.noise_standard_deviation, plan.expected_batch
        )
        return mean, batch.dropped

    try:
        return sampled_steps(
            model, shard, settings, plan.sampling, source, context, round_number, gradient
        )
    finally:
        engine.close()


def clipped_sum(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    plan: SummedPlan,
    source: NoiseSource,
    context: tuple[str | int, ...],
) -> tuple[dict[str, Tensor], LocalResult]:
    """One step's sum of clipped gradients of a Poisson sample, by name; the model stays as it is.

    Nothing is noised here: a caller adds noise, or trusts whoever does. Raises as
    :func:`train_private` does.
    """
    units, views = _units(shard, plan.sampling), settings.train.views
    keep_freed_memory()
    model.train()
    engine = _engine(model, settings)
    labels = torch.from_numpy(shard.labels).to(next(model.parameters()).device)
    try:
        images, answers = _sampled(
            model, shard, settings, units, plan.rate, labels, source, (*context, 0),
            _sampler(settings, source, context),
        )  # fmt: skip
        batch = engine.clipped_sum(images, answers, plan.clipping_norm, views)
        if batch.sensitivity > plan.clipping_norm:
            raise RunError("the engine's sensitivity is above the plan's; nothing was noised")
    finally:
        engine.close()
    return batch.gradients, LocalResult(1, None, batch.dropped)


def train_unnoised(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    plan: UnnoisedPlan,
    source: NoiseSource,
    context: tuple[str | int, ...],
    round_number: int = 1,
) -> LocalResult:
    """:func:`train_private` without its noise, and where the plan has no norm without clipping.

    It protects nobody. Without clipping no engine is needed: gradients are summed by autograd.
    """
    expected, views = plan.sampling.expected_batch, settings.train.views
    norm = plan.clipping_norm
    engine = None if norm is None else _engine(model, settings)

    def gradient(images: Tensor, labels: Tensor, step: int) -> tuple[dict[str, Tensor], int]:
        if engine is None or norm is None:
            sums, dropped = _plain_sum(model, images, labels, settings), 0
        else:
            batch = engine.clipped_sum(images, labels, norm, views)
            sums, dropped = batch.gradients, batch.dropped
        return {name: value.mul_(1 / expected) for name, value in sums.items()}, dropped

    try:
        return sampled_steps(
            model, shard, settings, plan.sampling, source, context, round_number, gradient
        )
    finally:
        if engine is not None:
            engine.close()


def sampled_steps(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    sampling: Sampling,
    source: NoiseSource,
    context: tuple[str | int, ...],
    round_number: int,
    gradient: Gradient,
) -> LocalResult:
    """A round of steps on Poisson samples of units, each by what ``gradient`` makes of it.

    It takes a batch's images, their labels and the step's number, and gives the gradient by name
    and how many samples it left out.
    """
    units = _units(shard, sampling)
    keep_freed_memory()
    device = next(model.parameters()).device
    model.train()
    parameters = trainable(model)
    steps = LocalSteps(parameters.values(), settings.train, round_number, sampling.steps_per_round)
    labels = torch.from_numpy(shard.labels).to(device)
    sampler = _sampler(settings, source, context)
    dropped = taken = 0
    for step in range(sampling.steps_per_round):
        if taken >= sampling.steps_per_round:
            raise RunError("a step beyond the plan was about to be taken; nothing is released")
        images, answers = _sampled(
            model, shard, settings, units, sampling.rate, labels, source, (*context, step), sampler
        )
        gradients, lost = gradient(images, answers, step)
        taken += 1
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        steps.step()
        dropped += lost
    steps.finish()
    return LocalResult(taken, None, dropped)


def _sampler(
    settings: Settings, source: NoiseSource, context: tuple[str | int, ...]
) -> np.random.Generator:
    """Who is in a batch is drawn in secret: amplification rests on it."""
    return source.numpy("sampling", *context)


def _sampled(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    units: list[NDArray[np.int64]],
    rate: float,
    labels: Tensor,
    source: NoiseSource,
    context: tuple[str | int, ...],
    sampler: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """A Poisson batch as the model takes it, every view of each image, and its labels."""
    train, device = settings.train, next(model.parameters()).device
    rows = poisson_batch(units, rate, sampler)
    images = to_input(shard.images[rows], settings.model.channels, device, settings.data.dimensions)
    draws = source.numpy("augmentation", *context)
    images = augment(images, train.augment, train.views, draws)
    answers = labels[torch.from_numpy(rows).to(device)]
    return images, answers.repeat_interleave(train.views, dim=0)


def _engine(model: nn.Module, settings: Settings) -> Engine:
    privacy = settings.privacy
    return make_engine(privacy.engine, model, privacy.physical_batch_size, _options(settings))


def _plain_sum(
    model: nn.Module, images: Tensor, labels: Tensor, settings: Settings
) -> dict[str, Tensor]:
    """Sum of the samples' gradients by name, each the mean over its views; zeros of no sample."""
    parameters = trainable(model)
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    autocast = PRECISIONS[settings.train.precision]
    for part in _slices(len(images), settings.privacy.physical_batch_size):
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            logits = model(images[part])
        loss = binary(logits, labels[part]) / settings.train.views
        each = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, each, strict=True):
            if gradient is not None:
                total[name] += gradient
    return total


def _units(shard: Shard, plan: Sampling) -> list[NDArray[np.int64]]:
    """Row numbers of each unit that is sampled; raises where it counted others."""
    units = (
        shard.patients() if plan.unit == "patient" else [np.array([i]) for i in range(len(shard))]
    )
    if len(units) != plan.units and not plan.declared:
        raise RunError(
            f"the shard holds {len(units)} {plan.unit}s, the plan {plan.units}; plan again"
        )
    return units


def check_engine(model: nn.Module, shard: Shard, settings: Settings) -> None:
    """Have the engine check ``model`` as before a first step, for a batch of none of ``shard``.

    Raises :class:`UserError` where it refuses the model or its weights; only the form of the images
    is read.
    """
    device = next(model.parameters()).device
    model.train()
    data, engine = settings.data, _engine(model, settings)
    images = to_input(shard.images[:0], settings.model.channels, device, data.dimensions)
    labels = torch.from_numpy(shard.labels[:0]).to(device)
    try:
        engine.clipped_sum(images, labels, 1.0)
    finally:
        engine.close()


def _options(settings: Settings) -> Options:
    privacy = settings.privacy
    return Options(
        clipping=Clipping(privacy.clipping),
        autocast=PRECISIONS[settings.train.precision],
    )


def poisson_batch(
    units: list[NDArray[np.int64]], rate: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of a Poisson sample: each unit with probability ``rate``, one row of it drawn uniformly.

    May be empty; the step is then noise alone and must still be taken.
    """
    chosen = np.flatnonzero(rng.random(len(units)) < rate)
    rows = [units[unit][rng.integers(len(units[unit]))] for unit in chosen]
    return np.asarray(rows, dtype=np.int64)


def data_order(
    images: int, epochs: float, seed: int, context: tuple[str | int, ...]
) -> NDArray[np.int64]:
    """Rows in training order: fresh permutations, cut at ``epochs`` passes (at least one image)."""
    words = ":".join(str(part) for part in ("data-order", seed, *context))
    rng = np.random.default_rng(random.Random(words).getrandbits(64))
    count = max(1, round(epochs * images))
    passes = [rng.permutation(images) for _ in range(-(-count // images))]
    return np.concatenate(passes)[:count]


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: NDArray[np.uint8] | NDArray[np.float32],
    channels: int,
    batch_size: int = 256,
    dimensions: int = 2,
    unscored: float | None = None,
) -> NDArray[np.float64]:
    """Scores (n,) in [0, 1], of several labels (n, k).

    A model whose output is not finite raises :class:`RunError`. With ``unscored`` an image without
    a finite output has that logit instead: where scores are private, an error would tell of one
    patient's image, and each image is scored alone: kernels round by the size of a batch, so that
    weights which magnify that would let one image change the scores of others. Of large images
    fewer than ``batch_size`` are scored at a time.
    """
    device = next(model.parameters()).device
    model.eval()
    if unscored is not None:
        batch_size = 1
    at_once = max(1, min(batch_size, _POINTS_AT_ONCE // max(1, math.prod(images.shape[1:]))))
    parts = [
        model(to_input(images[rows], channels, device, dimensions)).double().cpu()
        for rows in _slices(len(images), at_once)
    ]
    logits = torch.cat(parts) if parts else torch.zeros(0, 1, dtype=torch.float64)
    logits = logits.squeeze(1)
    finite = torch.isfinite(logits)
    if unscored is not None:
        logits = torch.where(finite, logits, unscored)
    elif not bool(finite.all()):
        raise RunError("the model's scores are not finite; lower train.learning-rate")
    scores: NDArray[np.float64] = torch.sigmoid(logits).numpy()
    return scores


def pick_device(name: str) -> torch.device:
    """The device ``run.device`` asks for; ``auto`` is CUDA where present, else the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RunError("run.device = 'cuda' but no GPU is usable here; use 'auto' or 'cpu'")
    return torch.device("cuda")


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
