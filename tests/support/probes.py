"""A tiny hospital that releases features: a probe on scattering of 16-pixel images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmed import models
from fedmed.config import Settings
from fedmed.data.shard import Shard
from fedmed.federation import exchange
from fedmed.hospital.hospital import Hospital
from fedmed.models.features import FeatureNetwork, standardise
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import FeaturePlan, Plan
from fedmed.privacy.plans.making import make_plan
from fedmed.training.cached_features import compute
from support import PROBE, SIZE, make, tiny_shard

EPSILON = 8.0


def settings_of(**changes: Any) -> Settings:
    """Of ``feature-laplace`` at epsilon 8; ``changes`` are dotted keys."""
    own = {"privacy.arm": "feature-laplace", "privacy.epsilon": EPSILON, **PROBE}
    return make(train={"rounds": 2}).replaced(own | changes)


def probe(settings: Settings, *, public: int = 0) -> FeatureNetwork:
    """The server's model, projected by public images that ``public`` draws."""
    network = models.build(settings.model, SIZE, 0)
    assert isinstance(network, FeatureNetwork)
    images = np.random.default_rng(100 + public).integers(0, 256, (30, SIZE, SIZE), np.uint8)
    standardise(network, torch.from_numpy(compute(network, images, 1)))
    return network


def sent(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a server sends of it: parameters, and what training never changes."""
    return exchange.parameters_of(network), exchange.frozen_of(network)


def plan_of(settings: Settings, patients: int = 12, declared: int | None = None) -> FeaturePlan:
    """The plan of a hospital of so many patients."""
    plan: Plan = make_plan(settings, patients, "hospital-1", declared)
    assert isinstance(plan, FeaturePlan)
    return plan


def hospital(folder: Path, **changes: Any) -> Hospital:
    """12 patients of two films each, with a ledger on the disk."""
    settings = changes.pop("settings", settings_of())
    values: dict[str, Any] = {
        "name": "hospital-1",
        "settings": settings,
        "shard": two_films(),
        "plan": plan_of(settings),
        "ledger": Ledger(folder / "hospital-1.sqlite"),
        "source": NoiseSource(),
    }
    return Hospital(**(values | changes))


def two_films(seed: int = 0) -> Shard:
    """12 patients of two films each, with one label."""
    shard = tiny_shard(24, films=2, seed=seed)
    shard.table["label"] = [row // 2 % 2 for row in range(24)]
    return shard


def with_other_films(shard: Shard, patient: str) -> Shard:
    """The shard with that patient's films and label replaced."""
    images, table = np.array(shard.images), shard.table.copy()
    mine = (table["patient_id"] == patient).to_numpy()
    images[mine] = 255 - images[mine]
    table.loc[mine, "label"] = 1 - table.loc[mine, "label"]
    return Shard(f"{shard.key}-without-{patient}", images, table)
