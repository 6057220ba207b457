"""``mimic-cxr-2.0.0-chexpert.csv`` of MIMIC-CXR-JPG (Johnson et al., 2019), one row per image."""

from pathlib import Path

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.frames import read_table
from fedmed.data.sources.mappings import common
from fedmed.data.sources.mappings.chexpert import FINDINGS


def read(raw: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """The labels of CheXpert, of studies, for the images that the tables beside it name.

    Views come from ``mimic-cxr-2.0.0-metadata.csv`` and the official split from
    ``mimic-cxr-2.0.0-split.csv`` (or ``.csv.gz``); at least one must be there. An image that one of
    them names and the other does not is an error, or under ``missing`` = "leave-out" left out with
    a note, as images without a labelled study are. An empty label counts as 0, as is usual. The
    set's own tables hold no age and no sex.
    """
    raw, _, notes = common.columns(raw, path, ("subject_id", "study_id"))
    films, told = _films(path, missing)
    twice = raw["study_id"].duplicated()
    if twice.any():
        row = int(twice.to_numpy().argmax()) + 1
        raise UserError(f"{path}, row {row}: study_id is listed twice; keep one row per study")
    joined = films.merge(raw, on="study_id", how="inner", validate="many_to_one")
    if len(joined) < len(films):
        notes.append(f"{path.name}: {len(films) - len(joined):,} images left out, without a label")
    subject, study = joined["subject_id"].astype(str), joined["study_id"].astype(str)
    place = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/"
    table = pd.DataFrame({"image": place + joined["dicom_id"] + ".jpg", "patient_id": subject})
    if "ViewPosition" in joined.columns:
        table["view"] = joined["ViewPosition"]
    if "split" in joined.columns:
        table["split"] = joined["split"].replace({"validate": "val"})
    return table.join(common.uncertain_or_empty(joined, path, FINDINGS)), [*notes, *told]


def _films(path: Path, missing: str) -> tuple[pd.DataFrame, list[str]]:
    """A row per image, from the tables beside the labels."""
    films: pd.DataFrame | None = None
    notes: list[str] = []
    for kind in ("metadata", "split"):
        at = common.beside(path, f"mimic-cxr-2.0.0-{kind}.csv")
        if at is None:
            notes.append(
                f"{path.name}: no mimic-cxr-2.0.0-{kind}.csv beside it: "
                f"{'view' if kind == 'metadata' else 'split'} is unknown"
            )
            continue
        table, _, _ = common.columns(read_table(at), at, ("dicom_id", "study_id"))
        wanted = [c for c in ("dicom_id", "study_id", "ViewPosition", "split") if c in table]
        table = table[wanted]
        if films is None:
            films = table
            continue
        joined = films.merge(table, on=["dicom_id", "study_id"], how="outer", indicator="in")
        both = joined["in"] == "both"
        if not both.all():
            count = (
                f"{int((~both).sum()):,} of {len(both):,} images are in one of metadata and split"
            )
            if missing == "refuse":
                raise UserError(
                    f"{at}: {count}, not in both; give both tables of one release, or set "
                    'data.missing-images = "leave-out"'
                )
            notes.append(f"{at.name}: {count}, and left out (data.missing-images)")
        films = joined[both].drop(columns="in").reset_index(drop=True)
    if films is None:
        raise UserError(
            f"{path}: put mimic-cxr-2.0.0-metadata.csv or mimic-cxr-2.0.0-split.csv (or .gz) "
            "beside it; they name the images"
        )
    return films, notes
