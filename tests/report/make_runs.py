"""Fabricated run directories with the files that a comparison leaves behind.

``python tests/report/make_runs.py FOLDER`` writes one of six arms at five seeds, to look at and to
time.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.tables import predictions

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
# In no comparison of all arms.
SUMS: dict[str, tuple[str, str, str, float | None, float | None, float, str]] = {
    "distributed": ("distributed-dp-sgd", "federated", "patient", 8.0, 1e-5, 1.6, "most others"),
    "features": ("feature-laplace", "federated", "patient", 8.0, 0.0, 1.6, "nobody"),
    "central": ("central-dp-sgd", "federated", "patient", 8.0, 1e-5, 1.6, "the server"),
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


def interval(value: float | None, half: float) -> list[float] | None:
    """An interval around a share; None where there is none."""
    return None if value is None else [max(0.0, value - half), min(1.0, value + half)]


def enrich(metrics: dict[str, Any]) -> dict[str, Any]:
    """What later versions of the evaluation add, with plausible numbers; what is there stays."""
    added: dict[str, Any] = {"source": "predictions", "auprc": metrics["auroc"] - 0.04}
    added |= {"brier": 0.18, "ece": 0.05, "ppv": 0.7, "npv": 0.75}
    added["intervals"] = {
        "auroc": metrics["auroc_interval"],
        **{
            key: interval({**added, **metrics}.get(key), 0.04)
            for key in ("auprc", "accuracy", "sensitivity", "specificity", "brier", "ece", "ppv")
        },
    }
    groups = {name: [dict(row) for row in found] for name, found in metrics["groups"].items()}
    if "sex_age" not in groups:
        groups["sex_age"] = [
            {**row, "group": f"{sex} {row['group']}", "n": row["n"] // 2}
            for sex in ("F", "M")
            for row in groups["age"]
        ]
    for row in (row for found in groups.values() for row in found):
        half = 1.0 / max(4.0, float(row["n"])) ** 0.5
        row["prevalence"] = row["positives"] / max(1, row["n"])
        row.setdefault(
            "intervals",
            {key: interval(row[key], half) for key in ("auroc", "fnr", "fpr", "accuracy")},
        )
        row.setdefault(
            "minimum_detectable_gap",
            dict.fromkeys(("auroc", "fnr", "accuracy"), None if row["note"] else 1.4 * half),
        )
    fairness = {
        name: {
            **gaps,
            "intervals": {
                key: interval(value, 0.05)
                for key, value in gaps.items()
                if isinstance(value, float) and value >= 0
            },
        }
        for name, gaps in metrics["fairness"].items()
    }
    return {**added, **metrics, "groups": groups, "fairness": fairness}


def estimate(values: list[float | None], half: float) -> dict[str, Any]:
    """An estimate over seeds as comparison.json writes it; all None without values."""
    keys = ("value", "low", "high", "training_sd", "training_low", "training_high")
    found = [value for value in values if value is not None]
    if not found:
        return dict.fromkeys([*keys, "both_low", "both_high"]) | {"seeds": 0}
    value = float(np.mean(found))
    several = len(found) > 1
    spread = float(np.std(found, ddof=1)) if several else None
    wide = half + 2 * (spread or 0.0)
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "training_sd": spread,
        "training_low": value - 2 * spread if several else None,
        "training_high": value + 2 * spread if several else None,
        "both_low": value - wide if several else None,
        "both_high": value + wide if several else None,
        "seeds": len(found),
    }


def write_comparison(directory: Path, baseline: str = "none", **changes: Any) -> dict[str, Any]:
    """Write comparison.json of the finished runs; `changes` replace its keys."""
    metrics: dict[str, list[dict[str, Any]]] = {}
    inputs = {}
    for path in sorted(directory.glob("*/seed-*/result.json")):
        metrics.setdefault(path.parent.parent.name, []).append(
            json.loads(path.read_text())["metrics"]
        )
        run = f"{path.parent.parent.name}/{path.parent.name}"
        data = (path.parent / "predictions.parquet").read_bytes()
        inputs[run] = hashlib.sha256(data).hexdigest()
    by_arm = {arm: by_arm_entry(found) for arm, found in metrics.items()}
    differences = [
        row
        for arm, found in metrics.items()
        if arm != baseline
        for row in difference_rows(arm, baseline, found, metrics[baseline])
    ]
    value = {
        "baseline": baseline,
        "arms": list(metrics),
        "level": 0.95,
        "resamples": 2000,
        "method": "bca",
        "unit": "patient",
        "images": 436,
        "patients": 218,
        "positives": 210,
        "inputs": inputs,
        "by_arm": by_arm,
        "differences": differences,
        "family": {
            "method": "Holm",
            "size": sum(row["headline"] for row in differences),
            "members": "the headline differences",
        },
        "correlations": [
            {"name": "epsilon vs sex gap", "r": -0.41, "n": 4, "points": [[8.0, 0.05, "dp-sgd"]],
             "note": None},
        ],
        "notes": ["unknown is not compared: no images"],
    }  # fmt: skip
    write(directory / "comparison.json", {**value, **changes})
    return {**value, **changes}


def by_arm_entry(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One arm of comparison.json."""
    first = found[0]
    return {
        "seeds": list(range(len(found))),
        "metrics": {
            key: estimate([one.get(key) for one in found], 0.03)
            for key in ("auroc", "auprc", "sensitivity", "specificity", "accuracy", "ece", "brier")
        },
        "groups": {
            attribute: {
                row["group"]: {
                    "n": row["n"],
                    "positives": row["positives"],
                    "negatives": row["negatives"],
                    "note": row["note"],
                    **{
                        key: estimate(
                            [one["groups"][attribute][place][key] for one in found],
                            0.7 / max(4.0, row["n"]) ** 0.5,
                        )
                        for key in ("auroc", "fnr", "fpr", "accuracy")
                    },
                }
                for place, row in enumerate(rows)
            }
            for attribute, rows in first["groups"].items()
        },
        "gaps": {
            attribute: {
                key: estimate([one["fairness"][attribute][key] for one in found], 0.05)
                for key in GAPS
            }
            for attribute in first["fairness"]
        },
    }


GAPS = (
    "auroc_gap",
    "fnr_gap",
    "statistical_parity_difference",
    "equalised_odds_difference",
    "accuracy_gap",
)


def difference_rows(
    arm: str, baseline: str, found: list[dict[str, Any]], base: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Differences of one arm from the baseline: the AUROC and every gap."""

    def row(kind: str, attribute: str | None, quantity: str, pick: Any) -> dict[str, Any]:
        pairs = [(pick(one), pick(other)) for one, other in zip(found, base, strict=False)]
        pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
        change = estimate([a - b for a, b in pairs], 0.035)
        size = abs(change["value"] or 0.0) / 0.018
        p = float(np.exp(-0.7 * size**2 / 2))
        return {
            "arm": arm,
            "baseline": baseline,
            "kind": kind,
            "attribute": attribute,
            "group": None,
            "quantity": quantity,
            "baseline_value": float(np.mean([b for _, b in pairs])) if pairs else None,
            "value": float(np.mean([a for a, _ in pairs])) if pairs else None,
            "difference": change,
            "p": p,
            "p_holm": min(1.0, 12 * p),
            "delong_p": None,
            "headline": kind == "metric" or attribute in ("sex", "age"),
            "minimum_detectable": 0.05,
        }

    rows = [row("metric", None, "auroc", lambda one: one["auroc"])]
    for attribute in found[0]["fairness"]:
        rows += [
            row("gap", attribute, key, lambda one, a=attribute, k=key: one["fairness"][a][k])
            for key in GAPS
        ]
    return rows


def write(path: Path, value: Any) -> None:
    """Write one JSON file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def spent(kind: str, epsilon: float | None, share: float) -> float | None:
    """Epsilon after a share of the rounds: noised images are paid for before the first."""
    if epsilon is None or kind == "pixel-laplace":
        return epsilon
    return float(epsilon * share**0.6)


def write_arm(directory: Path, name: str, seed: int, rounds: int = 4, **changes: Any) -> None:
    """Write the folder of one finished arm and seed; `changes` replace keys of result.json."""
    kind, scheme, unit, epsilon, delta, strength, trust = {**ARMS, **SUMS}[name]
    folder = directory / name / f"seed-{seed}"
    flat = {"train.rounds": rounds, "train.scheme": scheme, "privacy.arm": kind, "run.seed": seed}
    write(folder / "config.json", {"arm": name, "seed": seed, "config": flat})
    rows = table(strength, seed)
    predictions.write(rows, folder / "predictions.parquet")
    metrics = enrich(evaluate(rows))
    history = [
        {
            "round": r,
            "auroc": 0.5 + (metrics["auroc_val"] - 0.5) * (1 - 0.5 ** (2 * r)),
            "seconds": 3.2,
            "hospitals": 4,
            "failures": [],
            "train_loss": None if kind != "none" else 0.7 - 0.05 * r,
            "bytes_sent": 180_000_000 if r else 0,
            "bytes_received": 170_000_000 if r else 0,
            "epsilon_spent": spent(kind, epsilon, r / rounds),
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


def facts(name: str) -> dict[str, Any]:
    """The typed facts of an arm."""
    kind, scheme, unit, *_ = {**ARMS, **SUMS}[name]
    relation, changes, noise, trusted, sampling = {
        "pixel-laplace": ("replace", "pixels", ["images"], [], "once"),
        "dp-sgd": ("add-or-remove", "data", ["gradients"], ["hospital"], "poisson"),
        "distributed-dp-sgd": (
            *("add-or-remove", "data", ["shares"]),
            *(["hospital", "others"], "poisson"),
        ),
        "central-dp-sgd": ("add-or-remove", "data", ["sum"], ["hospital", "server"], "poisson"),
        "central-fixed": ("zero-out", "update", ["sum"], ["server"], "everyone"),
        "local-update": ("replace", "data", ["updates"], [], "everyone"),
    }.get(kind, ("none", "nothing", [], ["everyone"], "shuffled"))
    if scheme == "local-only":
        trusted = ["recipients"]
    return {
        "unit": unit,
        "relation": relation,
        "changes": changes,
        "noise": noise,
        "trusted": trusted,
        "sampling": sampling,
    }


def statement(name: str, **changes: Any) -> dict[str, Any]:
    """A statement that keeps the schema; `changes` replace its keys."""
    kind, scheme, unit, epsilon, delta, _, trust = {**ARMS, **SUMS}[name]
    claimed = epsilon is not None
    sampled = kind == "dp-sgd"
    claim = f"epsilon = {epsilon:g} per {unit}" if claimed else "no claim"
    hospitals = [
        {
            "hospital": f"hospital-{h}",
            "facts": facts(name),
            "epsilon": epsilon,
            "epsilon_planned": epsilon,
            "delta": delta,
            "own_delta": delta,
            "epsilon_at_own_delta": epsilon,
            "epsilon_rdp": 9.4,
            "epsilon_replace_one": 11.9,
            "epsilon_patient": None,
            "epsilon_at_delta": None,
            "epsilon_with_noised_images": None,
            "epsilon_by_pixels": {},
            "mu": 1.5,
            "advantage": 0.51,
            "tpr_at_fpr_001": 0.1931,
            "images_per_patient": 2,
            "noise_multiplier": 1.1 + h / 10,
            "sampling_rate": 0.1,
            "steps": 40,
            "steps_planned": 40,
            "size": 160 + h,
            "size_declared": h == 1,
            "spent": [],
        }
        for h in range(1, 5)
    ]
    total = {
        "unit": "patient",
        "relation": "add-or-remove",
        "neighbouring": "add or remove one patient",
        "epsilon": 31.3,
        "delta": 1e-5,
        "theorem": "composition",
        "runs": ["dp-sgd/seed-0", "dp-sgd/seed-1"],
        "not_bounded_by": ["none/seed-0", "pixel-laplace/seed-0"],
        "not_counted": [],
    }
    return {
        "version": 3,
        "arm": kind,
        "name": name,
        "scheme": scheme,
        "facts": facts(name),
        "unit": unit,
        "neighbouring": f"add or remove one {unit}" if claimed else "none",
        "trust": trust,
        "mechanism": "Gaussian noise" if claimed else "none",
        "sampling": "Poisson, rate 0.1" if sampled else "every hospital every round",
        "released": ["the noised update of each round"],
        "epsilon": epsilon,
        "epsilon_planned": epsilon,
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


def comparison(
    directory: Path, seeds: tuple[int, ...] = (0, 1), arms: int = 7, rounds: int = 4
) -> Path:
    """A whole comparison: arms at each seed; comparison.json is not written."""
    directory.mkdir(parents=True, exist_ok=True)
    names = list(ARMS)[:arms]
    for name in names:
        for seed in seeds:
            write_arm(directory, name, seed, rounds)
    write_about(directory, names, list(seeds))
    return directory


def largest(directory: Path) -> Path:
    """Six arms at five seeds of forty rounds, compared: what the report has to render quickly."""
    comparison(directory, seeds=(0, 1, 2, 3, 4), arms=6, rounds=40)
    write_comparison(directory)
    return directory


if __name__ == "__main__":
    print(largest(Path(sys.argv[1])))
