"""Volumes in .npy and .npz files."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import refuses
from support.volumes import scan

from fedmed.data.arrays import read_array
from fedmed.data.volume import check_voxels


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def claiming(shape: tuple[int, ...]) -> bytes:
    """A .npy of a few bytes whose header claims ``shape``."""
    buffer = io.BytesIO()
    header = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"\0" * 64


def test_hu_and_brightness_by_type() -> None:
    volume = read_array(npy(scan().astype(np.float64) + 0.4), "a.npy")
    np.testing.assert_array_equal(volume.voxels, scan())
    assert (volume.hounsfield, volume.spacing) == (True, None)
    grey = (scan() % 256).astype(np.uint8)
    assert not read_array(npy(grey), "b.npy").hounsfield
    fortran = read_array(npy(np.asfortranarray(scan())), "f.npy")
    np.testing.assert_array_equal(fortran.voxels, scan())


def test_spacing_of_an_npz() -> None:
    volume = read_array(npz(volume=scan(), spacing=[2.0, 1.5, 1.0]), "c.npz")
    np.testing.assert_array_equal(volume.voxels, scan())
    assert volume.spacing == (2.0, 1.5, 1.0)


class Hostile:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/nonexistent/unpickled"),)


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (claiming((10**5, 10**5, 10**5)), "a.npy", ["larger than 256 million voxels"]),
        (claiming((2**40, 2**40, 0)), "a.npy", ["a.npy"]),
        (claiming((10, 8, 600)), "a.npy", ["ends before its voxels do"]),
        (npy(np.zeros((4, 4), np.int16)), "a.npy", ["three dimensions"]),
        (npy(np.zeros((2, 4, 4, 4), np.int16)), "a.npy", ["three dimensions"]),
        (npy(np.array([[[Hostile()]]], dtype=object)), "a.npy", ["no plain numbers"]),
        (npy(np.full((4, 4, 4), "x")), "a.npy", ["no plain numbers"]),
        (npy(np.random.default_rng(0).random((4, 4, 4))), "a.npy", ["within 100"]),
        (npy(scan())[:60], "a.npy", ["damaged"]),
        (b"PK\3\4 no zip", "a.npz", ["damaged"]),
        (npz(image=scan()), "a.npz", ["no array 'volume'"]),
        (npz(volume=scan(), spacing=[1.0, 1.0]), "a.npz", ["'spacing' must be three numbers"]),
        (npz(volume=scan(), spacing=[1.0, 0.0, 1.0]), "a.npz", ["outside 0.01 to 100 mm"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bad_file_is_named_with_its_remedy(data: bytes, name: str, words: list[str]) -> None:
    refuses(lambda: read_array(data, name), name, ";", *words)


def test_a_bomb_in_an_npz_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The member is honest about its size on disk and holds far more than its array."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("volume.npy", npy(scan()) + b"\0" * (1 << 24))
    taken = []
    real = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: taken.append(n) or real(self, n)
    )
    np.testing.assert_array_equal(read_array(buffer.getvalue(), "b.npz").voxels, scan())
    assert min(taken) >= 0
    assert sum(taken) < 4096


def test_products_do_not_overflow() -> None:
    refuses(lambda: check_voxels((2**32, 2**32, 1), 1, "x"), "x: larger than")
