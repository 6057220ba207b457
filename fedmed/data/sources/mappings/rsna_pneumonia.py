"""``stage_2_train_labels.csv`` of the RSNA Pneumonia Detection Challenge (Shih et al., 2019)."""

from pathlib import Path

import pandas as pd

from fedmed.base.entries import numbers
from fedmed.base.errors import UserError
from fedmed.base.frames import read_table
from fedmed.data.sources.mappings import common


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """One label: 1 where the film has any box (``Target``). The table has a row for each box.

    ``patientId`` names a film: several are of one patient of NIH ChestX-ray14, which the set does
    not tell, so the patient is unknown (``data.unknown-patients``). The finding is the class of
    ``stage_2_detailed_class_info.csv`` where that lies beside the table. Age and sex stand in the
    DICOM headers only, which are not read.
    """
    raw, _, notes = common.columns(raw, path, ("patientId", "Target"))
    target = numbers(raw["Target"])
    bad = ~target.isin([0, 1])
    if bad.any():
        row = int(bad.to_numpy().argmax()) + 1
        raise UserError(f"{path}, row {row}: Target is not 0 or 1; correct it or drop the row")
    films = target.groupby(raw["patientId"].astype("string").str.strip(), sort=False).max()
    table = pd.DataFrame({"image": films.index, "label": films.to_numpy(dtype=int)})
    notes.append(
        f"{path.name}: patientId names a film, not a person: patients, age, sex are unknown"
    )
    classes = common.beside(path, "stage_2_detailed_class_info.csv")
    if classes is not None:
        info, _, _ = common.columns(read_table(classes), classes, ("patientId", "class"))
        known = info.drop_duplicates("patientId").set_index("patientId")["class"]
        table["finding"] = table["image"].map(known)
    return table, notes
