"""``train.csv`` of CheXpert (Irvin et al., 2019)."""

from pathlib import Path
from typing import Final

import pandas as pd

from fedmed.data.sources.mappings import common

FINDINGS: Final = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_MAY: Final = {"age": ("Age",), "sex": ("Sex",), "view": ("Frontal/Lateral",)}


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """14 labels of 1, 0, -1 or empty.

    An empty label means that the report does not mention the finding; it counts as 0, as is usual.
    The patient is read from the path; ``view`` is AP, PA or ``lateral``.
    """
    raw, there, notes = common.columns(raw, path, ("Path",), _MAY)
    table = pd.DataFrame({"image": raw["Path"]})
    table["patient_id"] = table["image"].str.extract(r"(patient\d+)/", expand=False)
    if "view" in there:
        frontal = there["view"].str.lower() != "lateral"
        position = raw["AP/PA"] if "AP/PA" in raw.columns else pd.Series("frontal", raw.index)
        there["view"] = position.fillna("frontal").where(frontal, "lateral")
    return table.join(common.people(there)).join(
        common.uncertain_or_empty(raw, path, FINDINGS)
    ), notes
