"""Image files as hospitals have them, written here: DICOM of any kind, and pictures of Pillow's."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
"""Every value of 12 bits once."""


def dataset(pixels: NDArray[Any], **tags: Any) -> Dataset:
    """A DICOM radiograph of 12 bits, of 16 where ``pixels`` are signed or hold more."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = "1.2.3"
    made.PatientName = "Secret^Name"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    signed = pixels.dtype == np.int16
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated = bits
    made.BitsStored = 12 if bits == 16 and not signed and pixels.max() < 4096 else bits
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(signed)
    made.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset, **options: Any) -> bytes:
    """A data set as the bytes of a file."""
    buffer = io.BytesIO()
    made.save_as(buffer, **{"enforce_file_format": True, **options})
    return buffer.getvalue()


def dicom(pixels: NDArray[Any], **tags: Any) -> bytes:
    """:func:`dataset` as the bytes of a file."""
    return saved(dataset(pixels, **tags))


def compressed(pixels: NDArray[Any], frame: bytes, uid: str, **tags: Any) -> Dataset:
    """A data set whose pixels are a frame that was compressed elsewhere."""
    made = dataset(pixels, **tags)
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = uid
    return made


def picture(array: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """An array as the bytes of one of Pillow's formats."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind, **options)
    return buffer.getvalue()
