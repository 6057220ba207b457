"""A DICOM series of axial, sagittal or coronal CT slices to one volume in Hounsfield units.

Slices are ordered by where they lie, never by their names or numbers: Image Position projected on
the normal of Image Orientation (DICOM PS3.3 C.7.6.2.1.1). Messages name files, never a tag's value.
"""

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from fedmed.base.errors import UserError
from fedmed.data import dicom
from fedmed.data.greyscale import modality, padding_of
from fedmed.data.quiet import quiet
from fedmed.data.volume import AIR, Volume, canonical, check_spread, check_voxels, to_hounsfield

MAX_SLICES = 4096
_LEFT_OUT = ("DICOMDIR", "Thumbs.db")
_TAGS = [
    "Modality",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
]
_SAME_PLACE = 0.01  # mm
_UNEVEN = 0.1  # share of the usual distance by which rounded positions may differ


@dataclass(frozen=True)
class _Slice:
    file: str
    series: str
    shape: tuple[int, int]
    spacing: NDArray[np.float64]  # mm between rows, between columns
    rows: NDArray[np.float64]  # unit vector along a row: the way columns count
    columns: NDArray[np.float64]
    position: NDArray[np.float64]  # mm, LPS

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.rows, self.columns)


def read_series(files: Sequence[str], load: Callable[[str], bytes], where: str) -> Volume:
    """The volume that ``files`` (relative names) below ``where`` show; ``load`` gives their bytes.

    Headers are read and checked first, so that nothing is decoded of a series that does not fit
    together. Raises :class:`UserError` naming the file and the remedy.
    """
    names = [name for name in files if PurePosixPath(name).name not in _LEFT_OUT]
    if len(names) < 2:
        raise UserError(f"{where}: fewer than two DICOM slices; give a folder with one CT series")
    if len(names) > MAX_SLICES:
        raise UserError(f"{where}: over {MAX_SLICES} files; give a folder with one CT series")
    slices = [_header(_load(load, name, where), name, f"{where}/{name}") for name in names]
    first = slices[0]
    check_voxels((len(slices), *first.shape), 2, where)
    _check_alike(slices, where)
    ordered, step = _in_order(slices, where)
    voxels = np.empty((len(ordered), *first.shape), dtype=np.int16)
    for plane, one in enumerate(ordered):
        voxels[plane] = _hounsfield(
            _load(load, one.file, where), first.shape, f"{where}/{one.file}"
        )
    check_spread(voxels, where)
    affine = np.stack(
        [step, first.columns * first.spacing[0], first.rows * first.spacing[1]], axis=1
    )
    turned, spacing = canonical(voxels, affine, where)
    return Volume(turned, spacing, hounsfield=True, where=where)


def _load(load: Callable[[str], bytes], file: str, where: str) -> bytes:
    try:
        return dicom.unpacked(load(file), f"{where}/{file}")
    except (ValueError, zlib.error) as error:
        raise _damaged(f"{where}/{file}", error) from None


def _header(data: bytes, name: str, where: str) -> _Slice:
    if not dicom.is_dicom(data):
        raise UserError(f"{where}: no DICOM file; a series' folder may hold nothing else, move it")
    try:
        with warnings.catch_warnings(), quiet("pydicom"):
            warnings.simplefilter("ignore")  # pydicom's warnings quote tag values
            header = dicom.read(data, where, stop_before_pixels=True, specific_tags=list(_TAGS))
            if str(header.get("Modality", "")) != "CT":
                raise UserError(f"{where}: no CT image; give a folder with one CT series")
            if int(header.get("NumberOfFrames") or 1) != 1:
                raise UserError(f"{where}: several frames in one file; export one file per slice")
            _need(header, where)
            orientation = _numbers(header, "ImageOrientationPatient", 6)
            one = _Slice(
                file=name,
                series=str(header.SeriesInstanceUID),
                shape=(int(header.Rows), int(header.Columns)),
                spacing=_numbers(header, "PixelSpacing", 2),
                rows=orientation[:3],
                columns=orientation[3:],
                position=_numbers(header, "ImagePositionPatient", 3),
            )
    except UserError:
        raise
    except Exception as error:  # pydicom fails on hostile bytes in ways that cannot be listed
        raise _damaged(where, error) from None
    lengths = np.array([one.rows @ one.rows, one.columns @ one.columns])
    if np.abs(lengths - 1).max() > 0.01 or abs(one.rows @ one.columns) > 0.01:
        raise UserError(
            f"{where}: the orientation is not two perpendicular unit vectors; export the series "
            "again"
        )
    if min(one.shape) < 1:
        raise UserError(f"{where}: a slice without pixels; export it again or drop the series")
    return one


def _need(header: Dataset, where: str) -> None:
    for tag in _TAGS[1:7]:
        if header.get(tag) in (None, ""):
            raise UserError(f"{where}: no {tag}; export the series as the scanner made it")
    if "RescaleSlope" not in header or "RescaleIntercept" not in header:
        raise UserError(
            f"{where}: no rescale to Hounsfield units; export the series as the scanner made it"
        )


def _numbers(header: Dataset, tag: str, count: int) -> NDArray[np.float64]:
    values = np.array([float(v) for v in header[tag].value], dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(tag)
    return values


def _check_alike(slices: list[_Slice], where: str) -> None:
    """One series, one size, one orientation, one pixel spacing."""
    first = slices[0]
    count = len({one.series for one in slices})
    if count > 1:
        raise UserError(
            f"{where}: slices of {count} series; put each series in a folder of its own"
        )
    for one in slices[1:]:
        what = ""
        if np.abs(np.r_[one.rows - first.rows, one.columns - first.columns]).max() > 0.01:
            what = "lies in another plane"
        elif one.shape != first.shape:
            what = "has another number of rows or columns"
        elif np.abs(one.spacing / first.spacing - 1).max() > 1e-3:
            what = "has another pixel spacing"
        if what:
            raise UserError(
                f"{where}: '{one.file}' {what} than '{first.file}'; keep one kind of slice, and "
                "move scouts and reformats elsewhere"
            )


def _in_order(slices: list[_Slice], where: str) -> tuple[list[_Slice], NDArray[np.float64]]:
    """Slices by their place along the normal, and the step (mm, LPS) from each to the next."""
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    gaps = np.diff([float(one.position @ normal) for one in ordered])
    if gaps.min() < _SAME_PLACE:
        at = int(gaps.argmin())
        raise UserError(
            f"{where}: '{ordered[at].file}' and '{ordered[at + 1].file}' lie at one place; remove "
            "the duplicate"
        )
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median: one gap of two may be it
    ratio = gaps / usual
    uneven = np.abs(ratio - 1) > _UNEVEN
    if uneven.any():
        at = int(uneven.argmax())
        between = f"between '{ordered[at].file}' and '{ordered[at + 1].file}'"
        holes = (np.abs(ratio - np.rint(ratio)) <= _UNEVEN) & (ratio > 1.5)
        if (holes == uneven).all() and holes.mean() <= 0.5:
            raise UserError(f"{where}: slices are missing {between}; export the series again")
        raise UserError(
            f"{where}: slices at uneven distances, first {between}; give a series with one spacing"
        )
    # The mean is finer than any one gap between rounded positions.
    step = (ordered[-1].position - ordered[0].position) / len(gaps)
    return ordered, step


def _hounsfield(data: bytes, shape: tuple[int, int], where: str) -> NDArray[np.int16]:
    """One slice by its own rescale; its padding becomes air."""
    try:
        with warnings.catch_warnings(), quiet("pydicom"):
            warnings.simplefilter("ignore")
            dataset = dicom.read(data, where)
            if str(dataset.get("PhotometricInterpretation", "")) != "MONOCHROME2":
                raise UserError(f"{where}: no grey CT slice; export the series as MONOCHROME2")
            stored = dicom.pixels(dataset, where)
            if stored.shape != shape:
                raise UserError(f"{where}: pixels that do not fit its header; export it again")
            padding = padding_of(dataset, stored)
            values = modality(dataset, stored, where)
    except UserError:
        raise
    except Exception as error:
        raise _damaged(where, error) from None
    values[padding] = AIR
    return to_hounsfield(values, where)


def _damaged(where: str, error: Exception) -> UserError:
    return UserError(
        f"{where}: a damaged DICOM file ({type(error).__name__}); fetch it again or drop the series"
    )
