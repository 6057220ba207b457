"""One small CT scan, and the files that scanners and converters would make of it."""

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (2.0, 1.5, 1.0)  # mm from feet to head, front to back, right to left
SECRET = "Secret^Name"


def scan() -> NDArray[np.int16]:
    """HU (6, 8, 10), from feet to head, front to back, right to left; no two voxels alike."""
    values = np.arange(6 * 8 * 10).reshape(6, 8, 10) * 2 - 500
    return values.astype(np.int16)


def slice_bytes(pixels: NDArray[Any], position: Any, orientation: Any, **tags: Any) -> bytes:
    """One CT slice of stored values; ``pixels`` in HU without a ``RescaleSlope`` among the tags.

    A tag given as None is left out.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName = SECRET
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    dataset.ImagePositionPatient = list(position)
    dataset.ImageOrientationPatient = list(orientation)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.PixelData = np.ascontiguousarray(pixels).astype("<i2").tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def axial(plane: int, **tags: Any) -> bytes:
    """Slice ``plane`` of :func:`scan` as an axial scanner writes it."""
    given = {"PixelSpacing": [SPACING[1], SPACING[2]]} | tags
    position = given.pop("position", [-5, -6, 100 + SPACING[0] * plane])
    orientation = given.pop("orientation", [1, 0, 0, 0, 1, 0])
    pixels = given.pop("pixels", scan()[plane])
    return slice_bytes(pixels, position, orientation, **given)


def write_series(folder: Path, slices: dict[str, bytes] | None = None) -> Path:
    """A folder of slices; by default of :func:`scan`, named in another order than they lie."""
    folder.mkdir(parents=True)
    files = {f"{(plane * 5) % 6}.dcm": axial(plane) for plane in range(6)}
    for name, data in (files if slices is None else slices).items():
        (folder / name).write_bytes(data)
    return folder


def nifti_image(axes: str = "RAS", kind: Any = np.int16) -> nibabel.Nifti1Image:
    """:func:`scan` as a NIfTI whose array runs towards ``axes``, for example ``LPS``."""
    # In RAS the first axis runs to the right's opposite: x, y of the scan count to left and back.
    array = scan().transpose(2, 1, 0)[::-1, ::-1].astype(kind)
    affine = np.diag([SPACING[2], SPACING[1], SPACING[0], 1.0])
    image = nibabel.Nifti1Image(array, affine)
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(axes)
    )
    return image.as_reoriented(turn)
