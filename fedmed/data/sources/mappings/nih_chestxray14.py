"""``Data_Entry_2017.csv`` of NIH ChestX-ray14 (Wang et al., 2017) in each of its editions."""

from pathlib import Path
from typing import Final

import pandas as pd

from fedmed.base import entries
from fedmed.base.delimited import MOST_BYTES
from fedmed.base.opening import read_bytes
from fedmed.data.sources.mappings import common

FINDINGS: Final = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_MAY: Final = {
    "age": ("Patient Age",),
    "sex": ("Patient Sex", "Patient Gender"),
    "view": ("View Position",),
}


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """14 labels. Ages above 120 (typing errors of the set) become unknown.

    Where ``test_list.txt`` lies beside the table, its images are the test split and all others
    train; validation is then drawn.
    """
    raw, there, notes = common.columns(
        raw, path, ("Image Index", "Finding Labels", "Patient ID"), _MAY
    )
    findings = raw["Finding Labels"].astype("string").fillna("")
    table = pd.DataFrame({"image": raw["Image Index"], "finding": findings})
    parts = ([part.strip() for part in cell.split("|")] for cell in findings)
    nothing = entries.missing(findings)
    table = table.join(common.of_parts(parts, FINDINGS).astype("Int8").mask(nothing))
    if nothing.any():
        notes.append(f"{path.name}: {int(nothing.sum()):,} images have no labels")
    table["patient_id"] = raw["Patient ID"]
    table = table.join(common.people(there))
    listed = path.parent / "test_list.txt"
    if listed.is_file():
        test = set(read_bytes(listed, MOST_BYTES).decode("utf-8", "replace").split())
        table["split"] = ["test" if name in test else "train" for name in table["image"]]
    return table, notes
