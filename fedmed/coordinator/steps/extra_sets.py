"""What else a model is scored on: the training images (simulation only), noised test images.

Neither spends anything. Training images are read by the server, which only a simulation can do; no
epsilon covers numbers computed from them, and the statement says so. Test images are the server's
own: their noise is no release, needs no secret, and comes from a public seed, so that every arm
with the same mechanism meets the same images.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.config import Settings
from fedmed.coordinator.evaluation import Evaluator
from fedmed.coordinator.steps.step import Context, Step
from fedmed.data.network import held_out_shard, member_names
from fedmed.data.released import released_shard
from fedmed.data.shard import Shard
from fedmed.evaluation.discrimination import auroc
from fedmed.evaluation.summary import evaluate
from fedmed.federation.members import member_shard
from fedmed.privacy.mechanisms.images import ImageMechanism, clipped
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.making import image_mechanism, noise_source

HALF = 0.5  # the threshold of figures that stand beside published ones
_PUBLIC_SEED = 20_200_513


class _NotReleased(Exception):
    """An image of the shard was never noised: its hospital has not trained."""


@dataclass
class ExtraSets(Step):
    """Scores models on training images and noised test images, beside the clean test images.

    Every round where ``evaluation.curves`` asks for it, and at the end. The images are made once;
    training images of hospitals that refused the plan are left out.
    """

    _training: dict[str, Evaluator] = field(default_factory=dict)
    _noised: Evaluator | None = None

    def after_round(self, context: Context) -> dict[str, Any]:
        """``curves``: accuracy (at 0.5) and AUROC by set."""
        if context.evaluator is None or not context.settings.evaluation.curves:
            return {}
        tables = self._tables(context, context.evaluator)
        return {"curves": {name: _figures(table) for name, table in tables.items()}}

    def after_run(self, context: Context) -> dict[str, Any]:
        """``metrics_train`` and ``metrics_noised``, each only where asked for, and what is at 0.5.

        The validation rows of the clean table give the thresholds. Training images have no
        interval: they are no sample of anything that a patient meets.
        """
        predictions, given = context.predictions, context.settings.evaluation
        if context.evaluator is None or predictions is None:
            return {}
        tables = self._tables(context, context.evaluator)
        result: dict[str, Any] = {}
        if given.train_metrics or given.noised_test or given.curves:
            result["at_half"] = {name: _figures(table) for name, table in tables.items()}
        validation = predictions[predictions["split"] == "val"]
        for name, resamples in (("train", 0), ("noised", given.resamples)):
            if name in tables:
                rows = tables[name].assign(split="test")
                result[f"metrics_{name}"] = evaluate(
                    pd.concat([validation, rows], ignore_index=True),
                    resamples=resamples,
                    specificity=given.specificity,
                    redraw_threshold=given.redraw_threshold and resamples > 0,
                    where=f"{name} images",
                )
        return result

    def _tables(self, context: Context, main: Evaluator) -> dict[str, pd.DataFrame]:
        """Predictions by set: ``test``, and ``train`` and ``noised`` where asked for."""
        given = context.settings.evaluation
        tables = {"test": main.predictions(context.models, "test")}
        if given.train_metrics:
            parts = [e.predictions(context.models) for e in self._trained_on(context, main)]
            if parts:
                tables["train"] = pd.concat(parts, ignore_index=True)
        noised = self._noised_test(context.settings, main) if given.noised_test else None
        if noised is not None:
            tables["noised"] = noised.predictions(context.models, "test")
        return tables

    def _trained_on(self, context: Context, main: Evaluator) -> list[Evaluator]:
        """The members' training images, as training sees them, once they have been released."""
        settings, owners = context.settings, context.models
        mechanism = image_mechanism(settings)
        for member in member_names(settings):
            if member in self._training or member in context.refused:
                continue
            if len(owners) > 1 and member not in owners:
                continue
            shard = member_shard(settings, member)
            if mechanism is not None:
                try:
                    shard = _released(shard, mechanism, settings)
                except _NotReleased:
                    continue
            names = pd.Series([member] * len(shard), dtype="string")
            self._training[member] = Evaluator.over(settings, main.model, shard, names)
        return list(self._training.values())

    def _noised_test(self, settings: Settings, main: Evaluator) -> Evaluator | None:
        mechanism = image_mechanism(settings)
        if mechanism is None:
            return None
        if self._noised is None:
            shard, hospital = held_out_shard(settings.data)
            images = noised_copy(shard, mechanism, clip=settings.privacy.clip_released)
            noised = replace(shard, images=images, key=f"{shard.key}:noised", path=None)
            self._noised = Evaluator.over(settings, main.model, noised, hospital)
        return self._noised


def noised_copy(
    shard: Shard, mechanism: ImageMechanism, *, clip: bool = False
) -> NDArray[np.float32]:
    """Public images (n, ...) with the mechanism's noise from a public seed, float32 on 0 to 1.

    Always the same noise for the same image and mechanism; never that of a hospital's release.
    """
    source = NoiseSource(_PUBLIC_SEED)
    noised = np.empty(shard.images.shape, dtype=np.float32)
    for row, name in enumerate(shard.table["image"]):
        clean = np.asarray(shard.images[row], dtype=np.uint8)
        rng = source.numpy("noised-test", mechanism.key, str(name))
        noised[row] = mechanism.apply(clean[None], rng)[0]
    return clipped(noised) if clip else noised


def _released(shard: Shard, mechanism: ImageMechanism, settings: Settings) -> Shard:
    """The hospital's own release, read again; nothing is ever noised for an evaluation."""

    def known(_: str, new: str) -> None:
        if new:
            raise _NotReleased

    clip = settings.privacy.clip_released
    return released_shard(shard, mechanism, noise_source(settings), clip=clip, before=known)


def _figures(table: pd.DataFrame) -> dict[str, Any]:
    """Of several labels: the shares over all rows, and the mean of the labels' AUROCs."""
    labels = table["label"].to_numpy(dtype=np.int64)
    right = (table["score"].to_numpy(dtype=np.float64) >= HALF) == labels
    parts = [part for _, part in table.groupby("target")] if "target" in table else [table]
    aurocs = [
        auroc(part["label"].to_numpy(dtype=np.int64), part["score"].to_numpy(dtype=np.float64))
        for part in parts
        if part["label"].nunique() == 2
    ]
    shares = [part["label"].mean() for part in parts if len(part)]
    return {
        "accuracy": float(right.mean()) if len(labels) else None,
        "auroc": float(np.mean(aurocs)) if aurocs else None,
        "majority": float(np.mean([max(s, 1 - s) for s in shares])) if shares else None,
        "images": len(labels),
    }
