"""pydicom's test files and pydicom-data's: nearly all grey frames are read as the standard says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pydicom
import pydicom.data
import pytest
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.data.decode import decode
from fedmed.data.quiet import quiet

FOLDER = Path(pydicom.data.__file__).parent
FOLDERS = (FOLDER, Path(data_store.__file__).parent)
DAMAGED = {  # pixels cut off, a marker written over the frame's size, a number of frames of "1A"
    "MR_truncated.dcm",
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "badVR.dcm",
}


def read(path: Path) -> pydicom.Dataset | None:
    try:
        return pydicom.dcmread(path, force=True)
    except Exception:  # the folders hold files of any kind, and some that are broken on purpose
        return None


def grey_frames() -> Iterator[tuple[Path, pydicom.Dataset]]:
    """Files with one grey frame (the sets grow with their versions)."""
    for path in sorted(path for folder in FOLDERS for path in folder.rglob("*")):
        found = read(path) if path.is_file() and path.suffix not in (".py", ".pyc") else None
        if found is None or "PixelData" not in found or "Rows" not in found:
            continue
        frames = str(found.get("NumberOfFrames") or 1)
        if frames in ("1", "1A") and str(found.PhotometricInterpretation).startswith("MONO"):
            yield path, found


def by_the_standard(found: pydicom.Dataset) -> NDArray[np.float64]:
    """PS3.3 C.11, written anew from the tags: rescale, window or own range, then the inversion."""
    stored = found.pixel_array
    values = stored.astype(float)
    if "RescaleSlope" in found:
        values = values * float(found.RescaleSlope) + float(found.RescaleIntercept)
    if "WindowWidth" in found:
        centre, width = (
            float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
            for value in (found.WindowCenter, found.WindowWidth)
        )
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    elif found.BitsStored <= 8 and "RescaleSlope" not in found:
        low, high = 0.0, 2.0**found.BitsStored - 1
    else:
        seen = values
        if "PixelPaddingValue" in found:
            seen = values[stored != found.PixelPaddingValue]
        low, high = np.percentile(seen, (0.1, 99.9))
    shown = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    if found.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    if "PixelPaddingValue" in found:
        shown[stored == found.PixelPaddingValue] = 0
    return shown


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_nearly_all_grey_files_of_pydicom_are_read_as_the_standard_says(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """66 of 69 in pydicom 3.0.2 and 23 of 23 in pydicom-data 1.0.0; the rest is damaged."""
    refused: dict[str, str] = {}
    images: list[tuple[Path, Any, NDArray[np.float32]]] = []
    with quiet("pydicom"):
        files = list(grey_frames())
    for path, found in files:
        try:
            images.append((path, found, decode(path.read_bytes(), path.name)))
        except UserError as error:
            refused[path.name] = str(error)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert set(refused) == DAMAGED
    assert all("damaged" in text for text in refused.values())
    assert len(images) >= 89
    with quiet("pydicom"):
        for path, found, image in images:
            np.testing.assert_allclose(image, by_the_standard(found), atol=0.02, err_msg=path.name)


def test_jpeg_ls_run_lengths_and_jpeg_2000_hold_the_values_of_the_plain_file() -> None:
    """The same slice in five syntaxes: not the decoder that reads it tells what is right."""
    folder = FOLDER / "test_files"
    plain = np.frombuffer(pydicom.dcmread(folder / "MR_small.dcm").PixelData, dtype="<i2")
    expected = np.clip((plain.reshape(64, 64) - 599.5) / 1599 + 0.5, 0, 1)
    for kind in ("RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"):
        image = decode((folder / f"MR_small_{kind}.dcm").read_bytes(), kind)
        np.testing.assert_allclose(image, expected, atol=1e-6, err_msg=kind)
