"""A tiny hospital and a tiny server, for tests of what is released and of what can go wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.config import Settings
from fedmed.data.shard import Shard
from fedmed.federation import messages
from fedmed.hospital.hospital import Hospital
from fedmed.privacy.gradients import ClippedSum
from fedmed.privacy.ledger.filtering import Charge, OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import GradientPlan, ImagePlan, NoPrivacy, Plan
from fedmed.training import local
from fedmed.training.local import train_private
from support import gradient_plan, make, tiny_network, tiny_shard, update_plan

PLANS: dict[str, Plan] = {
    "none": NoPrivacy(),
    "pixel-laplace": ImagePlan(mechanism=PixelLaplace(1.0, 256)),
    "dp-sgd": gradient_plan(),
    "local-update": update_plan("hospital"),
    "central-fixed": update_plan("server"),
}


class LedgerInMemory(Ledger):
    """A ledger that forgets with its process: pitfall 22; quick where spend is not the question."""

    plans: dict[str, Charge]
    taken: dict[str, int]
    replies: dict[tuple[str, int, str], bytes]
    asked: tuple[str, int, str]

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        object.__setattr__(self, "plans", {})
        object.__setattr__(self, "taken", {})
        object.__setattr__(self, "replies", {})

    def open_plan(self, run: str, request: Charge, limit: object = None) -> None:
        self.plans[run] = request

    def reserve(self, run: str, round_number: int, model: str, steps: int, **_: Any) -> int:
        if run in self.plans and self.steps(run) + steps > self.plans[run].steps:
            raise OverBudget("the plan is used up", by_policy=False)
        self.taken[run] = self.steps(run) + steps
        object.__setattr__(self, "asked", (run, round_number, model))
        return 1

    def commit(self, entry: int, reply: bytes, *, cohort: str | None = None) -> None:
        self.replies[self.asked] = reply

    def answered(self, run: str, round_number: int, model: str) -> bytes | None:
        return self.replies.get((run, round_number, model))

    def steps(self, run: str) -> int:
        return self.taken.get(run, 0)

    def note(self, what: str, **details: Any) -> None:
        pass


def settings_of(arm: str, **changes: Any) -> Settings:
    """SGD without momentum; ``learning_rate=0.1`` and the like change ``train``."""
    train: dict[str, Any] = {"rounds": 2, "batch-size": 6, "local-epochs": 1.0}
    train |= {"learning-rate": 0.1, "momentum": 0.0}
    train |= {key.replace("_", "-"): value for key, value in changes.items()}
    return make(train=train, privacy={"arm": arm, "epsilon": 50.0, "delta": 1e-3})


def tiny_hospital(arm: str, **changes: Any) -> Hospital:
    """A hospital of 24 patients with a plan of ``arm`` and noise from the operating system."""
    values: dict[str, Any] = {
        "name": "hospital-1",
        "settings": settings_of(arm),
        "shard": tiny_shard(),
        "plan": PLANS[arm],
        "ledger": LedgerInMemory(),
        "source": NoiseSource(),
    }
    return Hospital(**(values | changes))


def model(seed: int = 0) -> dict[str, Tensor]:
    """The server's model: 305 numbers."""
    return messages.parameters_of(tiny_network(seed))


def flat(update: dict[str, Tensor] | None) -> Tensor:
    """All numbers of an update in one row."""
    assert update is not None
    return torch.cat([update[name].flatten() for name in sorted(update)])


def some_rows(shard: Shard, rows: list[int] | NDArray[np.int64]) -> Shard:
    """The shard without its other images."""
    table = shard.table.iloc[list(rows)].reset_index(drop=True)
    return Shard(f"{shard.key}-{list(rows)}", shard.images[list(rows)], table)


class Recorder:
    """An engine that notes the size of its batches and finds no gradient."""

    def __init__(self, network: nn.Module, sizes: list[int]) -> None:
        self.network, self.sizes = network, sizes

    def clipped_sum(
        self, images: Tensor, labels: Tensor, clipping_norm: float, views: int = 1
    ) -> ClippedSum:
        self.sizes.append(len(images))
        zeros = {n: torch.zeros_like(p) for n, p in self.network.named_parameters()}
        return ClippedSum(zeros, clipping_norm, len(images), 0)

    def close(self) -> None:
        pass


def batch_sizes(monkeypatch: pytest.MonkeyPatch, plan: GradientPlan, images: int) -> list[int]:
    """Sizes of the batches that reach the engine in one round."""
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(local, "make_engine", lambda _, network, *__: Recorder(network, sizes))
        train_private(
            tiny_network(), tiny_shard(images), settings_of("dp-sgd"), plan, NoiseSource(), ("h",)
        )
    return sizes


def keyed_by(choose: Callable[[tuple[str | int, ...]], object]) -> Callable[..., int]:
    """A broken ``NoiseSource._key``: a part of the context alone decides the noise."""
    seeded = NoiseSource(1)._key

    def key(self: NoiseSource, context: tuple[str | int, ...]) -> int:
        return seeded((str(choose(context)),))

    return key


NUMBERS = 305  # in the tiny model
STILL = 1e-12  # the smallest learning rate: an update is noise alone


def check_noise(update: Tensor, deviation: float) -> None:
    """Five standard errors of mean and deviation: a false alarm once in 1e6 each."""
    assert abs(float(update.mean())) < 5 * deviation / NUMBERS**0.5
    assert abs(float(update.std()) / deviation - 1) < 5 / (2 * NUMBERS) ** 0.5


def check_uncorrelated(first: Tensor, second: Tensor) -> None:
    """Five standard errors of a correlation: a false alarm once in 1e6."""
    correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(correlation) < 5 / NUMBERS**0.5


SECRET = "patient 123"


class Failing:
    """A shard whose every use raises an error with a patient's data in its text."""

    def __len__(self) -> int:
        return 24

    def __getattr__(self, name: str) -> object:
        raise ValueError(f"{SECRET}: {name}")
