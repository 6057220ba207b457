"""One of five hospitals poisons: what moves the model, and what holds it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import goes_red

from experiments.poisoning import Attack, attacked
from fedmed.config import Settings
from fedmed.coordinator.evaluation import initial_model
from fedmed.launch import run_inline
from fedmed.models import trainable

ASKED: dict[str, Any] = {
    "data.patients": 100,
    "data.image-size": 16,
    "data.hospitals": 5,
    "data.partition": "even",
    "model.name": "resnet9",
    "model.trains": "head",
    "train.rounds": 3,
    "train.local-epochs": 1.0,
    "train.batch-size": 8,
    "train.learning-rate": 0.1,
    "privacy.delta": 1e-3,
    "privacy.epsilon": 100.0,
    "privacy.reproducible-noise": True,
    "evaluation.resamples": 100,
    "run.device": "cpu",
}


def weights(folder: Path, attack: Attack, **changes: Any) -> torch.Tensor:
    """The model after three rounds in which hospital-2 attacks."""
    folder = folder / f"{attack}-{len(list(folder.iterdir()))}"
    with attacked(attack, "hospital-2"):
        run_inline(Settings().replaced({**ASKED, **changes}), folder, "arm", lambda *_: None)
    arrays = load_file(folder / "model.safetensors")
    return torch.cat([arrays[name].flatten() for name in ("fc.weight", "fc.bias")])


@pytest.mark.parametrize("arm", ["none", "dp-sgd"])
def test_a_hundred_times_an_update_is_held_by_a_trimmed_mean(tmp_path: Path, arm: str) -> None:
    """How far the model is from the one without an attack, over how far training moves it."""
    asked = {"privacy.arm": arm}
    start = trainable(initial_model(Settings().replaced({**ASKED, **asked})))
    plain = weights(tmp_path, "none", **asked)
    way = float((plain - torch.cat([value.detach().flatten() for value in start.values()])).norm())

    def check(**changes: Any) -> None:
        moved = weights(tmp_path, "scaled", **asked, **changes)
        assert float((moved - plain).norm()) < 4 * way  # 2.9 and 1.2; shards are of 12 patients

    check(**{"train.trim": 1})
    goes_red(lambda: check(**{"train.update-bound": 1e6}))  # 52 and 24; at most ten times: 12 and 3


def test_labels_the_wrong_way_round_weigh_as_one_hospital(tmp_path: Path) -> None:
    """No bound on lengths sees them: a trimmed mean leaves out what is far from the others."""
    plain, flipped = (weights(tmp_path, kind) for kind in ("none", "flipped"))
    trimmed = weights(tmp_path, "none", **{"train.trim": 1})
    held = weights(tmp_path, "flipped", **{"train.trim": 1})
    assert float((held - trimmed).norm()) < 0.8 * float((flipped - plain).norm())
