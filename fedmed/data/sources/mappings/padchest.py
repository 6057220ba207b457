"""``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` of PadChest (Bustos et al., 2020)."""

from pathlib import Path
from typing import Final

import pandas as pd

from fedmed.base.entries import OLDEST, numbers
from fedmed.data.cohort import LABEL_PREFIX
from fedmed.data.sources.labels import items
from fedmed.data.sources.mappings import common

_MAY: Final = {
    "sex": ("PatientSex_DICOM",),
    "view": ("Projection", "ViewPosition_DICOM"),
    "birth": ("PatientBirth",),
    "study": ("StudyDate_DICOM",),
}
_UNUSABLE: Final = ("exclude", "suboptimal study")  # findings that say the film is none


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """A label for each finding that any report names, as the set's lists spell it.

    A film without a list, or whose list says ``exclude`` or ``suboptimal study``, has no label:
    ``data.uncertain = "ignore"`` leaves it out. The age is the year of the study less that of birth
    (0 to 1 years too high); ages that are none become unknown.
    """
    raw, there, notes = common.columns(raw, path, ("ImageID", "PatientID", "Labels"), _MAY)
    image = raw["ImageID"].astype("string")
    if "ImageDir" in raw.columns:
        image = (raw["ImageDir"].astype("string").str.strip() + "/").fillna("") + image
    cells = raw["Labels"].astype("string").fillna("").str.strip()
    parts = [[item.strip().lower() for item in items(cell) if item.strip()] for cell in cells]
    table = pd.DataFrame({"image": image, "patient_id": raw["PatientID"]})
    table["finding"] = pd.Series(["|".join(row) for row in parts], dtype="string")
    labels = common.of_parts(parts).astype("Int8")
    labels = labels.drop(columns=[LABEL_PREFIX + word for word in _UNUSABLE], errors="ignore")
    nothing = pd.Series([not row or bool({*row} & {*_UNUSABLE}) for row in parts])
    table = table.join(labels.mask(nothing))
    if nothing.any():
        notes.append(f"{path.name}: {int(nothing.sum()):,} images have no usable labels")
    table = table.join(common.people(there))
    if "birth" in there and "study" in there:
        age = numbers(there["study"].astype("string").str[:4]) - numbers(there["birth"])
        table["age"] = age.where(age.between(0, OLDEST))
    return table, notes
