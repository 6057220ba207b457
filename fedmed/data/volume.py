"""A volume in the patient's axes, and how it becomes a small cube or a few slices.

CT is in Hounsfield units (HU): water 0, air -1000. A volume's array runs from feet to head, from
front to back and from the patient's right to left, so that each axial slice shows what a
radiologist sees. That is DICOM's own patient system, LPS, with the axes in reverse order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from fedmed.base.errors import UserError

MAX_VOXELS = 1 << 28
"""Larger volumes are refused before memory is taken: 512 x 512 x 1024 voxels."""

MAX_UNPACKED = 3 << 28
"""Bytes that a file's voxels may take in memory as they are stored."""

PLAUSIBLE = (-4096, 32767)
"""HU outside are no CT: scanners pad from -3024 up, and metal reaches 30,000."""

AIR, BONE = -1024, 3071
"""HU beyond these are cut before resampling, so that padding and metal do not bleed."""

_LEAST_SPREAD = 100  # HU; the least difference of two tissues (fat and water) in any real scan
_SPACINGS = (0.01, 100.0)  # mm between voxels


@dataclass(frozen=True)
class Volume:
    """``voxels`` (depth, height, width): int16 in HU, or uint8 brightness where not ``hounsfield``.

    ``spacing`` is the distance of voxels in mm along each axis, None where nobody knows it; voxels
    then count as cubes. ``where`` names the file in messages.
    """

    voxels: NDArray[np.int16] | NDArray[np.uint8]
    spacing: tuple[float, float, float] | None
    hounsfield: bool
    where: str


def check_voxels(shape: tuple[int, ...], itemsize: int, where: str) -> None:
    """Refuse what a header claims before memory is taken for it; ``itemsize`` in bytes."""
    count = 1
    for side in shape:  # Python's integers: a header's product may overflow numpy's
        count *= int(side)
    if count > MAX_VOXELS:
        raise UserError(
            f"{where}: larger than {MAX_VOXELS >> 20} million voxels; crop or resample it"
        )
    if count * itemsize > MAX_UNPACKED:
        raise UserError(f"{where}: over 768 MiB of voxels; write them as int16")
    if count < 1 or len(shape) != 3:
        raise UserError(f"{where}: not a volume of three dimensions; give one with depth")


def check_spacing(spacing: tuple[float, ...], where: str) -> tuple[float, float, float]:
    """Three distances in mm that a scanner may have."""
    if not all(np.isfinite(s) and _SPACINGS[0] <= s <= _SPACINGS[1] for s in spacing):
        raise UserError(
            f"{where}: distances of voxels outside {_SPACINGS[0]:g} to {_SPACINGS[1]:g} mm; "
            "correct its spacing"
        )
    first, second, third = (float(s) for s in spacing)
    return first, second, third


def to_hounsfield(values: NDArray[Any], where: str) -> NDArray[np.int16]:
    """Values in HU rounded to int16; not finite or implausible ones are a :class:`UserError`."""
    if not np.isfinite(values).all():
        raise UserError(f"{where}: voxels that are no numbers; fill them with air (-1024) first")
    low, high = PLAUSIBLE
    if values.min() < low or values.max() > high:
        raise UserError(
            f"{where}: values outside {low} to {high}, which are no Hounsfield units; apply the "
            "rescale of the scanner, and set padding to -1024"
        )
    whole = values if np.issubdtype(values.dtype, np.integer) else np.rint(values)
    return whole.astype(np.int16)


def check_spread(voxels: NDArray[np.int16], where: str) -> None:
    """Refuse values that were scaled to 0..1, or a volume of nothing."""
    if int(voxels.max()) - int(voxels.min()) < _LEAST_SPREAD:
        raise UserError(
            f"{where}: all values lie within {_LEAST_SPREAD}, so that they are no Hounsfield "
            "units; give the scan before it was scaled or masked"
        )


def canonical(
    voxels: NDArray[np.int16], affine: NDArray[np.float64], where: str
) -> tuple[NDArray[np.int16], tuple[float, float, float]]:
    """``voxels`` with its axes from feet to head, front to back, right to left, and its spacing.

    ``affine`` (3, 3) holds, for each axis of the array, the step in mm to the patient's left, back
    and head (LPS). A scan that lies aslant keeps its own axes, each named after the nearest of the
    patient's. Raises :class:`UserError` for axes that do not stand upright on each other.
    """
    steps = np.linalg.norm(affine, axis=0)
    check_spacing(tuple(steps), where)
    unit = affine / steps
    if np.abs(unit.T @ unit - np.eye(3)).max() > 0.02:  # 1 degree
        raise UserError(
            f"{where}: axes that are not at right angles (a tilted gantry); resample it to a "
            "straight grid"
        )
    square = np.eye(4)
    square[:3, :3] = affine
    turn = io_orientation(square)
    turned = apply_orientation(voxels, turn).transpose(2, 1, 0)
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = steps
    depth, height, width = (float(s) for s in spacing[::-1])
    return np.ascontiguousarray(turned), (depth, height, width)


def resampled(volume: Volume, size: int, spacing: float, planes: int = 0) -> NDArray[np.float32]:
    """Values (depth, size, size) at the centres of cubes of ``spacing`` mm, centred on the volume.

    ``spacing`` 0 takes the cubes that make the longest side fit. What lies outside is air (or 0).
    With ``planes`` the depth is that many axial slices at equal distances over the part of the
    volume that the cube holds, else ``size``. Along each axis a triangle filter, as wide as the
    coarser of the two grids, so that nothing aliases. HU are cut to :data:`AIR` ... :data:`BONE`.
    """
    if spacing and volume.spacing is None:
        raise UserError(
            f"{volume.where}: the distances of its voxels are not known; give them, or set "
            "data.spacing = 0"
        )
    own = volume.spacing or (1.0, 1.0, 1.0)
    shape = volume.voxels.shape
    extent = [n * d for n, d in zip(shape, own, strict=True)]
    side = spacing or max(extent[1:] if planes else extent) / size
    steps, counts = [side] * 3, [size] * 3
    if planes:
        held = min(extent[0], size * side) if spacing else extent[0]
        steps[0], counts[0] = held / planes, planes
    depth, down, across = (
        _weights(n, d, count, step, side)
        for n, d, count, step in zip(shape, own, counts, steps, strict=True)
    )
    empty = AIR if volume.hounsfield else 0
    result = np.full((counts[0], size, size), empty, dtype=np.float32)
    inside = np.ix_(np.flatnonzero(down.any(1)), np.flatnonzero(across.any(1)))
    for plane in np.flatnonzero(depth.any(1)):
        near = np.flatnonzero(depth[plane])
        slab = volume.voxels[near[0] : near[-1] + 1].astype(np.float32)
        if volume.hounsfield:
            slab.clip(AIR, BONE, out=slab)
        thick = np.tensordot(depth[plane, near[0] : near[-1] + 1], slab, axes=1)
        result[plane][inside] = (down @ thick @ across.T)[inside]
    return result


def windowed(values: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    """HU to [0, 1]: 0 at ``centre - width/2`` and below, 1 at ``centre + width/2`` and above."""
    scaled: NDArray[np.float32] = np.clip((values - (centre - width / 2)) / width, 0, 1)
    return scaled


def _weights(n: int, own: float, count: int, step: float, cube: float) -> NDArray[np.float32]:
    """Rows (count, n) that average ``n`` voxels ``own`` mm apart at ``count`` places.

    Places are ``step`` mm apart and centred; each stands for ``cube`` mm. A row outside is 0.
    """
    place = (np.arange(count) + 0.5 - count / 2) * (step / own) + n / 2 - 0.5
    half = cube / own / 2
    overlap = np.minimum(place + half, n - 0.5) - np.maximum(place - half, -0.5)
    inside = overlap >= 0.5 * min(2 * half, n) - 1e-6  # half of the cube, or of a thinner volume
    reach = max(1.0, cube / own)
    weights = np.maximum(0, 1 - np.abs(np.arange(n) - place[:, None]) / reach)
    weights[~inside] = 0
    total = weights.sum(axis=1, keepdims=True)
    total[total == 0] = 1
    result: NDArray[np.float32] = (weights / total).astype(np.float32)
    return result
