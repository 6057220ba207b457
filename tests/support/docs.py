"""Small files in the layout of each set that the guides' examples name."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from support.volumes import nifti_image, write_series

PATIENTS = 24
LABELS = [number % 2 for number in range(PATIENTS)]


def write_examples(root: Path) -> None:
    """Every folder and table that README.md and docs/data.md use, below ``root``."""
    _own(root / "my-data")
    _scans(root / "my-data")
    _nih(root / "nih")
    _chexpert(root / "CheXpert-v1.0-small")
    _mimic(root / "mimic")
    _medmnist(root / "medmnist")
    _kermany(root / "chest_xray")


def _picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.arange(320) // 2 + number).astype(np.uint8).reshape(16, 20)
    Image.fromarray(pixels).save(path)


def _own(folder: Path) -> None:
    for number in range(PATIENTS):
        _picture(folder / "films" / f"{number}.png", number)
        path = folder / "dicom" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_dicom(number))
    with zipfile.ZipFile(folder / "films.zip", "w") as archive:
        for number in range(PATIENTS):
            archive.write(folder / "films" / f"{number}.png", f"{number}.png")
    table = pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(PATIENTS)],
            "label": LABELS,
            "patient_id": [f"{number:03d}" for number in range(PATIENTS)],
            "site": ["north", "north", "south", "south"] * (PATIENTS // 4),
        }
    )
    table.to_csv(folder / "films.csv", index=False)
    table.assign(image=table["image"].str.replace("png", "dcm")).to_csv(
        folder / "dicom.csv", index=False
    )
    names = {"image": "file", "label": "diagnosis", "patient_id": "mrn", "site": "ward"}
    diagnoses = ["normal", "viral", "normal", "bacterial"] * (PATIENTS // 4)
    table.assign(label=diagnoses, doctor="x").rename(columns=names).to_csv(
        folder / "export.csv", index=False
    )


def _dicom(number: int) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 16, 16, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = (np.arange(256, dtype=np.uint16) * (number + 1) % 4096).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _scans(folder: Path) -> None:
    """NIfTI, packed NIfTI and DICOM series in turn."""
    names, count = [], 2 * PATIENTS
    for number in range(count):
        names.append(f"{number:02d}" + (".nii", ".nii.gz", "")[number % 3])
        path = folder / "scans" / names[-1]
        if number % 3 == 2:
            write_series(path)
        else:
            path.parent.mkdir(exist_ok=True)
            nifti_image("LPS").to_filename(path)
    table = {"image": names, "label": 2 * LABELS, "patient_id": range(count)}
    pd.DataFrame(table).to_csv(folder / "scans.csv", index=False)


def _nih(folder: Path) -> None:
    names = [f"{number:08d}_000.png" for number in range(PATIENTS)]
    for number, name in enumerate(names):
        _picture(folder / "images" / name, number)
    pd.DataFrame(
        {
            "Image Index": names,
            "Finding Labels": ["Pneumonia|Edema" if label else "No Finding" for label in LABELS],
            "Patient ID": range(PATIENTS),
            "Patient Age": 50,
            "Patient Gender": "F",
            "View Position": "PA",
        }
    ).to_csv(folder / "Data_Entry_2017.csv", index=False)
    (folder / "test_list.txt").write_text("\n".join(names[:6]) + "\n")


def _chexpert(folder: Path) -> None:
    paths = [f"train/patient{number:05d}/study1/view1_frontal.jpg" for number in range(PATIENTS)]
    for number, path in enumerate(paths):
        _picture(folder / path, number)
    effusion: list[int | None] = list(LABELS)
    effusion[0], effusion[1] = -1, None
    pd.DataFrame(
        {
            "Path": [f"{folder.name}/{path}" for path in paths],
            "Sex": "Male",
            "Age": 60,
            "Frontal/Lateral": "Frontal",
            "AP/PA": "AP",
            "Pleural Effusion": effusion,
        }
    ).to_csv(folder / "train.csv", index=False)


def _mimic(folder: Path) -> None:
    subjects = [f"{10_000_000 + number}" for number in range(PATIENTS)]
    studies = [f"{50_000_000 + number}" for number in range(PATIENTS)]
    for number, (subject, study) in enumerate(zip(subjects, studies, strict=True)):
        _picture(folder / f"files/p10/p{subject}/s{study}/film{number}.jpg", number)
    films = pd.DataFrame(
        {
            "dicom_id": [f"film{number}" for number in range(PATIENTS)],
            "subject_id": subjects,
            "study_id": studies,
        }
    )
    splits = ["test"] * 4 + ["validate"] * 4 + ["train"] * (PATIENTS - 8)
    films.assign(ViewPosition="PA").to_csv(folder / "mimic-cxr-2.0.0-metadata.csv", index=False)
    films.assign(split=splits).to_csv(folder / "mimic-cxr-2.0.0-split.csv", index=False)
    films[["subject_id", "study_id"]].assign(Pneumonia=LABELS).to_csv(
        folder / "mimic-cxr-2.0.0-chexpert.csv", index=False
    )


def _medmnist(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays, rows = {}, []
    for split, count in (("train", 40), ("val", 8), ("test", 8)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
        rows += [(split, row, f"{split}-{row}" if row else "") for row in range(count)]
    np.savez(folder / "pneumoniamnist.npz", **arrays)
    deep = {
        name: array if "labels" in name else rng.integers(0, 256, (len(array), *[28] * 3), np.uint8)
        for name, array in arrays.items()
    }
    np.savez(folder / "adrenalmnist3d.npz", **deep)
    pd.DataFrame(rows, columns=["split", "row", "patient_id"]).to_csv(
        folder / "patients.csv", index=False
    )


def _kermany(folder: Path) -> None:
    for split, count in (("train", 16), ("val", 2), ("test", 8)):
        for number in range(count):
            # In the published set validation shares its numbering with training.
            person = number + (100 if split == "val" else 0)
            _picture(folder / split / "NORMAL" / f"IM-{person:04d}-0001.jpeg", number)
            _picture(folder / split / "PNEUMONIA" / f"person{person}_virus_1.jpeg", number)
