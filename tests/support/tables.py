"""Predictions tables of one set of images under many models, and run directories that hold them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedmed.evaluation.metrics import METRICS, SHARES
from fedmed.evaluation.tables import predictions


def images(n: int = 400, *, films: int = 1, seed: int = 0) -> pd.DataFrame:
    """Images without scores, a quarter for validation; women and men, all ages, two hospitals."""
    draw = np.random.default_rng(seed)
    patient = np.arange(n) // films
    people = int(patient.max()) + 1
    return pd.DataFrame(
        {
            "image": [f"i{i:05d}" for i in range(n)],
            "patient_id": [f"p{p}" for p in patient],
            "hospital": [f"hospital-{p % 2 + 1}" for p in patient],
            "split": np.where(patient % 4 == 0, "val", "test"),
            "label": draw.integers(0, 2, n),
            "age": draw.uniform(5, 95, people)[patient],
            "sex": draw.choice(["F", "M"], people)[patient],
            "view": None,
        }
    )


def scored(table: pd.DataFrame, strength: float, seed: int, *, worse: float = 1.0) -> pd.DataFrame:
    """The table with a model's scores; women's signal is `worse` times that of men."""
    noise = np.random.default_rng(seed).normal(size=len(table))
    signal = strength * np.where(table["sex"] == "F", worse, 1.0)
    logit = signal * (table["label"] - 0.5) + noise
    return table.assign(score=1.0 / (1.0 + np.exp(-logit)))


def rates(labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> SimpleNamespace:
    """Every metric of the calls score >= threshold."""
    found = {name: METRICS[name].of(labels, scores, threshold) for name in SHARES}
    return SimpleNamespace(**found)


def write_run(out: Path, name: str, seed: int, table: pd.DataFrame, **result: Any) -> Path:
    """One finished run of a comparison, as far as comparing needs it; returns its folder."""
    folder = out / name / f"seed-{seed}"
    predictions.write(table, folder / "predictions.parquet")
    told = {"arm": name, "scheme": "federated", "epsilon": None, "unit": "none"}
    told["metrics"] = {"source": "predictions"}
    (folder / "result.json").write_text(json.dumps({**told, **result}), encoding="utf-8")
    return folder
