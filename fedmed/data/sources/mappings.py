"""Ready mappings from public sets' own tables to the schema.

Each takes the table as read (all text) and its path, and returns columns of the schema with one
``label:<name>`` per finding. Uncertain labels stay -1 here. No mapping invents a column: what a
set's tables do not say is missing.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.base.frames import MOST_BYTES
from fedmed.base.opening import read_bytes
from fedmed.base.sexes import SEX_WORDS
from fedmed.data.cohort import LABEL_PREFIX
from fedmed.data.sources.reading import read_table

NIH_FINDINGS = (
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
CHEXPERT_FINDINGS = (
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


def nih_chestxray14(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """``Data_Entry_2017.csv`` of NIH ChestX-ray14 (Wang et al., 2017), 14 labels.

    Ages above 120 (typing errors of the set) become unknown. Where ``test_list.txt`` lies beside
    the table, its images are the test split and all others train; validation is then drawn.
    """
    _need(raw, ("Image Index", "Finding Labels", "Patient ID"), path)
    findings = raw["Finding Labels"].astype("string").fillna("")
    table = pd.DataFrame({"image": raw["Image Index"], "finding": findings})
    named = findings.str.split("|")
    for name in NIH_FINDINGS:
        table[LABEL_PREFIX + name] = [int(name in found) for found in named]
    table["patient_id"] = raw["Patient ID"]
    if "Patient Age" in raw.columns:
        digits = raw["Patient Age"].astype("string").str.extract(r"^\s*(\d+)", expand=False)
        age = pd.to_numeric(digits, errors="coerce")
        table["age"] = age.mask(age > 120)
    if "Patient Gender" in raw.columns:
        table["sex"] = _sex(raw["Patient Gender"])
    if "View Position" in raw.columns:
        table["view"] = raw["View Position"]
    listed = path.parent / "test_list.txt"
    if listed.is_file():
        text = read_bytes(listed, MOST_BYTES).decode("utf-8", "replace")
        test = set(text.split())
        table["split"] = ["test" if name in test else "train" for name in table["image"]]
    return table


def chexpert(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """``train.csv`` of CheXpert (Irvin et al., 2019), 14 labels of 1, 0, -1 or empty.

    An empty label means that the report does not mention the finding; it counts as 0, as is usual.
    The patient is read from the path; ``view`` is AP, PA or ``lateral``.
    """
    _need(raw, ("Path",), path)
    table = pd.DataFrame({"image": raw["Path"]})
    table["patient_id"] = table["image"].str.extract(r"(patient\d+)/", expand=False)
    if "Age" in raw.columns:
        table["age"] = raw["Age"]
    if "Sex" in raw.columns:
        table["sex"] = _sex(raw["Sex"])
    if "Frontal/Lateral" in raw.columns:
        frontal = raw["Frontal/Lateral"].str.lower() != "lateral"
        position = raw["AP/PA"] if "AP/PA" in raw.columns else pd.Series("frontal", raw.index)
        table["view"] = position.fillna("frontal").where(frontal, "lateral")
    return _with_findings(table, raw, path)


def mimic_cxr_jpg(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """``mimic-cxr-2.0.0-chexpert.csv`` of MIMIC-CXR-JPG (Johnson et al., 2019), one row per image.

    Labels belong to studies; the images, their views and the official split come from
    ``mimic-cxr-2.0.0-metadata.csv`` and ``mimic-cxr-2.0.0-split.csv`` (or ``.csv.gz``) beside it;
    at least one must be there. Images without a labelled study are left out. An empty label
    counts as 0, as is usual. The set's own tables hold no age and no sex.
    """
    _need(raw, ("subject_id", "study_id"), path)
    films: pd.DataFrame | None = None
    for kind in ("metadata", "split"):
        beside = _beside(path, f"mimic-cxr-2.0.0-{kind}.csv")
        if beside is None:
            continue
        table = read_table(beside)
        _need(table, ("dicom_id", "study_id"), beside)
        wanted = [c for c in ("dicom_id", "study_id", "ViewPosition", "split") if c in table]
        table = table[wanted]
        films = table if films is None else films.merge(table, on=["dicom_id", "study_id"])
    if films is None:
        raise UserError(
            f"{path}: put mimic-cxr-2.0.0-metadata.csv or mimic-cxr-2.0.0-split.csv (or .gz) "
            "beside it; they name the images"
        )
    twice = raw["study_id"].duplicated()
    if twice.any():
        row = int(twice.to_numpy().argmax()) + 1
        raise UserError(f"{path}, row {row}: study_id is listed twice; keep one row per study")
    joined = films.merge(raw, on="study_id", how="inner", validate="many_to_one")
    subject, study = joined["subject_id"].astype(str), joined["study_id"].astype(str)
    place = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/"
    mapped = pd.DataFrame({"image": place + joined["dicom_id"] + ".jpg", "patient_id": subject})
    if "ViewPosition" in joined.columns:
        mapped["view"] = joined["ViewPosition"]
    if "split" in joined.columns:
        mapped["split"] = joined["split"].replace({"validate": "val"})
    return _with_findings(mapped, joined, path)


MAPPINGS: dict[str, Callable[[pd.DataFrame, Path], pd.DataFrame]] = {
    "nih-chestxray14": nih_chestxray14,
    "chexpert": chexpert,
    "mimic-cxr-jpg": mimic_cxr_jpg,
}


def _need(raw: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    for column in columns:
        if column not in raw.columns:
            raise UserError(
                f"{path}: no column '{column}', which data.mapping expects; give the set's own "
                "table, or map the columns with data.columns"
            )


def _with_findings(table: pd.DataFrame, raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add ``label:<name>`` for each CheXpert finding of ``raw``, empty as 0."""
    present = [name for name in CHEXPERT_FINDINGS if name in raw.columns]
    _need(raw, tuple(present) or CHEXPERT_FINDINGS[:1], path)
    for name in present:
        table[LABEL_PREFIX + name] = raw[name].fillna("0")
    return table


def _sex(values: pd.Series) -> pd.Series:
    """F or M; what the sets write for unknown becomes <NA>."""
    return values.astype("string").str.strip().str.lower().map(SEX_WORDS).astype("string")


def _beside(path: Path, name: str) -> Path | None:
    for candidate in (path.parent / name, path.parent / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None
