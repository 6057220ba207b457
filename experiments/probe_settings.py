"""Clipping norm, steps and rate of a probe under DP-SGD, by the validation AUROC of many draws.

One run's validation AUROC moves more by its noise than settings differ by. This trains an
experiment's linear probe outside the federation, on the same cached features, with the plan's noise
drawn several times from a seed, and scores the server's validation images, which every run takes to
be public. It scores no test image. Noise at each of K hospitals is that of a sum with the square
root of K times the noise; with one colluding hospital each share is larger.

    python -m experiments.probe_settings experiments/central-local-nih.toml --out settings.json
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from experiments.recording import record
from fedmed.config import Settings
from fedmed.data.network import held_out_shard, member_names
from fedmed.evaluation.discrimination import auroc
from fedmed.experiment.file import load_experiment
from fedmed.federation.members import member_shard
from fedmed.models import build
from fedmed.models.features import FeatureNetwork, standardise
from fedmed.privacy import plan
from fedmed.training.cached_features import featured
from fedmed.training.local import poisson_batch

Floats = npt.NDArray[np.float64]
NORMS, STEPS = (1.0, 0.5, 0.25), (25, 50, 100)
SAMPLING, MOMENTUM = 0.5, 0.9


@dataclass(frozen=True)
class Images:
    """Projected features (n, k) with a column of ones, labels (n,), and the rows of each unit."""

    features: Floats
    labels: Floats
    units: list[npt.NDArray[np.int64]]
    validation: Floats
    answers: npt.NDArray[np.int64]


def images_of(settings: Settings) -> Images:
    """All hospitals' training images and the validation images, as the probe's head sees them."""
    if settings.data.dimensions != 2 or settings.data.outputs != 1:
        raise SystemExit("give an experiment of flat images with one label")
    network = build(settings.model, settings.data.image_size, 0)
    if not isinstance(network, FeatureNetwork) or network.standard != "validation":
        raise SystemExit("give an experiment of probes with model.standardise = 'validation'")
    channels = settings.model.channels
    shards = [member_shard(settings, name) for name in member_names(settings)]
    parts = [featured(network, shard, channels).images for shard in shards]
    held_out, _ = held_out_shard(settings.data)
    rows = (held_out.table["split"] == "val").to_numpy()
    public = np.asarray(featured(network, held_out, channels).images)[rows]
    standardise(network, torch.from_numpy(public))
    centre, project = network.centre.double().numpy(), network.project.double().numpy()

    def projected(values: npt.NDArray[Any]) -> Floats:
        made = (values.astype(np.float64) - centre) @ project
        return np.column_stack([made, np.ones(len(made))])

    starts = np.cumsum([0, *(len(shard) for shard in shards)])
    by_patient = settings.privacy.unit == "patient"
    return Images(
        projected(np.concatenate(parts)),
        np.concatenate([shard.labels for shard in shards]).astype(np.float64),
        [
            start + rows
            for start, shard in zip(starts, shards, strict=False)
            for rows in (shard.patients() if by_patient else np.arange(len(shard))[:, None])
        ],
        projected(public),
        held_out.labels[rows].astype(np.int64),
    )


def trained(
    images: Images, noise: float, norm: float, steps: int, rate: float, rng: np.random.Generator
) -> float:
    """Validation AUROC after so many steps; ``noise`` in clipping norms, ``rate`` per norm."""
    features, labels, width = images.features, images.labels, images.features.shape[1]
    lengths = np.linalg.norm(features, axis=1)
    weights, velocity = np.zeros(width), np.zeros(width)
    for _ in range(steps):
        rows = poisson_batch(images.units, SAMPLING, rng)
        drawn = features[rows]
        errors = 1 / (1 + np.exp(-drawn @ weights)) - labels[rows]
        clipped = np.clip(errors, -norm / lengths[rows], norm / lengths[rows]) / norm
        total = clipped @ drawn + rng.normal(0.0, noise, width)
        velocity = MOMENTUM * velocity + total / (SAMPLING * len(images.units))
        weights = weights - rate * velocity
    return auroc(images.answers, images.validation @ weights)


def factors(settings: Settings) -> dict[str, float]:
    """What the noise on the sum is by its place, over that of the plan."""
    hospitals = len(member_names(settings))
    if hospitals < 2:
        raise SystemExit("give an experiment of two hospitals or more")
    return {"distributed": math.sqrt(hospitals / (hospitals - 1)), "local": math.sqrt(hospitals)}


def search(
    settings: Settings,
    epsilons: list[float],
    components: list[int],
    rates: list[float],
    draws: int,
) -> list[dict[str, Any]]:
    """Every setting's mean validation AUROC, the best of each place, epsilon and components first.

    ``learning_rate`` is as in ``[train]``: the rate per clipping norm over that norm.
    """
    trials = []
    for kept in components:
        images = images_of(settings.replaced({"model.components": kept}))
        for (place, factor), epsilon in product(factors(settings).items(), epsilons):
            tried = []
            for steps in STEPS:
                noise = (
                    factor
                    * plan(
                        patients=1000,
                        batch=round(1000 * SAMPLING),
                        epochs=steps * SAMPLING,
                        epsilon=epsilon,
                        delta=settings.privacy.delta,
                    ).noise_multiplier
                )
                for norm, rate in product(NORMS, rates):
                    rng = np.random.default_rng(5)
                    each = [trained(images, noise, norm, steps, rate, rng) for _ in range(draws)]
                    about = {"components": kept, "place": place, "epsilon": epsilon}
                    setting = {"norm": norm, "steps": steps, "learning_rate": rate / norm}
                    tried.append({**about, **setting, "auroc": round(float(np.mean(each)), 4)})
            trials += sorted(tried, key=lambda one: -float(one["auroc"]))
    return trials


def main() -> None:
    """Search, and print or write every trial."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 8.0])
    parser.add_argument("--components", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rate", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    experiment = load_experiment(given.experiment, assignments=given.changes)
    trials = search(experiment.base, given.epsilon, given.components, given.rate, given.draws)
    per_place = len(NORMS) * len(STEPS) * len(given.rate)
    for best in trials[::per_place]:
        print(best)
    if given.out:
        record(given.out, {"experiment": experiment.name, "draws": given.draws, "trials": trials})


if __name__ == "__main__":
    main()
