"""The server's own evaluation, on its held-out cohort."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed import models
from fedmed.base import timing
from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.data.cohort import LABEL_PREFIX, SOFT_PREFIX
from fedmed.data.network import held_out_shard
from fedmed.data.pseudonym import pseudonyms
from fedmed.data.shard import Shard
from fedmed.evaluation.discrimination import auroc
from fedmed.federation import messages
from fedmed.models.features import FeatureNetwork, standardise
from fedmed.models.origin import weights_path
from fedmed.training.cached_features import featured
from fedmed.training.local import pick_device, predict


@dataclass(frozen=True)
class Evaluator:
    """Scores models on the held-out images; hospital of each row decides whose model scores it."""

    settings: Settings
    model: nn.Module
    images: NDArray[np.uint8] | NDArray[np.float32]
    table: pd.DataFrame
    hospital: pd.Series

    @classmethod
    def create(cls, settings: Settings, model: nn.Module) -> "Evaluator":
        """Evaluator of ``settings``' held-out cohort; ``model`` gives the architecture.

        Where the model asks for it, features are standardised by those of the validation images
        (see :func:`standardise`).
        """
        shard, hospital = held_out_shard(settings.data)
        model.to(pick_device(settings.run.device))
        made = cls.over(settings, model, shard, hospital)
        if isinstance(model, FeatureNetwork) and model.standard == "validation":
            rows = np.flatnonzero(shard.table["split"] == "val")
            standardise(model, torch.from_numpy(np.asarray(made.images[rows])))
        return made

    @classmethod
    def over(
        cls, settings: Settings, model: nn.Module, shard: Shard, hospital: pd.Series
    ) -> "Evaluator":
        """Evaluator of any shard; of a model with a frozen body the features are computed once."""
        shard = featured(
            model,
            shard,
            settings.model.channels,
            settings.train.augment,
            settings.data.dimensions,
        )
        return cls(settings, model, shard.images, shard.table, hospital)

    def validation_auroc(self, owners: Mapping[str, Mapping[str, Tensor]]) -> float | None:
        """AUROC on the validation images; None where they show one class only."""
        return self._auroc(owners, "val")

    def test_auroc(self, parameters: Mapping[str, Tensor]) -> float | None:
        """AUROC of one model on all test images, whatever hospital they come from."""
        return self._auroc({"": parameters}, "test")

    def _auroc(self, owners: Mapping[str, Mapping[str, Tensor]], split: str) -> float | None:
        """Of several labels the mean over those that show both classes."""
        rows = np.flatnonzero(self.table["split"] == split)
        known = {name: labels[rows] for name, labels in self._labels().items()}
        if not any(_both(labels) for labels in known.values()):
            return None
        scores = self.scores(owners, rows)
        areas = [
            auroc(labels[~np.isnan(labels)].astype(np.int64), scores[~np.isnan(labels), place])
            for place, labels in enumerate(known.values())
            if _both(labels)
        ]
        return float(np.mean(areas))

    def _labels(self) -> dict[str, NDArray[np.float64]]:
        """Labels by target, NaN where not known or uncertain; ``""`` names the only one."""
        if not self.settings.data.targets:
            return {"": self.table["label"].to_numpy(dtype=np.float64)}
        by_image = {}
        for name in self.settings.data.targets:
            labels = self.table[LABEL_PREFIX + name].to_numpy(dtype=np.float64, na_value=np.nan)
            soft = self.table.get(SOFT_PREFIX + name)
            if soft is not None:
                labels = np.where(soft.notna().to_numpy(dtype=bool), np.nan, labels)
            by_image[name] = labels
        return by_image

    def predictions(
        self, owners: Mapping[str, Mapping[str, Tensor]], split: str = ""
    ) -> pd.DataFrame:
        """The predictions table, identifiers replaced by pseudonyms; all rows or a split's.

        Of several labels it is long: one row per image and ``target``, without those not known.
        """
        rows = np.arange(len(self.table))
        if split:
            rows = np.flatnonzero(self.table["split"] == split)
        table = self.table.iloc[rows].reset_index(drop=True)
        scores = self.scores(owners, rows)
        result = pd.DataFrame(
            {
                "image": pseudonyms(table["image"], "image"),
                "patient_id": pseudonyms(table["patient_id"], "patient"),
                "hospital": self.hospital.iloc[rows].reset_index(drop=True).astype("string"),
                "split": table["split"],
                "label": table["label"].astype("int64"),
                "score": scores[:, 0],
            }
        )
        unknown = pd.Series(pd.NA, index=table.index, dtype="object")
        result["age"] = table.get("age", unknown).astype("Float64")
        for column in ("sex", "view"):
            result[column] = table.get(column, unknown).astype("string")
        for column in ("finding", "comorbidities"):
            if column in table:
                result[column] = table[column]
        if not self.settings.data.targets:
            return result
        parts = []
        for place, (name, labels) in enumerate(self._labels().items()):
            one = result.assign(target=name, label=labels[rows], score=scores[:, place])
            parts.append(one[one["label"].notna()])
        return pd.concat(parts, ignore_index=True).astype({"label": "int64"})

    def scores(
        self, owners: Mapping[str, Mapping[str, Tensor]], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Scores (n, labels) of some rows; of several owners each scores its own hospital's."""
        scores = np.full((len(rows), self.settings.data.outputs), np.nan)
        with timing.measured("evaluation"):
            for owner, parameters in owners.items():
                mine = np.ones(len(rows), dtype=bool)
                if len(owners) > 1:
                    mine = (self.hospital.to_numpy() == owner)[rows]
                messages.install(self.model, parameters)
                chosen = self.images[rows[mine]]
                predicted = predict(
                    self.model,
                    chosen,
                    self.settings.model.channels,
                    dimensions=self.settings.data.dimensions,
                )
                scores[mine] = predicted.reshape(len(predicted), scores.shape[1])
        return scores


def _both(labels: NDArray[np.float64]) -> bool:
    """Whether known labels show both classes."""
    return len(np.unique(labels[~np.isnan(labels)])) == 2


def initial_model(settings: Settings) -> nn.Module:
    """The model that round 1 starts from: the settings' architecture, weights and seed."""
    model = settings.model
    if model.weights == "pretrain":
        if not settings.run.pretrained:
            raise UserError(
                "model.weights: 'pretrain' names what [pretrain] of an experiment's file makes; "
                "run it with fedmed run, or give a file"
            )
        model = model.model_copy(update={"weights": str(weights_path(settings))})
    with torch.no_grad():
        data = settings.data
        return models.build(
            model,
            data.image_size,
            settings.run.seed,
            dimensions=data.dimensions,
            outputs=data.outputs,
        )
