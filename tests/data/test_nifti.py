"""NIfTI files: orientation, units, rescale, and what is refused."""

import gzip
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from support import goes_red, refuses
from support.volumes import SPACING, nifti_image, scan

from fedmed.data import volume as volumes
from fedmed.data.nifti import read_nifti


def bytes_of(image: Any, *, packed: bool = False) -> bytes:
    data: bytes = image.to_bytes()
    return gzip.compress(data) if packed else data


def with_header(**fields: Any) -> bytes:
    """The scan's file with fields of its header overwritten, whatever they claim."""
    data = bytearray(bytes_of(nifti_image()))
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header.structarr[name] = value
    data[:348] = header.binaryblock
    return bytes(data)


def check_voxels(voxels: Any) -> None:
    np.testing.assert_array_equal(voxels, scan())


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "SPL", "AIR", "PSR"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_orientation_shows_the_volume_of_the_dicom_series(axes: str, packed: bool) -> None:
    """What tests/data/test_series.py reads from slices: the two formats agree."""
    volume = read_nifti(bytes_of(nifti_image(axes), packed=packed), "a.nii")
    check_voxels(volume.voxels)
    assert volume.spacing == pytest.approx(SPACING)
    assert volume.hounsfield


def test_an_array_taken_as_it_lies_would_be_another_volume() -> None:
    goes_red(check_voxels, np.asarray(nifti_image("RAS").dataobj).transpose(2, 1, 0))


def test_version_2_big_endian_and_a_fourth_axis_of_one() -> None:
    image = nifti_image()
    second = nibabel.Nifti2Image(np.asarray(image.dataobj), image.affine)
    check_voxels(read_nifti(bytes_of(second), "b.nii").voxels)
    big = nibabel.Nifti1Image(
        np.asarray(image.dataobj), image.affine, image.header.as_byteswapped(">")
    )
    check_voxels(read_nifti(bytes_of(big), "c.nii").voxels)
    single = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
    check_voxels(read_nifti(bytes_of(single), "d.nii").voxels)


def test_slope_intercept_and_units_are_applied() -> None:
    image = nifti_image(kind=np.float32)
    stored = nibabel.Nifti1Image(
        (np.asarray(image.dataobj) + 1024) / 2, image.affine / [1e3, 1e3, 1e3, 1]
    )
    stored.header.set_xyzt_units("meter")
    data = bytearray(bytes_of(stored))
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    header.structarr["scl_slope"], header.structarr["scl_inter"] = 2, -1024
    data[:348] = header.binaryblock
    volume = read_nifti(bytes(data), "e.nii")
    check_voxels(volume.voxels)
    assert volume.spacing == pytest.approx(SPACING)


def affine(rows: list[list[float]]) -> dict[str, Any]:
    return {f"srow_{axis}": row for axis, row in zip("xyz", rows, strict=True)}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_header(dim=[4, 10, 8, 3, 2, 1, 1, 1]), ["4D NIfTI", "one volume per file"]),
        (with_header(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), ["larger than 256 million voxels"]),
        (with_header(dim=[3, 10, 8, -1, 1, 1, 1, 1]), ["a.nii"]),
        (with_header(dim=[3, 10, 8, 60, 1, 1, 1, 1]), ["ends before its voxels do"]),
        (with_header(dim=[2, 10, 8, 1, 1, 1, 1, 1]), ["not a volume of three dimensions"]),
        (with_header(vox_offset=1e9), ["too far from its header"]),
        (with_header(datatype=128, bitpix=24), ["no plain numbers"]),
        (with_header(datatype=32, bitpix=64), ["no plain numbers"]),
        (with_header(scl_slope=1e5), ["no Hounsfield units", "-4096 to 32767"]),
        (with_header(scl_slope=1e-3), ["within 100"]),
        (with_header(sform_code=0, qform_code=0), ["no orientation"]),
        (
            with_header(**affine([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])),
            ["affine that is no orientation"],
        ),
        (
            with_header(**affine([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0]])),
            ["tilted gantry"],
        ),
        (
            with_header(**affine([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 5000, 0]])),
            ["outside 0.01 to 100 mm"],
        ),
        (bytes_of(nifti_image())[:-30], ["ends before its voxels do"]),
        (bytes_of(nifti_image(), packed=True)[:-30], ["damaged or no NIfTI"]),
        (bytes_of(nifti_image())[:200], ["damaged or no NIfTI"]),
        (b"", ["damaged or no NIfTI"]),
        (b"\x1f\x8bnonsense", ["damaged or no NIfTI"]),
        (b"not a volume" * 100, ["damaged or no NIfTI"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bad_file_is_named_with_its_remedy(data: bytes, words: list[str]) -> None:
    refuses(lambda: read_nifti(data, "folder/a.nii"), "folder/a.nii", ";", *words)


def test_a_flipped_bit_of_a_packed_file_is_found() -> None:
    data = bytearray(bytes_of(nifti_image(), packed=True))
    data[-6] ^= 1  # of gzip's sum
    refuses(lambda: read_nifti(bytes(data), "a.nii.gz"), "damaged")


def test_voxels_that_are_no_numbers() -> None:
    image = nifti_image(kind=np.float32)
    array: NDArray[np.float32] = np.asarray(image.dataobj).copy()
    array[3, 4, 5] = np.nan
    hole = nibabel.Nifti1Image(array, image.affine)
    refuses(lambda: read_nifti(bytes_of(hole), "n.nii"), "no numbers", "fill them with air")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to much more than the header claims are read no further."""
    honest = bytes_of(nifti_image())
    bomb = gzip.compress(honest + b"\0" * (1 << 24))
    taken = 0
    real = gzip.GzipFile.read

    def counted(self: Any, size: int = -1) -> bytes:
        nonlocal taken
        assert size >= 0, "all of it"
        taken += size
        return real(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    check_voxels(read_nifti(bomb, "bomb.nii.gz").voxels)
    assert taken < 4 * len(honest)


def test_too_many_bytes_for_the_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "MAX_UNPACKED", 480 * 2 - 1)
    refuses(lambda: read_nifti(bytes_of(nifti_image()), "a.nii"), "over 768 MiB", "int16")
