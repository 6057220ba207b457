"""The server's own evaluation, on its held-out cohort."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed import models, timing
from fedmed.config import Settings
from fedmed.data.network import held_out_shard
from fedmed.data.pseudonym import pseudonyms
from fedmed.evaluation.discrimination import auroc
from fedmed.federation import messages
from fedmed.training import pick_device, predict


@dataclass(frozen=True)
class Evaluator:
    """Scores models on the held-out images; hospital of each row decides whose model scores it."""

    settings: Settings
    model: nn.Module
    images: NDArray[np.uint8]
    table: pd.DataFrame
    hospital: pd.Series

    @classmethod
    def create(cls, settings: Settings, model: nn.Module) -> "Evaluator":
        """Evaluator of ``settings``' held-out cohort; ``model`` gives the architecture."""
        shard, hospital = held_out_shard(settings.data)
        device = pick_device(settings.run.device)
        images: NDArray[np.uint8] = shard.images  # type: ignore[assignment]
        return cls(settings, model.to(device), images, shard.table, hospital)

    def validation_auroc(self, owners: Mapping[str, Mapping[str, Tensor]]) -> float | None:
        """AUROC on the validation images; None where they show one class only."""
        return self._auroc(owners, "val")

    def test_auroc(self, parameters: Mapping[str, Tensor]) -> float | None:
        """AUROC of one model on all test images, whatever hospital they come from."""
        return self._auroc({"": parameters}, "test")

    def _auroc(self, owners: Mapping[str, Mapping[str, Tensor]], split: str) -> float | None:
        rows = np.flatnonzero(self.table["split"] == split)
        labels = self.table["label"].to_numpy(dtype=np.int64)[rows]
        if len(np.unique(labels)) < 2:
            return None
        return float(auroc(labels, self._scores(owners, rows)))

    def predictions(self, owners: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
        """The predictions table: validation and test rows, identifiers replaced by pseudonyms."""
        rows = np.arange(len(self.table))
        table = self.table
        result = pd.DataFrame(
            {
                "image": pseudonyms(table["image"], "image"),
                "patient_id": pseudonyms(table["patient_id"], "patient"),
                "hospital": self.hospital.astype("string"),
                "split": table["split"],
                "label": table["label"].astype("int64"),
                "score": self._scores(owners, rows),
            }
        )
        unknown = pd.Series(pd.NA, index=table.index, dtype="object")
        result["age"] = table.get("age", unknown).astype("Float64")
        for column in ("sex", "view"):
            result[column] = table.get(column, unknown).astype("string")
        for column in ("finding", "comorbidities"):
            if column in table:
                result[column] = table[column]
        return result

    def _scores(
        self, owners: Mapping[str, Mapping[str, Tensor]], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        scores = np.full(len(rows), np.nan)
        with timing.measured("evaluation"):
            for owner, parameters in owners.items():
                mine = np.ones(len(rows), dtype=bool)
                if len(owners) > 1:
                    mine = (self.hospital.to_numpy() == owner)[rows]
                messages.install(self.model, parameters)
                chosen = self.images[rows[mine]]
                scores[mine] = predict(
                    self.model,
                    chosen,
                    self.settings.model.channels,
                    dimensions=self.settings.data.dimensions,
                )
        return scores


def initial_model(settings: Settings) -> nn.Module:
    """The model that round 1 starts from: the settings' architecture, weights and seed."""
    with torch.no_grad():
        data = settings.data
        return models.build(
            settings.model, data.image_size, settings.run.seed, dimensions=data.dimensions
        )
