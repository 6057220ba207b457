"""Do the fairness metrics find what is true of the synthetic cohort, and nothing else?

    python -m experiments.phantom_effects --json

One phantom is split by patient into one large test set, validation for the thresholds, and
disjoint training sets, one for each seed: an interval over seeds then holds the luck of the
training patients too. On each, ResNet-18 is trained without privacy, pooled, by the quickstart's
recipe as it stands (the last round's model); with fewer seeds also under DP-SGD. What
`fedmed.evaluation` finds of the groups stands beside what :mod:`experiments.phantom_truth` predicts
from the truth.

The same is done on a control, the same phantom drawn without any effect of age and sex on contrast
and prevalence. There the anatomy of women and of the old still looks different (breast shadows,
coarser lungs, a larger heart), so that gaps may be found which :data:`EFFECTS` does not hold. For a
control in which no gap can be true, age and sex of the control's test patients are dealt again at
random, many times: 95 % of the intervals have to hold zero.

All settings below were chosen, and the predictions written, before any test result was seen.
"""

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from experiments import phantom_truth
from experiments.phantom_found import Scored, beside, dealt_again, gaps_of_seeds, measured, rounded
from fedmed import machine, models
from fedmed.config import Settings
from fedmed.data.cohort import Cohort, validate
from fedmed.data.form import Form
from fedmed.data.network import POOLED
from fedmed.data.shard import Shard
from fedmed.data.sources import phantom
from fedmed.data.sources.phantom import EFFECTS, Effects
from fedmed.data.split import assign_splits
from fedmed.experiment import load_experiment
from fedmed.privacy.plan import make_plan, noise_source
from fedmed.privacy.plans import GradientPlan
from fedmed.training import predict, train_plain, train_private

RESULT = Path(__file__).parent / "results" / "phantom_effects.json"
RECIPE = Path(__file__).parent / "quickstart.toml"
COHORT = {
    "data.patients": 12_000,
    "data.seed": 21,
    "data.test-fraction": 0.4,
    "data.validation-fraction": 0.1,
    "privacy.reproducible-noise": True,  # nobody is behind the films, and the record repeats
}
NO_EFFECTS = replace(
    EFFECTS, contrast_in_women=1.0, contrast_lost_per_decade=0.0, log_odds_per_decade=0.0
)
Json = dict[str, Any]


def arm(name: str, changes: Mapping[str, Any]) -> Settings:
    """The quickstart's settings of an arm, trained in one place, with the changes."""
    (settings,) = load_experiment(RECIPE, arms=[name]).arms.values()
    return settings.replaced({"train.scheme": "pooled", **changes})


def draw(settings: Settings, effects: Effects) -> tuple[Cohort, npt.NDArray[np.uint8]]:
    """The split cohort under these effects, its films as the model sees them, (n, size, size)."""
    cohort = phantom.load(settings.data, effects)
    cohort = assign_splits(cohort.with_table(validate(cohort.table, cohort.name)), settings.data)
    form = Form.of(settings.data)
    names = cohort.table["image"]
    return cohort, np.stack([form.make(cohort.images.read(name), name) for name in names])


def run_arm(
    settings: Settings, cohort: Cohort, images: npt.NDArray[np.uint8], seeds: int, parts: int
) -> tuple[Scored, list[float]]:
    """Train a model on each of the first `seeds` of `parts` sets of patients, and score all others.

    Also each seed's epsilon per patient, none without privacy.
    """
    table = cohort.table
    rows = (table["split"] == "train").to_numpy()
    patients = np.array(table.loc[rows, "patient_id"].unique(), dtype=object)
    dealt = np.array_split(np.random.default_rng(settings.data.seed).permutation(patients), parts)
    scores, epsilons = [], []
    for seed in range(seeds):
        chosen = rows & table["patient_id"].isin(dealt[seed]).to_numpy()
        shard = Shard(str(seed), images[chosen], table[chosen].reset_index(drop=True))
        here = settings.replaced({"run.seed": seed})
        model, epsilon = _train(here, shard)
        scores.append(predict(model, images[~rows], here.model.channels))
        epsilons += [] if epsilon is None else [epsilon]
    held_out = table[~rows].reset_index(drop=True)
    return Scored(held_out.rename(columns={"site": "hospital"}), tuple(scores)), epsilons


def _train(settings: Settings, shard: Shard) -> tuple[nn.Module, float | None]:
    model = models.build(settings.model, settings.data.image_size, seed=settings.run.seed)
    plan = make_plan(settings, len(shard.patients()), POOLED)
    for number in range(1, settings.train.rounds + 1):
        context = (POOLED, number)
        if isinstance(plan, GradientPlan):
            source = noise_source(settings)
            train_private(model, shard, settings, plan, source, context, number)
        else:
            train_plain(model, shard, settings, context, number)
    return model, plan.epsilon(plan.steps) if isinstance(plan, GradientPlan) else None


def tell(title: str, result: Json) -> None:
    """Print an arm's rows."""
    overall = {name: value["value"] for name, value in result["overall"].items()}
    print(f"\n{title}: {overall}, held {result['held']} of {result['of']}")
    signals = list(result["held"])
    for row in result["rows"]:
        predicted = "  ".join(
            f"{row[signal]:7.3f}{' ' if row[f'{signal} held'] else '!'}" for signal in signals
        )
        share = f"{row['from prevalence']:7.3f}" if "from prevalence" in row else ""
        print(
            f"{row['name']:42} {predicted}  {row['found']:7.3f} "
            f"({row['low']:.3f} to {row['high']:.3f}) {share}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate, print the table of every arm; `--json` records it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=COHORT["data.patients"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dp-seeds", type=int, default=3)
    parser.add_argument("--deals", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    started, busy = time.time(), time.process_time()
    torch.set_num_threads(1)
    changes = {**COHORT, "data.patients": arguments.patients}
    plain, private = arm("pooled", changes), arm("dp-sgd", changes)
    hospitals = plain.data.hospitals
    results: Json = {}
    for truth, effects in (("effects", EFFECTS), ("control", NO_EFFECTS)):
        cohort, images = draw(plain, effects)
        signals = {
            "contrast": phantom_truth.by_contrast(effects, hospitals),
            "visible": phantom_truth.by_visible(cohort),
        }
        arms = {truth: (plain, arguments.seeds)}
        if effects == EFFECTS:
            arms["effects, epsilon 8"] = (private, arguments.dp_seeds)
        for name, (settings, seeds) in arms.items():
            begun = time.time()
            scored, epsilons = run_arm(settings, cohort, images, seeds, arguments.seeds)
            result = beside(measured(scored, arguments.resamples), signals, effects, hospitals)
            tell(name, result)
            result["gaps of seeds"] = gaps_of_seeds(scored, arguments.resamples)
            result |= {"seeds": seeds, "epsilon per patient": rounded(epsilons)}
            results[name] = result | {"seconds": round(time.time() - begun, 1)}
        if truth == "control":
            begun, held = time.time(), Counter[str]()
            for holds in dealt_again(scored, arguments.deals, 500, seed=plain.data.seed):
                held.update({name: int(fine) for name, fine in holds.items()})
            results["dealt again"] = {
                "times": arguments.deals,
                "resamples": 500,
                "standard_error": round((0.95 * 0.05 / max(1, arguments.deals)) ** 0.5, 4),
                "held": {name: round(n / arguments.deals, 4) for name, n in held.items()},
                "seconds": round(time.time() - begun, 1),
            }
            print(results["dealt again"])
    if arguments.json:
        record = {
            "cohort": changes,
            "recipe": RECIPE.name,
            "resamples": arguments.resamples,
            "effects": asdict(EFFECTS),
            "control": asdict(NO_EFFECTS),
            "results": results,
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": round(time.time() - started, 1),
            "processor_seconds": round(time.process_time() - busy, 1),
            "versions": machine.versions() | {"python": platform.python_version()},
            "machine": machine.describe(),
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
