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
control in which no gap can be true, age and sex of the test patients are dealt again at random,
many times: 95 % of the intervals have to hold zero.

Settings of cohort and training, and predictions, were fixed before any test result was seen.
:func:`experiments.phantom_found.at_one_fpr`, and dealing again without the youngest and for both
truths, were added afterwards, to explain.
"""

import argparse
import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from experiments import phantom_truth
from experiments.phantom_found import Scored, beside, dealt_again, gaps_of_seeds, measured, rounded
from fedmed import models
from fedmed.base import machine
from fedmed.config import Settings
from fedmed.data.cohort import Cohort, validate
from fedmed.data.form import Form
from fedmed.data.network import POOLED
from fedmed.data.shard import Shard
from fedmed.data.sources import phantom
from fedmed.data.sources.phantom import EFFECTS, Effects
from fedmed.data.split import assign_splits
from fedmed.experiment.file import load_experiment
from fedmed.privacy.plans import GradientPlan, Plan
from fedmed.privacy.plans.making import make_plan, noise_source
from fedmed.training.local import predict, train_plain, train_private

RESULT = Path(__file__).parent / "results" / "phantom_effects.json"
RECIPE = Path(__file__).parent / "quickstart.toml"
COHORT = {
    "data.patients": 6_700,  # four training sets as large as the quickstart's, and 4,000 to test
    "data.seed": 21,
    "data.test-fraction": 0.6,
    "data.validation-fraction": 0.075,
    "privacy.reproducible-noise": True,  # nobody is behind the films, and the record repeats
}
NO_EFFECTS = replace(
    EFFECTS, contrast_in_women=1.0, contrast_lost_per_decade=0.0, log_odds_per_decade=0.0
)
DEAL_RESAMPLES = 500
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


def training_sets(settings: Settings, cohort: Cohort, parts: int) -> list[npt.NDArray[np.bool_]]:
    """Rows [n] of `parts` disjoint sets of training patients of equal size."""
    rows = (cohort.table["split"] == "train").to_numpy()
    patients = np.array(cohort.table.loc[rows, "patient_id"].unique(), dtype=object)
    dealt = np.array_split(np.random.default_rng(settings.data.seed).permutation(patients), parts)
    return [rows & cohort.table["patient_id"].isin(each).to_numpy() for each in dealt]


def plan_of(settings: Settings, table: pd.DataFrame) -> Plan:
    """The privacy of training on these rows."""
    return make_plan(settings, int(table["patient_id"].nunique()), POOLED)


def run_arm(
    settings: Settings,
    cohort: Cohort,
    images: npt.NDArray[np.uint8],
    sets: Sequence[npt.NDArray[np.bool_]],
) -> Scored:
    """Train a model on each set of rows, its number being the seed; score all held-out films."""
    held_out = (cohort.table["split"] != "train").to_numpy()
    scores = []
    for seed, rows in enumerate(sets):
        shard = Shard(str(seed), images[rows], cohort.table[rows].reset_index(drop=True))
        here = settings.replaced({"run.seed": seed})
        scores.append(predict(_train(here, shard), images[held_out], here.model.channels))
    table = cohort.table[held_out].reset_index(drop=True)
    return Scored(table.rename(columns={"site": "hospital"}), tuple(scores))


def _train(settings: Settings, shard: Shard) -> nn.Module:
    model = models.build(settings.model, settings.data.image_size, seed=settings.run.seed)
    plan = plan_of(settings, shard.table)
    for number in range(1, settings.train.rounds + 1):
        context = (POOLED, number)
        if isinstance(plan, GradientPlan):
            source = noise_source(settings)
            train_private(model, shard, settings, plan, source, context, number)
        else:
            train_plain(model, shard, settings, context, number)
    return model


def kept(folder: Path | None, key: Mapping[str, Any], make: Callable[[], Scored]) -> Scored:
    """What `make` gives, kept in the folder under the hash of the settings that it comes from."""
    if folder is None:
        return make()
    text = json.dumps(key, sort_keys=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"
    if not path.is_file():
        made = make()
        folder.mkdir(parents=True, exist_ok=True)
        columns = {f"score {seed}": scores for seed, scores in enumerate(made.scores)}
        made.table.assign(**columns).to_parquet(path)
    table = pd.read_parquet(path)
    names = [name for name in table if str(name).startswith("score ")]
    return Scored(table.drop(columns=names), tuple(table[name].to_numpy() for name in names))


def deals(scored: Scored, times: int, seed: int) -> Json:
    """How often each interval holds zero when age and sex are dealt again."""
    held = Counter[str]()
    for holds in dealt_again(scored, times, DEAL_RESAMPLES, seed):
        held.update({name: int(fine) for name, fine in holds.items()})
    return {
        "times": times,
        "resamples": DEAL_RESAMPLES,
        "standard_error": round((0.95 * 0.05 / max(1, times)) ** 0.5, 4),
        "held": {name: round(n / times, 4) for name, n in held.items()},
    }


def tell(title: str, result: Json) -> None:
    """Print an arm's rows."""
    overall = {name: value["value"] for name, value in result["overall"].items()}
    print(f"\n{title}: {overall}, held {result['held']} of {result['of']}")
    signals = list(result["held"])
    again = [{**row, "name": f"at one FPR: {row['name']}"} for row in result["at one fpr"]]
    for row in (*result["rows"], *again):
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
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--dp-seeds", type=int, default=3)
    parser.add_argument("--deals", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--predictions", type=Path, help="folder to keep predictions in, to go on")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    started, busy = time.time(), time.process_time()
    torch.set_num_threads(1)
    before = arguments.predictions and any(arguments.predictions.glob("*.parquet"))
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
        sets = training_sets(plain, cohort, arguments.seeds)
        arms = {truth: (plain, sets)}
        if effects == EFFECTS:
            arms["effects, epsilon 8"] = (private, sets[: arguments.dp_seeds])
        for name, (settings, chosen) in arms.items():
            begun = time.time()
            key = {**settings.to_flat(), **asdict(effects), "": [arguments.seeds, len(chosen)]}
            make = partial(run_arm, settings, cohort, images, chosen)
            scored = kept(arguments.predictions, key, make)
            by = measured(scored, arguments.resamples)
            result = beside(by, scored, signals, effects, hospitals)
            tell(name, result)
            result["gaps of seeds"] = gaps_of_seeds(scored, arguments.resamples)
            plans = [plan_of(settings, cohort.table[rows]) for rows in chosen]
            result["epsilon per patient"] = rounded([plan.epsilon(plan.steps) for plan in plans])
            result["training images"] = [int(rows.sum()) for rows in chosen]
            if settings is plain:
                result["dealt again"] = deals(scored, arguments.deals, plain.data.seed)
                print("dealt again, share that holds zero:", result["dealt again"]["held"])
            results[name] = result | {"seconds": round(time.time() - begun, 1)}
    if arguments.json:
        record = {
            "cohort": changes,
            "recipe": RECIPE.name,
            "resamples": arguments.resamples,
            "effects": asdict(EFFECTS),
            "control": asdict(NO_EFFECTS),
            "results": results,
            "trained in this pass": not before,
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": round(time.time() - started, 1),
            "processor_seconds": round(time.process_time() - busy, 1),
            "versions": machine.versions() | {"python": platform.python_version()},
            "machine": machine.describe(),
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
