"""Fabricated run directories with the files that a comparison leaves behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed.evaluation import evaluate, predictions

# name: (kind, scheme, unit, epsilon, delta, strength of the scores, trust)
ARMS: dict[str, tuple[str, str, str, float | None, float | None, float, str]] = {
    "none": ("none", "federated", "none", None, None, 2.2, "everyone"),
    "pixel-laplace": ("pixel-laplace", "federated", "image", 8192.0, 0.0, 1.3, "nobody"),
    "dp-sgd": ("dp-sgd", "federated", "patient", 8.0, 1e-5, 1.5, "the hospital"),
    "central-fixed": ("central-fixed", "federated", "hospital", 20.4, 1e-5, 1.0, "the server"),
    "local-update": ("local-update", "federated", "hospital", 41.7, 1e-5, 0.02, "nobody"),
    "pooled": ("none", "pooled", "none", None, None, 2.4, "everyone"),
    "local-only": ("none", "local-only", "none", None, None, 1.7, "nobody"),
}


def table(strength: float, seed: int, n: int = 500) -> pd.DataFrame:
    """Predictions with two films per patient; women and the old are scored a little worse."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 2, n)
    patient = np.arange(n) // 2
    sex = np.where(draw.random(n // 2 + 1) < 0.48, "F", "M")[patient]
    age = draw.uniform(5, 95, n // 2 + 1)[patient]
    signal = strength * np.where(sex == "F", 0.8, 1.0) * np.where(age > 80, 0.7, 1.0)
    logit = signal * (label - 0.5) + draw.normal(size=n)
    return pd.DataFrame(
        {
            "image": [f"image-{i}" for i in range(n)],
            "patient_id": [f"patient-{p}" for p in patient],
            "hospital": [f"hospital-{p % 4 + 1}" for p in patient],
            "split": np.where(patient < n // 8, "val", "test"),
            "label": label,
            "score": 1.0 / (1.0 + np.exp(-logit)),
            "age": age,
            "sex": sex,
            "view": None,
        }
    )


def write(path: Path, value: Any) -> None:
    """Write one JSON file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_arm(directory: Path, name: str, seed: int, rounds: int = 4, **changes: Any) -> None:
    """Write the folder of one finished arm and seed; `changes` replace keys of result.json."""
    kind, scheme, unit, epsilon, delta, strength, trust = ARMS[name]
    folder = directory / name / f"seed-{seed}"
    flat = {"train.rounds": rounds, "train.scheme": scheme, "privacy.arm": kind, "run.seed": seed}
    write(folder / "config.json", {"arm": name, "seed": seed, "config": flat})
    rows = table(strength, seed)
    predictions.write(rows, folder / "predictions.parquet")
    metrics = evaluate(rows)
    history = [
        {
            "round": r,
            "auroc": 0.5 + (metrics["auroc_val"] - 0.5) * (1 - 0.5 ** (2 * r)),
            "seconds": 3.2,
            "hospitals": 4,
            "failures": [],
            "train_loss": None if kind != "none" else 0.7 - 0.05 * r,
        }
        for r in range(rounds + 1)
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    (folder / "history.jsonl").write_text(lines, encoding="utf-8")
    write(folder / "privacy.json", statement(name))
    result = {
        "name": name,
        "arm": kind,
        "scheme": scheme,
        "seed": seed,
        "epsilon": epsilon,
        "delta": delta,
        "unit": unit,
        "trust": trust,
        "rounds": rounds,
        "selected_round": rounds,
        "metrics": metrics,
        "hospital_auroc": {f"hospital-{h}": 0.8 for h in range(1, 5)}
        if scheme == "local-only"
        else None,
        "seconds": {"total": 31.4, "training": 26.0, "evaluation": 3.4, "other": 2.0},
        "peak_memory_bytes": 1_250_000_000,
        "machine": {"cpu": "Example CPU", "cores": 2, "gpu": None, "system": "Linux"},
        "versions": {"fedmed": "0.1.0", "torch": "2.14.1", "python": "3.11.7"},
        "synthetic": True,
        "cohort": "phantom, 900 patients",
    }
    write(folder / "result.json", {**result, **changes})


def statement(name: str, **changes: Any) -> dict[str, Any]:
    """A statement that keeps the schema; `changes` replace its keys."""
    kind, scheme, unit, epsilon, delta, _, trust = ARMS[name]
    claimed = epsilon is not None
    sampled = kind == "dp-sgd"
    claim = f"epsilon = {epsilon:g} per {unit}" if claimed else "no claim"
    hospitals = [
        {
            "hospital": f"hospital-{h}",
            "epsilon": epsilon,
            "delta": delta,
            "epsilon_rdp": 9.4,
            "epsilon_replace_one": 11.9,
            "epsilon_patient": None,
            "noise_multiplier": 1.1 + h / 10,
            "sampling_rate": 0.1,
            "steps": 40,
            "size": 160 + h,
            "size_declared": h == 1,
            "spent": [],
        }
        for h in range(1, 5)
    ]
    total = {
        "unit": "patient",
        "neighbouring": "add or remove one patient",
        "epsilon": 31.3,
        "delta": 1e-5,
        "runs": ["dp-sgd/seed-0", "dp-sgd/seed-1"],
        "not_bounded_by": ["none/seed-0", "pixel-laplace/seed-0"],
        "not_counted": [],
    }
    return {
        "version": 2,
        "arm": kind,
        "name": name,
        "scheme": scheme,
        "unit": unit,
        "neighbouring": f"add or remove one {unit}" if claimed else "none",
        "trust": trust,
        "mechanism": "Gaussian noise" if claimed else "none",
        "sampling": "Poisson, rate 0.1" if sampled else "every hospital every round",
        "released": ["the noised update of each round"],
        "epsilon": epsilon,
        "delta": delta,
        "mu": 1.5 if sampled else None,
        "advantage": 0.51 if sampled else None,
        "tpr_at_fpr_001": 0.1931 if sampled else None,
        "epsilon_rdp": 9.4 if sampled else None,
        "epsilon_replace_one": {"dp-sgd": 11.9, "central-fixed": 41.7}.get(kind, epsilon),
        "epsilon_patient": None,
        "epsilon_by_pixels": {"pixel": 8.0} if kind == "pixel-laplace" else {},
        "epsilon_per_pixel": 8.0 if kind == "pixel-laplace" else None,
        "epsilon_at_delta": 7000.0 if kind == "pixel-laplace" else None,
        "epsilon_with_noised_images": None,
        "epsilon_without_knowledge_of_the_seed": None,
        "target_epsilon": epsilon,
        "images_per_patient": 2 if sampled else None,
        "noise_to_signal": 213.3 if sampled else None,
        "accountant": "PLD, dp-accounting 0.6.0" if claimed else "none",
        "noise_source": "operating-system entropy",
        "random_generators": "Philox, not cryptographic",
        "steps_planned": 40,
        "steps_taken": 40,
        "sizes": "exact sizes, treated as public" if sampled else "no size enters",
        "public_data": "none: the model starts from random numbers",
        "hospitals": hospitals if sampled else [],
        "refused": [],
        "total": [total],
        "not_covered": ["choice of settings", "the held-out cohort of the server"],
        "summary": f"The arm {name} gives {claim}. Who must be trusted: {trust}.",
        **changes,
    }


def write_about(directory: Path, arms: list[str], seeds: list[int], **changes: Any) -> None:
    """Write experiment.json and samples.npz; `changes` replace keys of experiment.json."""
    about = {
        "name": "quickstart",
        "title": "What does privacy cost?",
        "description": "Four hospitals train one classifier of synthetic radiographs.",
        "arms": arms,
        "seeds": seeds,
        "base": {"train.rounds": 4, "train.scheme": "federated", "data.hospitals": 4},
        "synthetic": True,
        "cohort": "phantom, 900 patients",
        "notes": ["Four rounds only: arms have not converged."],
    }
    write(directory / "experiment.json", {**about, **changes})
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[0:32, 0:32]
    shape = 60 + 120 * (np.hypot(rows - 16, columns - 16) < 10)
    clean = np.stack([np.clip(shape + draw.normal(0, 9, shape.shape), 0, 255)] * 6)
    noisy = np.clip(clean + draw.laplace(0, 32, clean.shape), 0, 255)
    np.savez_compressed(
        directory / "samples.npz",
        **{
            "clean": clean.astype(np.uint8),
            "label": np.array([0, 1, 0, 1, 0, 1], dtype=np.int8),
            "noisy:pixel-laplace": noisy.astype(np.uint8),
        },
    )


def comparison(directory: Path, seeds: tuple[int, ...] = (0, 1)) -> Path:
    """A whole comparison: seven arms at each seed."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ARMS:
        for seed in seeds:
            write_arm(directory, name, seed)
    write_about(directory, list(ARMS), list(seeds))
    return directory
