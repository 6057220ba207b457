"""DICOM series: order, orientation, rescale, and what is refused."""

import gzip
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1
from support import goes_red, refuses
from support.volumes import SECRET, SPACING, axial, scan, slice_bytes, write_series

from fedmed.data.stores import FolderStore
from fedmed.data.volume import Volume


def read(folder: Path) -> Volume:
    volume = FolderStore(folder.parent).read(folder.name)
    assert isinstance(volume, Volume)
    return volume


def test_slices_lie_from_feet_to_head_whatever_their_names(tmp_path: Path) -> None:
    def check(voxels: Any) -> None:
        np.testing.assert_array_equal(voxels, scan())

    volume = read(write_series(tmp_path / "a"))
    check(volume.voxels)
    assert volume.spacing == pytest.approx(SPACING)
    assert volume.hounsfield
    # Sabotage: the order of the names.
    goes_red(check, scan()[[0, 5, 4, 3, 2, 1]])


def test_numbers_do_not_order_slices(tmp_path: Path) -> None:
    files = {f"{plane}": axial(plane, InstanceNumber=9 - plane) for plane in range(6)}
    np.testing.assert_array_equal(read(write_series(tmp_path / "a", files)).voxels, scan())


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "from head to feet", "prone"])
def test_another_plane_shows_the_same_volume(tmp_path: Path, plane: str) -> None:
    """Sagittal rows run from front to back; prone: rows and columns reversed."""
    values, (z, y, x) = scan(), SPACING
    if plane == "sagittal":
        slices = [
            slice_bytes(
                values[::-1, :, i], [x * i, 0, 5 * z], [0, 1, 0, 0, 0, -1], PixelSpacing=[z, y]
            )
            for i in range(10)
        ]
    elif plane == "coronal":
        slices = [
            slice_bytes(
                values[::-1, i, :], [0, y * i, 5 * z], [1, 0, 0, 0, 0, -1], PixelSpacing=[z, x]
            )
            for i in range(8)
        ]
    elif plane == "prone":
        slices = [
            slice_bytes(
                values[i, ::-1, ::-1],
                [9 * x, 7 * y, z * i],
                [-1, 0, 0, 0, -1, 0],
                PixelSpacing=[y, x],
            )
            for i in range(6)
        ]
    else:
        slices = [axial(5 - i) for i in range(6)]
    volume = read(write_series(tmp_path / "a", {f"{i:02d}": s for i, s in enumerate(slices)}))
    np.testing.assert_array_equal(volume.voxels, values)
    assert volume.spacing == pytest.approx(SPACING)


def test_each_slice_has_its_own_rescale_and_padding_is_air(tmp_path: Path) -> None:
    stored = (scan()[2] // 2 + 1024).astype(np.int16)
    stored[0, 0] = -2000
    odd = axial(2, pixels=stored, RescaleSlope=2, RescaleIntercept=-2048, PixelPaddingValue=-2000)
    files = {f"{p}": odd if p == 2 else axial(p) for p in range(6)}
    voxels = read(write_series(tmp_path / "a", files)).voxels
    assert voxels[2, 0, 0] == -1024
    voxels[2, 0, 0] = scan()[2, 0, 0]
    np.testing.assert_array_equal(voxels, scan())


def test_rounded_positions_are_no_gaps(tmp_path: Path) -> None:
    files = {f"{p}": axial(p, position=[0, 0, round(1.25 * p, 1)]) for p in range(6)}
    volume = read(write_series(tmp_path / "a", files))
    assert volume.spacing is not None
    assert volume.spacing[0] == pytest.approx(1.25, abs=0.02)


def changed(**tags: Any) -> dict[str, bytes]:
    """The series with slice 3 written otherwise."""
    return {f"{p}.dcm": axial(p, **(tags if p == 3 else {})) for p in range(6)}


SERIES = {f"{p}.dcm": axial(p) for p in range(6)}


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ({n: s for n, s in SERIES.items() if n != "2.dcm"}, ["missing", "'1.dcm' and '3.dcm'"]),
        ({**SERIES, "copy.dcm": axial(4)}, ["'4.dcm'", "'copy.dcm'", "one place"]),
        (changed(orientation=[0, 1, 0, 0, 0, -1]), ["'3.dcm' lies in another plane"]),
        (changed(PixelSpacing=[0.5, 0.5]), ["'3.dcm' has another pixel spacing"]),
        (changed(position=[-5, -6, 106.8]), ["uneven distances", "'2.dcm' and '3.dcm'"]),
        (changed(SeriesInstanceUID="1.2.4"), ["slices of 2 series", "folder of its own"]),
        (changed(pixels=scan()[3, :4]), ["'3.dcm' has another number of rows"]),
        (changed(Modality="MR"), ["3.dcm: no CT image"]),
        (changed(RescaleSlope=None), ["3.dcm: no rescale to Hounsfield units"]),
        (changed(RescaleSlope=400), ["3.dcm: values outside -4096 to 32767"]),
        (changed(RescaleSlope="1e400"), ["3.dcm"]),
        (changed(position=[0, 0]), ["3.dcm: a damaged DICOM"]),
        (
            changed(orientation=[3, 0, 0, 0, 1, 0]),
            ["3.dcm: the orientation is not two perpendicular"],
        ),
        (changed(NumberOfFrames=4), ["3.dcm: several frames"]),
        (changed(PhotometricInterpretation="MONOCHROME1"), ["3.dcm: no grey CT slice"]),
        ({**SERIES, "5.dcm": axial(5)[:-40]}, ["5.dcm: a damaged DICOM"]),
        ({**SERIES, "5.dcm": b"x" * 300}, ["5.dcm: no DICOM file"]),
        ({"0.dcm": axial(0)}, ["fewer than two"]),
        ({f"{p}.dcm": axial(p, pixels=scan()[p] * 0) for p in range(6)}, ["lie within 100"]),
        (
            {f"{p}.dcm": axial(p, position=[0, 0.7 * p, 2 * p]) for p in range(6)},
            ["tilted gantry"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bad_series_is_named_with_its_remedy(
    tmp_path: Path, slices: dict[str, bytes], words: list[str], caplog: Any
) -> None:
    folder = write_series(tmp_path / "scan7", slices)
    with caplog.at_level(logging.DEBUG):
        refuses(lambda: read(folder), "scan7", *words)
    assert SECRET not in caplog.text


def test_a_good_series_is_not_refused(tmp_path: Path) -> None:
    goes_red(lambda: refuses(lambda: read(write_series(tmp_path / "good"))))


def test_no_message_quotes_a_tag(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", changed(ImagePositionPatient=["77.125", "1", "2"]))
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- the kind is tested above
        read(folder)
    assert "77.125" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_claim_of_gigavoxels_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was taken"))
    files = {f"{p}": axial(p, Rows=65000, Columns=65000) for p in range(6)}
    refuses(lambda: read(write_series(tmp_path / "a", files)), "larger than 256 million voxels")


def test_dicomdir_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a")
    (folder / "DICOMDIR").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    assert read(folder).voxels.shape == (6, 8, 10)


def test_real_slices(shared_data: Callable[..., Path]) -> None:
    volume = read(shared_data("dicom", "ct_series"))
    assert volume.voxels.shape == (3, 512, 512)
    assert volume.spacing == pytest.approx((1.0, 0.810547, 0.810547))
    assert -1100 < volume.voxels[:, 20, 256].mean() < -900, "air above the patient"
    assert 0 < np.median(volume.voxels[:, 200:300, 200:300]) < 100, "soft tissue in the middle"


def test_slices_of_a_pacs_and_of_old_archives_show_the_same_volume(tmp_path: Path) -> None:
    """Compressed without loss, packed with gzip, without a preamble."""

    def lossless(data: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(data))
        values = dataset.pixel_array.view(np.uint16)
        frame = imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=16)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()

    kinds = (lossless, gzip.compress, lambda data: data[132:])
    files = {f"{plane}": kinds[plane % 3](axial(plane)) for plane in range(6)}
    np.testing.assert_array_equal(read(write_series(tmp_path / "a", files)).voxels, scan())
    files["5"] = files["4"][:-40]  # cut off within its gzip
    refuses(lambda: read(write_series(tmp_path / "b", files)), "b/5: a damaged DICOM file")
