"""``metadata.csv`` of the covid-chestxray dataset (Cohen et al., 2020)."""

from pathlib import Path
from typing import Final

import pandas as pd

from fedmed.data.sources.mappings import common

_MAY: Final = {"age": ("age",), "sex": ("sex",), "view": ("view",)}
_UNDECIDED: Final = ("todo", "unknown")


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """A label for each part of ``finding``, which has a path such as "Pneumonia/Viral/COVID-19".

    A finding of "todo" or "Unknown" gives no label: ``data.uncertain = "ignore"`` leaves the row
    out. Rows of CT and of X-ray stand in one table: keep those whose files you have with
    ``data.missing-images``.
    """
    raw, there, notes = common.columns(raw, path, ("patientid", "finding", "filename"), _MAY)
    cells = raw["finding"].astype("string").fillna("").str.strip()
    parts = [[part.strip() for part in cell.split("/") if part.strip()] for cell in cells]
    decided = [[part for part in row if part.lower() not in _UNDECIDED] for row in parts]
    table = pd.DataFrame(
        {"image": raw["filename"], "patient_id": raw["patientid"], "finding": cells}
    )
    nothing = pd.Series([not row for row in decided])
    table = table.join(common.of_parts(decided).astype("Int8").mask(nothing))
    if nothing.any():
        notes.append(f"{path.name}: {int(nothing.sum()):,} images have no finding yet")
    return table.join(common.people(there)), notes
