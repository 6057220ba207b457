"""Pixels of PNG, JPEG and DICOM files, written here and real ones."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fedmed.base.errors import UserError
from fedmed.data import decode as module
from fedmed.data.decode import decode, to_square


def encoded(array: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind, **options)
    return buffer.getvalue()


def dicom(pixels: NDArray[np.uint16] | None, **tags: Any) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName = "Secret^Name"
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


def test_png_of_8_and_16_bits_are_scaled_by_their_own_largest_value() -> None:
    grey = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    assert decode(encoded(grey), "a.png") == pytest.approx(grey / 255)
    deep = np.array([[0, 13107], [26214, 65535]], dtype=np.uint16)
    image = decode(encoded(deep), "b.png")
    assert image == pytest.approx(deep / 65535, abs=1e-6)
    assert image.dtype == np.float32


def test_colour_becomes_luminance_and_transparency_is_dropped() -> None:
    green = np.zeros((4, 4, 4), dtype=np.uint8)
    green[..., 1] = 255
    assert decode(encoded(green), "c.png") == pytest.approx(np.full((4, 4), 0.587), abs=0.01)


def test_jpeg_keeps_height_and_width_apart() -> None:
    wide = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (16, 1))
    image = decode(encoded(wide, "JPEG", quality=95), "d.jpeg")
    assert image.shape == (16, 40)
    assert image[:, 0].max() < 0.1 < 0.9 < image[:, -1].min()


def test_dicom_window_follows_the_standards_formula() -> None:
    image = decode(dicom(RAMP, WindowCenter=2048, WindowWidth=1024), "w.dcm")
    expected = np.clip((RAMP - 2047.5) / 1023 + 0.5, 0, 1)
    assert image == pytest.approx(expected, abs=1e-6)


def test_dicom_window_is_applied_after_the_rescale() -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000, "RescaleType": "HU"}
    image = decode(dicom(RAMP, WindowCenter=[1000, 9], WindowWidth=[2000, 9], **tags), "r.dcm")
    expected = np.clip((RAMP * 2.0 - 1000 - 999.5) / 1999 + 0.5, 0, 1)
    assert image == pytest.approx(expected, abs=1e-5)


def test_sigmoid_window() -> None:
    tags = {"WindowCenter": 2048, "WindowWidth": 1024, "VOILUTFunction": "SIGMOID"}
    expected = 1 / (1 + np.exp(-4 * (RAMP - 2048.0) / 1024))
    assert decode(dicom(RAMP, **tags), "s.dcm") == pytest.approx(expected, abs=1e-5)


def test_monochrome1_is_inverted_after_the_window() -> None:
    tags = {"WindowCenter": 2048, "WindowWidth": 1024}
    plain = decode(dicom(RAMP, **tags), "m.dcm")
    inverted = decode(dicom(RAMP, PhotometricInterpretation="MONOCHROME1", **tags), "m.dcm")
    assert inverted == pytest.approx(1 - plain, abs=1e-6)
    assert plain[0, 0] == 0


def test_padding_is_black_and_does_not_stretch_the_contrast() -> None:
    pixels = np.full((40, 40), 4095, dtype=np.uint16)
    pixels[10:30, 10:30] = np.linspace(1000, 2000, 400).reshape(20, 20).astype(np.uint16)
    image = decode(
        dicom(pixels, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1"), "p.dcm"
    )
    assert image[0, 0] == 0
    assert image[10, 10] == 1
    assert image[29, 29] == pytest.approx(0, abs=0.01)


def test_a_flat_dicom_is_finite() -> None:
    assert decode(dicom(np.full((8, 8), 7, dtype=np.uint16)), "f.dcm").max() == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "damaged"),
        (b"not an image at all", "damaged"),
        (encoded(np.full((64, 64), 9, dtype=np.uint8), "JPEG")[:200], "damaged"),
        (encoded(RAMP)[:-30], "damaged"),
        (dicom(None), "DICOM without pixels"),
        (dicom(RAMP, NumberOfFrames=2), "several frames"),
        (dicom(RAMP, PhotometricInterpretation="RGB"), "in colour"),
        (dicom(RAMP, Rows=9999), "damaged"),
        (dicom(RAMP)[:-20], "damaged"),
    ],
    ids=["empty", "text", "jpeg", "png", "no-pixels", "frames", "colour", "rows", "truncated"],
)
def test_a_bad_file_is_named_and_its_content_is_not(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        decode(data, "folder/x17.dcm" if b"DICM" in data[:200] else "folder/x17.png")
    message = str(caught.value)
    assert message.startswith("folder/x17.")
    assert "\n" not in message
    assert "Secret" not in message


def test_an_image_that_claims_to_be_huge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match=r"big\.png: larger than"):
        decode(encoded(np.zeros((11, 10), dtype=np.uint8)), "big.png")
    monkeypatch.setattr(module, "MAX_DICOM_PIXELS", 100)
    with pytest.raises(UserError, match=r"big\.dcm: larger than"):
        decode(dicom(np.zeros((11, 10), dtype=np.uint16)), "big.dcm")


def test_later_warnings_are_not_swallowed() -> None:
    decode(dicom(RAMP), "w.dcm")
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_square_is_the_centre_and_does_not_alias() -> None:
    image = np.zeros((60, 100), dtype=np.float32)
    image[:, 20:80] = 0.5  # exactly the centre square
    assert (to_square(image, 30) == 128).all()
    stripes = np.tile(np.array([0, 1], dtype=np.float32), (64, 32))
    reduced = to_square(stripes, 16)
    assert reduced[:, 1:-1].min() > 110
    assert reduced[:, 1:-1].max() < 145


def test_square_of_its_own_size_is_only_rounded_and_small_images_grow() -> None:
    image = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)
    same = to_square(image, 16)
    assert same.dtype == np.uint8
    assert (same.ravel() == np.arange(256)).all()
    assert to_square(image, 40).shape == (40, 40)
    assert to_square(np.full((9, 9), 1.7, dtype=np.float32), 16).max() == 255


@pytest.mark.parametrize(
    "name", ["cxr_nema_rg1_mono1_j2k.dcm", "cxr_nih_dx.dcm", "cxr_rsna_cr_jpeg.dcm"]
)
def test_real_chest_films_show_dark_lungs_beside_a_bright_mediastinum(
    name: str, shared_data: Callable[..., Path]
) -> None:
    path = shared_data("dicom", name)
    square = to_square(decode(path.read_bytes(), name), 64) / 255
    mediastinum = np.median(square[28:48, 30:34])
    right, left = np.median(square[18:34, 12:22]), np.median(square[18:34, 42:52])
    assert mediastinum > right + 0.1, "an inverted film has bright lungs"
    assert mediastinum > left + 0.1


def test_real_ct_slice_has_black_air_and_white_bone(shared_data: Callable[..., Path]) -> None:
    image = decode(shared_data("dicom", "ct_series", "01.dcm").read_bytes(), "01.dcm")
    assert image.shape == (512, 512)
    assert image[:20].max() == 0
    assert image.max() == 1
