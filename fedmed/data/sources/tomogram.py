"""Drawing one synthetic abdominal CT: body, fat, spine, liver, a lesion in the ill, a scanner.

A schematic volume in Hounsfield units for trying things out, not a model of any patient.
Coordinates are in units of 192 mm from the centre: z to the head, y to the back, x to the left.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.data.volume import AIR, BONE, Volume

SIDE, SPACING = 48, 8.0
"""Voxels along each edge of the cube, and their distance in mm."""

LESION_HU = 190.0
"""HU that a lesion of contrast 1 is darker than the liver."""

Array = NDArray[np.floating[Any]]

_AXIS = ((np.arange(SIDE, dtype=np.float32) + 0.5) * 2 / SIDE - 1).astype(np.float32)
_Z, _Y, _X = _AXIS[:, None, None], _AXIS[None, :, None], _AXIS[None, None, :]


@dataclass(frozen=True)
class Scan:
    """All that decides a volume besides the seed."""

    patient: int  # anatomy is drawn once per patient
    scan: int  # position, lesion and noise are drawn once per scan
    site: int  # the scanner is drawn once per hospital
    female: bool
    age: float  # years
    contrast: float  # of the lesion to the liver, in units of LESION_HU; 0 = no lesion


def draw(scan: Scan, seed: int, where: str) -> Volume:
    """Volume in HU, (SIDE, SIDE, SIDE); the same scan and seed give the same voxels."""
    anatomy = np.random.default_rng([seed, 1, scan.patient])
    pose = np.random.default_rng([seed, 2, scan.scan])
    shape = anatomy.uniform(-1, 1, 8).tolist()  # Python's floats keep arrays float32
    moved = pose.uniform(-0.04, 0.04, 3).tolist()
    z, y, x = _Z + np.float32(moved[0]), _Y + np.float32(moved[1]), _X + np.float32(moved[2])

    wide, deep = 0.86 + 0.06 * shape[0] - 0.05 * scan.female, 0.62 + 0.05 * shape[1]
    body = _ball(x / wide, y / deep, 0.45 * z)
    muscle = _ball(x / (wide - 0.1), y / (deep - 0.1), 0.45 * z)
    values = AIR + (AIR * -1 - 100) * body  # fat is -100
    values = values + 150 * muscle  # soft tissue is 50
    spine = _ball(x / 0.12, (y - 0.33) / 0.13, 0 * z)
    values = values + (330 - 1.5 * (scan.age - 18)) * spine  # bone thins with age
    liver = _ball((x + 0.36) / (0.36 + 0.03 * shape[2]), (y + 0.05) / 0.34, (z - 0.2) / 0.5)
    values = values + (55 + 8 * shape[3]) * liver * (1 - spine)
    for side in (-1, 1):  # kidneys
        kidney = _ball((x - side * 0.34) / 0.12, (y - 0.26) / 0.13, (z + 0.25) / 0.28)
        values = values + 110 * kidney * (1 - liver)
    bowel = _grid_noise(pose)
    values = values + 25 * bowel * muscle * (1 - liver)
    if scan.contrast > 0:
        values = values - LESION_HU * scan.contrast * _lesion(x, y, z, pose) * liver
    voxels = _scanned(values.astype(np.float32), scan.site, seed, pose)
    return Volume(voxels, (SPACING, SPACING, SPACING), hounsfield=True, where=where)


def _lesion(x: Array, y: Array, z: Array, pose: np.random.Generator) -> Array:
    """One round mass with its centre inside the liver, 30 to 50 mm in radius."""
    at = pose.uniform(-1, 1, 3)
    radius = float(pose.uniform(0.16, 0.26))
    lesion: Array = _ball(
        (x + 0.36 - 0.12 * float(at[0])) / radius,
        (y + 0.05 - 0.10 * float(at[1])) / radius,
        (z - 0.2 - 0.16 * float(at[2])) / radius,
    )
    return lesion


def _scanned(
    values: NDArray[np.float32], site: int, seed: int, pose: np.random.Generator
) -> NDArray[np.int16]:
    """What one hospital's scanner makes of it: calibration, blur and noise."""
    scanner = np.random.default_rng([seed, 3, site])
    shift, blur = float(scanner.uniform(-8, 8)), float(scanner.uniform(0, 0.2))
    noise = float(scanner.uniform(12, 30))  # HU, standard deviation
    for axis in range(3):
        edges = values.take([0], axis), values.take([-1], axis)
        padded = np.concatenate([edges[0], values, edges[1]], axis)
        ends = np.arange(SIDE), np.arange(2, SIDE + 2)
        values = (1 - 2 * blur) * values + blur * (
            padded.take(ends[0], axis) + padded.take(ends[1], axis)
        )
    values = values + shift + noise * pose.standard_normal(values.shape, dtype=np.float32)
    voxels: NDArray[np.int16] = np.rint(values.clip(AIR, BONE)).astype(np.int16)
    return voxels


def _ball(x: Array, y: Array, z: Array) -> Array:
    """1 inside the unit ball, 0 outside, smooth over a tenth of its radius."""
    ramp = np.clip((1 - np.sqrt(x * x + y * y + z * z)) * np.float32(10) + np.float32(0.5), 0, 1)
    smooth: Array = ramp * ramp * (3 - 2 * ramp)
    return smooth


def _grid_noise(pose: np.random.Generator) -> Array:
    """Smooth structure: 8 points along each axis, linearly interpolated, standard normal there."""
    position = np.linspace(0, 7, SIDE)[:, None]
    grid = np.maximum(0, 1 - np.abs(position - np.arange(8))).astype(np.float32)
    points = pose.standard_normal((8, 8, 8), dtype=np.float32)
    for _ in range(3):
        points = np.tensordot(points, grid, axes=(0, 1))  # the axes come round in turn
    return points
