"""What unit tests share: tiny models and shards, and the proof that a check can go red."""

import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fedmed.models
from fedmed.base.errors import UserError
from fedmed.config import ARMS, Settings
from fedmed.coordinator import results
from fedmed.data.shard import Shard
from fedmed.federation import members
from fedmed.privacy.ledger.filtering import Charge
from fedmed.privacy.plans import (
    AdaptiveClipping,
    GradientPlan,
    Plan,
    SummedPlan,
    UpdatePlan,
)

SIZE = 16
PROBE = {
    "model.name": "probe",
    "model.features": "scattering",
    "model.standardise": "validation",
    "model.components": 3,
}
"""What ``feature-laplace`` is run with."""
ADAPTIVE = AdaptiveClipping(quantile=0.5, rate=0.2, share_of_budget=0.1)


def goes_red(check: Callable[..., None], *broken: Any) -> None:
    """The sabotage half of a test: ``check`` must fail on a deliberately broken variant."""
    with pytest.raises(AssertionError):
        check(*broken)


def refuses(call: Callable[[], object], *words: str, error: type[Exception] = UserError) -> None:
    """``call`` fails with one line that holds all ``words``; else an ``AssertionError``."""
    try:
        call()
    except error as caught:
        message = str(caught)
        assert "\n" not in message
        for word in words:
            assert word in message, message
        return
    raise AssertionError("it was not refused")


def make(**sections: dict[str, Any]) -> Settings:
    """Settings from ``train={"rounds": 2}`` and the like, at 16 pixels."""
    data = {"image-size": SIZE, **sections.pop("data", {})}
    flat = {f"data.{key}": value for key, value in data.items()}
    for name, values in sections.items():
        flat |= {f"{name}.{key}": value for key, value in values.items()}
    return Settings().replaced(flat)


def needed_by(arm: str) -> dict[str, Any]:
    """Dotted keys without which the arm's settings are refused."""
    return PROBE if ARMS[arm].plan == "features" else {}


def tiny_network(seed: int = 0) -> nn.Module:
    """A network of 300 parameters with the layers of the real one, for 16-pixel grey images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * (SIZE // 2) ** 2, 1),
        )


def half_frozen_network(*_: Any, **__: Any) -> nn.Module:
    """:func:`tiny_network` whose first layer is not trained, for any arguments."""
    made = tiny_network()
    made.get_submodule("0").requires_grad_(False)
    return made


def use_tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hospitals and server build :func:`tiny_network`."""
    monkeypatch.setattr(
        fedmed.models, "build", lambda model, image_size, seed, **_: tiny_network(seed)
    )
    # Kept between calls, its answer would outlive the tiny model.
    counted = members.trained_parameters.__wrapped__
    monkeypatch.setattr(members, "trained_parameters", counted)
    monkeypatch.setattr(results, "trained_parameters", counted)


def tiny_shard(images: int = 24, *, films: int = 1, seed: int = 0) -> Shard:
    """A shard of random images, ``films`` per patient."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, SIZE, SIZE), dtype=np.uint8)
    table = pd.DataFrame(
        {
            "image": [f"i{row}" for row in range(images)],
            "label": [row % 2 for row in range(images)],
            "patient_id": [f"p{row // films}" for row in range(images)],
        }
    )
    return Shard(f"tiny-{seed}-{images}-{films}", pixels, table)


def gradient_plan(**changes: Any) -> GradientPlan:
    """A DP-SGD plan for :func:`tiny_shard`, without calibration."""
    values: dict[str, Any] = {
        "unit": "patient",
        "units": 24,
        "expected_batch": 6,
        "steps_per_round": 4,
        "rounds": 2,
        "clipping_norm": 1.0,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
    }
    return GradientPlan(**(values | changes))


def update_plan(placement: str, **changes: Any) -> UpdatePlan:
    """A plan of clipped and noised updates, without calibration."""
    values: dict[str, Any] = {
        "placement": placement,
        "hospitals": 3,
        "rounds": 2,
        "clipping_norm": 1.0,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
    }
    return UpdatePlan(**(values | changes))


def summed_plan(placement: Literal["server", "shares"], **changes: Any) -> SummedPlan:
    """Eight steps over five hospitals, of which one may be against the others."""
    values: dict[str, Any] = {
        "unit": "patient",
        "units": 20,
        "rate": 0.2,
        "expected_batch": 4,
        "steps_per_round": 1,
        "rounds": 8,
        "clipping_norm": 1.0,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "hospitals": 5,
        "threshold": 5,
        "colluding": 1,
    }
    return SummedPlan(placement=placement, **(values | changes))


def account_request(plan: Plan, account: str = "server/hospital", **changes: Any) -> Charge:
    """The plan as an account of its own unit sees it."""
    values: dict[str, Any] = {
        "account": account,
        "unit": plan.unit,
        "arm": "an arm",
        "relation": plan.facts("federated").relation,
        "step": plan.step,
        "steps": plan.steps,
        "delta": plan.delta,
    }
    return Charge(**(values | changes))


def accepted_choices(settings: Settings, plan: Callable[[Settings], object]) -> dict[str, float]:
    """What a refused plan's error proposes, by key; each alone must be accepted."""
    with pytest.raises(UserError) as caught:
        plan(settings)
    found = {
        key: float(value)
        for key, value in re.findall(
            r"(?:raise|lower) ([a-z.-]+) to ([0-9.e+]+)", str(caught.value)
        )
    }
    for key, value in found.items():
        plan(settings.replaced({key: int(value) if key.startswith("train.") else value}))
    return found
