"""A comparison on CT volumes and on slices of them, in this process, with real models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.launch import run_inline

TEXT = """
name = "ct"
[data]
patients = 40
hospitals = 2
image-size = 16
[model]
name = "resnet9"
[train]
rounds = 1
local-epochs = 0.5
batch-size = 4
[privacy]
delta = 1e-3
epsilon = 50
"""


class Silent:
    def preparing(self, what: str) -> None: ...
    def note(self, what: str) -> None: ...
    def started(self, arm: str, seed: int, rounds: int) -> None: ...
    def round(self, number: int, rounds: int, auroc: float | None) -> None: ...
    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None: ...


@pytest.mark.parametrize(
    ("assignments", "points", "element"),
    [
        (["data.dimensions=3"], 16**3, "voxel"),
        (["data.slices=2", "model.channels=2"], 2 * 16**2, "pixel"),
    ],
    ids=["volumes", "slices"],
)
def test_a_comparison_on_ct(
    tmp_path: Path, assignments: list[str], points: int, element: str
) -> None:
    path = tmp_path / "ct.toml"
    path.write_text(TEXT)
    arms = ["none", "dp-sgd", "pixel-laplace"]
    experiment = load_experiment(path, arms=arms, assignments=assignments)
    out = tmp_path / "out"
    run_experiment(experiment, out, run_inline, Silent())
    told = {a: json.loads((out / a / "seed-0" / "privacy.json").read_text()) for a in arms}
    assert told["dp-sgd"]["unit"] == "patient"
    assert told["dp-sgd"]["epsilon"] <= 50
    laplace = told["pixel-laplace"]
    assert laplace["epsilon"] == pytest.approx(50)
    assert laplace["epsilon_per_pixel"] == pytest.approx(50 / points)
    assert f"on every {element}" in laplace["mechanism"]
    assert laplace["neighbouring"] == f"replace the {element}s of one image"
    table = pd.read_parquet(out / "none" / "seed-0" / "predictions.parquet")
    assert table["score"].between(0, 1).all()
    assert table["score"].nunique() > 5
    with np.load(out / "samples.npz") as samples:
        assert samples["clean"].shape[1:] == (16, 16)
        assert samples["noisy:pixel-laplace"].shape == samples["clean"].shape
