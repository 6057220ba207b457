"""Small valid files of every format that fedmed reads: what the bad inputs are made from."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from functools import cache
from random import Random
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from safetensors.torch import save

SIDE = 24
COUNT = 16  # images of a cohort: a sheet shows them all

EXPERIMENT = """\
name = "mine"
title = "A comparison"
seeds = [0]
arms = ["none"]

[data]
source = "table"
path = "table.csv"
images = "images"
image-size = 16
hospitals = 1
partition = "even"
split = "given"
"""
PHANTOM = """\
name = "mine"
arms = ["none", "dp-sgd"]
seeds = [0]

[data]
source = "phantom"
patients = 60
image-size = 16

[model]
name = "resnet9"

[train]
rounds = 1
local-epochs = 1.0

[privacy]
epsilon = 8.0
delta = 1e-4

[arm.dp-sgd.train]
batch-size = 8
"""


def grey(rng: Random, side: int = SIDE) -> NDArray[np.uint8]:
    """A random grey image."""
    found: NDArray[np.uint8] = np.random.default_rng(rng.getrandbits(32)).integers(
        0, 256, (side, side), dtype=np.uint8
    )
    return found


def picture(rng: Random, form: str = "PNG", **options: Any) -> bytes:
    """A PNG or JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(grey(rng)).save(buffer, form, **options)
    return buffer.getvalue()


def dataset(pixels: NDArray[Any]) -> Dataset:
    """A grey DICOM image."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    found.SOPInstanceUID = "1.2.3"
    found.Rows, found.Columns = pixels.shape
    found.BitsAllocated = 8 * pixels.dtype.itemsize
    found.BitsStored = 12 if pixels.dtype.itemsize == 2 else 8
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = 0
    found.SamplesPerPixel = 1
    found.PhotometricInterpretation = "MONOCHROME2"
    found.PixelData = pixels.tobytes()
    return found


def saved(found: Dataset) -> bytes:
    """A data set as a file."""
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


SYNTAXES = (
    *("plain", "rle", "jpeg 2000", "jpeg", "deflated"),
    *("jpeg lossless", "jpeg 12 bit", "jpeg-ls", "old", "gzip"),
)


def dicom(rng: Random, syntax: str = "plain", **tags: Any) -> bytes:
    """A DICOM radiograph in one of :data:`SYNTAXES`; ``tags`` are set last."""
    side = 64 if syntax == "jpeg 2000" else SIDE  # its encoder takes no smaller ones
    deep = grey(rng, side).astype(np.uint16) * 16
    found = dataset(grey(rng) if syntax == "jpeg" else deep)
    if syntax == "jpeg":
        found.PixelData = encapsulate([picture(rng, "JPEG")])
        found["PixelData"].is_undefined_length = True
        found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    elif syntax in ("jpeg lossless", "jpeg 12 bit", "jpeg-ls"):
        lossless = syntax == "jpeg lossless"
        frame = (
            imagecodecs.jpegls_encode(deep)
            if syntax == "jpeg-ls"
            else imagecodecs.jpeg8_encode(deep, lossless=lossless, bitspersample=12)
        )
        found.PixelData = encapsulate([frame])
        found["PixelData"].is_undefined_length = True
        uids = {"jpeg lossless": JPEGLosslessSV1, "jpeg 12 bit": JPEGExtended12Bit}
        found.file_meta.TransferSyntaxUID = uids.get(syntax, JPEGLSLossless)
    elif syntax == "deflated":
        found.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif syntax in ("rle", "jpeg 2000"):
        found.compress({"rle": RLELossless, "jpeg 2000": JPEG2000Lossless}[syntax])
    for name, value in tags.items():
        setattr(found, name, value)
    data = saved(found)
    if syntax == "old":  # without a preamble
        return data[132:]
    return gzip.compress(data) if syntax == "gzip" else data


def ct_slice(rng: Random, plane: int, **tags: Any) -> bytes:
    """An axial CT slice."""
    found = dataset((grey(rng).astype(np.int16) * 4 - 500).astype(np.int16))
    found.SOPClassUID = CTImageStorage
    found.SeriesInstanceUID, found.Modality = "1.2.3", "CT"
    found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 15, 1
    found.ImagePositionPatient = [0, 0, 2 * plane]
    found.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    found.PixelSpacing = [1.5, 1.0]
    found.RescaleSlope, found.RescaleIntercept = 1, 0
    for name, value in tags.items():
        setattr(found, name, value)
    return saved(found)


def nifti(rng: Random, packed: bool = False) -> bytes:
    """A small CT volume."""
    voxels = np.random.default_rng(rng.getrandbits(32)).integers(-900, 900, (8, 9, 10))
    image = nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([1.0, 1.5, 2.0, 1.0]))
    data: bytes = image.to_bytes()
    return gzip.compress(data) if packed else data


def npy(array: NDArray[Any], **options: Any) -> bytes:
    """An array as a file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def archive(members: dict[str, bytes], packed: bool = True) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return buffer.getvalue()


def medmnist(rng: Random, **changes: bytes) -> bytes:
    """An .npz as MedMNIST makes it; ``changes`` replace arrays (as files)."""
    members = {}
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        images = np.stack([grey(rng, 28) for _ in range(count)])
        members[f"{split}_images.npy"] = npy(images)
        members[f"{split}_labels.npy"] = npy(np.arange(count).reshape(-1, 1) % 2)
    return archive({**members, **{f"{name}.npy": data for name, data in changes.items()}})


def cohort_rows(suffix: str = ".png") -> list[dict[str, Any]]:
    """Rows of a table of :data:`COUNT` images, two of each patient."""
    return [
        {
            "image": f"{number:02}{suffix}",
            "label": number % 4 // 2,
            "patient_id": f"p{number // 2}",
            "age": 40 + number,
            "sex": "FM"[number % 2],
            "finding": "none",
            "split": ("train", "train", "val", "test")[number // 4],
        }
        for number in range(COUNT)
    ]


def csv(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a CSV file."""
    return pd.DataFrame(rows).to_csv(index=False).encode()


def parquet(frame: pd.DataFrame) -> bytes:
    """A frame as a Parquet file."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def scores(rng: Random, count: int = 60) -> pd.DataFrame:
    """A predictions table."""
    draw = np.random.default_rng(rng.getrandbits(32))
    number = np.arange(count)
    return pd.DataFrame(
        {
            "image": [f"image-{n}" for n in number],
            "patient_id": [f"patient-{n // 2}" for n in number],
            "hospital": [f"hospital-{n // 2 % 2 + 1}" for n in number],
            "split": np.where(number < count // 4, "val", "test"),
            "label": number % 4 // 2,
            "score": draw.random(count),
            "age": draw.uniform(20, 90, count),
            "sex": np.where(number % 2, "F", "M"),
            "view": None,
        }
    )


def state() -> dict[Any, Any]:
    """Weights of the smallest network."""
    from fedmed.config import Model
    from fedmed.models import build

    found: dict[Any, Any] = build(Model(name="resnet9"), 16, 0).state_dict()
    return found


@cache
def weights(suffix: str) -> bytes:
    """Those weights as a file."""
    if suffix == ".safetensors":
        return save(state())
    if suffix == ".npz":
        return archive({f"{name}.npy": npy(value.numpy()) for name, value in state().items()})
    return pth(state())


def pth(value: Any) -> bytes:
    """Anything as torch saves it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def policy() -> str:
    """A hospital's policy."""
    return 'maximum-epsilon = 8.0\narms = ["dp-sgd"]\nminimum-cohort = 4\npublic-size = 10\n'


def as_json(value: Any) -> bytes:
    """JSON, NaN and all."""
    return json.dumps(value).encode()
