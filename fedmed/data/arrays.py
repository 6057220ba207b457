"""Volumes in numpy's own files: .npy, or .npz with the volume and its spacing."""

import io
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.data.volume import Volume, check_spacing, check_spread, check_voxels, to_hounsfield

SUFFIXES = (".npy", ".npz")
_VOLUME, _SPACING = "volume", "spacing"


def read_array(data: bytes, where: str) -> Volume:
    """The volume (depth, height, width) in a file's bytes: uint8 is brightness, all else HU.

    Axes run from feet to head, front to back, right to left. An .npz holds the array ``volume``
    and, where it is known, ``spacing``: three distances in mm in the order of the axes. Nothing is
    unpickled, and no more is unpacked than fits. Raises :class:`UserError` naming the file.
    """
    try:
        return _read(data, where)
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and zlib errors share no base class
        raise UserError(
            f"{where}: damaged or no array of numpy ({type(error).__name__}); replace the file or "
            "drop its row"
        ) from None


def _read(data: bytes, where: str) -> Volume:
    spacing = None
    if where.lower().endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if f"{_VOLUME}.npy" not in names:
                raise UserError(f"{where}: no array '{_VOLUME}'; save it under that name")
            if f"{_SPACING}.npy" in names:
                with archive.open(f"{_SPACING}.npy") as member:
                    spacing = _spacing(member, where)
            with archive.open(f"{_VOLUME}.npy") as member:
                array = _array(member, where)
    else:
        array = _array(io.BytesIO(data), where)
    if array.dtype == np.uint8:
        return Volume(array, spacing, hounsfield=False, where=where)
    voxels = np.empty(array.shape, dtype=np.int16)
    for plane, values in enumerate(array):
        voxels[plane] = to_hounsfield(values, where)
    check_spread(voxels, where)
    return Volume(voxels, spacing, hounsfield=True, where=where)


def _spacing(source: IO[bytes], where: str) -> tuple[float, float, float]:
    shape, _, kind = _header(source)
    if shape != (3,) or kind.kind not in "iuf":
        raise UserError(f"{where}: 'spacing' must be three numbers, mm; correct it")
    return check_spacing(tuple(np.frombuffer(source.read(3 * kind.itemsize), kind)), where)


def _array(source: IO[bytes], where: str) -> NDArray[Any]:
    """The array, its header checked before memory is taken for it."""
    shape, fortran, kind = _header(source)
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise UserError(f"{where}: voxels that are no plain numbers; save uint8, or HU as int16")
    check_voxels(shape, kind.itemsize, where)
    size = int(np.prod(shape)) * kind.itemsize
    raw = source.read(size)
    if len(raw) < size:
        raise UserError(f"{where}: the file ends before its voxels do; fetch it again")
    return np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")


def _header(source: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(source)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError("version")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, kind = read(source)
    return tuple(int(side) for side in shape), bool(fortran), kind
