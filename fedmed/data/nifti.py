"""NIfTI files (.nii, .nii.gz; versions 1 and 2) to volumes in Hounsfield units."""

import gzip
import io
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.data.quiet import quiet
from fedmed.data.volume import Volume, canonical, check_spread, check_voxels, to_hounsfield

SUFFIXES = (".nii", ".nii.gz")
_UNITS = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_MAX_OFFSET = 1 << 24  # bytes between the file's start and its voxels


def read_nifti(data: bytes, where: str) -> Volume:
    """The volume in a file's bytes, turned to the patient's axes by its affine.

    The header is checked before memory is taken, and no more is unpacked than it claims. Raises
    :class:`UserError` naming the file and the remedy.
    """
    try:
        with quiet("nibabel.global"):
            return _read(data, where)
    except UserError:
        raise
    except Exception as error:  # a hostile header fails in ways that cannot be listed
        raise UserError(
            f"{where}: damaged or no NIfTI ({type(error).__name__}); replace the file or drop its "
            "row"
        ) from None


def _read(data: bytes, where: str) -> Volume:
    packed = data[:2] == b"\x1f\x8b"
    stream = io.BytesIO(data)
    with gzip.GzipFile(fileobj=stream) if packed else stream as source:
        header = _header(source)
        shape = tuple(int(side) for side in header.get_data_shape())
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) > 3:
            raise UserError(f"{where}: a 4D NIfTI (a series of volumes); write one volume per file")
        kind = header.get_data_dtype()
        if kind.kind not in "iuf" or kind.itemsize > 8:
            raise UserError(f"{where}: voxels that are no plain numbers; write it as int16")
        check_voxels(shape, kind.itemsize, where)
        affine = _affine(header, where)
        size = int(np.prod(shape)) * kind.itemsize
        offset = int(header.get_data_offset())
        if not 0 <= offset <= _MAX_OFFSET:
            raise UserError(f"{where}: voxels that start too far from its header; write it again")
        if packed:
            source.seek(offset)
            raw: bytes | memoryview = source.read(size)
        else:
            raw = memoryview(data)[offset : offset + size]  # no copy of the largest files
        if packed and len(raw) == size:
            source.read(1)  # past the end gzip checks its sum
    if len(raw) < size:
        raise UserError(f"{where}: the file ends before its voxels do; fetch it again")
    stored = np.frombuffer(raw, dtype=kind).reshape(shape, order="F")
    voxels = _rescaled(stored, header, where)
    check_spread(voxels, where)
    turned, spacing = canonical(voxels, affine, where)
    return Volume(turned, spacing, hounsfield=True, where=where)


def _header(source: io.BufferedIOBase) -> Nifti1Header:
    """The header, by the size that its first number tells: 348 (NIfTI-1) or 540 (NIfTI-2)."""
    start = source.read(4)
    source.seek(0)
    second = int.from_bytes(start, "little") == 540 or int.from_bytes(start, "big") == 540
    kind = nibabel.Nifti2Header if second else Nifti1Header
    header: Nifti1Header = kind.from_fileobj(source)
    return header


def _affine(header: Nifti1Header, where: str) -> NDArray[np.float64]:
    """Steps of the array's axes in mm, to the patient's left, back and head (NIfTI has RAS)."""
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        raise UserError(
            f"{where}: no orientation (qform and sform codes are 0); write it with an affine"
        )
    unit = header.get_xyzt_units()[0]
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)[:3, :3]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise UserError(f"{where}: an affine that is no orientation; write it again")
    return _RAS_TO_LPS @ affine * _UNITS[unit]


def _rescaled(stored: NDArray[Any], header: Nifti1Header, where: str) -> NDArray[np.int16]:
    """Stored values times slope plus intercept, one slice at a time to spare memory."""
    slope, intercept = header.get_slope_inter()
    voxels = np.empty(stored.shape, dtype=np.int16, order="F")
    for last in range(stored.shape[2]):
        values = stored[..., last]
        if slope is not None and (slope, intercept) != (1, 0):
            values = values.astype(np.float64) * slope + intercept
        voxels[..., last] = to_hounsfield(values, where)
    return voxels
