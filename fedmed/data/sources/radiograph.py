"""Drawing one synthetic chest radiograph: thorax, lungs, ribs, heart, opacities, scanner.

A schematic picture for trying things out, not a model of any patient. Coordinates run from -1 to 1,
x to the right of the image and y downwards; brightness from 0 (air) to 1 (bone).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 128
"""Height and width of every image in pixels."""

Image = NDArray[np.floating[Any]]

_AXIS = ((np.arange(SIDE, dtype=np.float32) + 0.5) * 2 / SIDE - 1).astype(np.float32)
_X, _Y = _AXIS[None, :], _AXIS[:, None]


@dataclass(frozen=True)
class Film:
    """All that decides an image besides the seed."""

    patient: int  # anatomy is drawn once per patient
    film: int  # position, opacities and noise are drawn once per film
    site: int  # the scanner is drawn once per hospital
    female: bool
    age: float  # years
    anteroposterior: bool  # AP: the heart looks larger
    contrast: float  # brightness that the opacities add at their centre; 0 = none


def draw(film: Film, seed: int) -> NDArray[np.float32]:
    """Float32 in [0, 1], shape (SIDE, SIDE); the same film and seed give the same pixels."""
    anatomy = np.random.default_rng([seed, 1, film.patient])
    pose = np.random.default_rng([seed, 2, film.film])
    shape = anatomy.uniform(-1, 1, 8).tolist()  # Python's floats keep arrays float32
    moved = pose.uniform(-1, 1, 4).tolist()
    x = _X * (1 + 0.04 * moved[0]) + 0.05 * moved[1]
    y = _Y * (1 + 0.04 * moved[2]) + 0.05 * moved[3]

    body = _body(x, y, 0.92 + 0.06 * shape[0])
    lungs = _lungs(x, y, shape)
    image = 0.04 + 0.60 * body - 0.44 * lungs
    image += body * _bell(x, 0, 0.11) * 0.22  # spine and mediastinum
    enlarged = (0.05 if film.anteroposterior else 0) + 0.0012 * (film.age - 50)
    heart = _ellipse(x, y, 0.13, 0.34, 0.32 + enlarged + 0.04 * shape[1], 0.27, 0.5)
    image += 0.42 * heart * lungs
    image += _ribs(x, y, shape) * (0.03 + 0.10 * lungs) * body
    image += _clavicles(x, y) * 0.13 * body
    for side in (-1, 1):  # hila
        image += 0.13 * _bell(x, side * 0.2, 0.08) * _bell(y, 0.02, 0.16) * lungs
    if film.female:
        for side in (-1, 1):  # breast shadows veil the lower lungs
            image += 0.09 * _bell(x, side * 0.45, 0.24) * _bell(y, 0.42, 0.24) * body
    texture = _grid() @ pose.standard_normal((12, 12), dtype=np.float32) @ _grid().T
    image += (0.04 + 0.0005 * (film.age - 18)) * texture * lungs
    if film.contrast > 0:
        image += film.contrast * _opacities(x, y, pose) * lungs * (1 - 0.6 * heart)
    return _scan(image.astype(np.float32), film.site, seed, pose)


def _body(x: Image, y: Image, width: float) -> Image:
    """Shoulders, chest wall and neck."""
    across, down = (x / width) ** 2, ((y - 0.55) / 1.36) ** 2
    torso = _soft(1 - across * across - down * down * down, 0.12)
    return np.maximum(torso, _soft(0.24 - np.abs(x), 0.1) * _soft(-y, 0.2))


def _lungs(x: Image, y: Image, shape: list[float]) -> Image:
    width, height = 0.31 + 0.03 * shape[2], 0.74 + 0.05 * shape[3]
    lungs: Image = np.zeros((SIDE, SIDE), dtype=np.float32)
    for side, base in ((-1, 0.50), (1, 0.57)):  # the liver lifts the right diaphragm
        centre = side * (0.42 + 0.02 * shape[4]) + side * 0.10 * (y - 0.1)
        field = _soft(1 - ((x - centre) / width) ** 2 - ((y + 0.02) / height) ** 2, 0.35)
        dome = base + 0.04 * shape[5] + 1.5 * (x - side * 0.36) ** 2
        lungs = np.maximum(lungs, field * _soft(dome - y, 0.10))
    return lungs


def _ribs(x: Image, y: Image, shape: list[float]) -> Image:
    """Bands that fall to the sides, about nine of them."""
    phase = 27.0 * (y - 0.45 * np.abs(x) ** 1.5 * (1 + 0.2 * shape[6])) + 3 * shape[7]
    band = np.maximum(np.cos(phase), 0)
    ribs: Image = band * band * _soft(np.abs(x) - 0.12, 0.15)
    return ribs


def _clavicles(x: Image, y: Image) -> Image:
    return _bell(y + 0.66 + 0.20 * np.abs(x), 0, 0.045) * _soft(np.abs(x) - 0.08, 0.1)


def _opacities(x: Image, y: Image, pose: np.random.Generator) -> Image:
    """One to three soft blobs with their centres inside the lungs, peak about 1."""
    total: Image = np.zeros((SIDE, SIDE), dtype=np.float32)
    for _ in range(int(pose.integers(1, 4))):
        side = 1 if pose.random() < 0.5 else -1
        at_x, at_y = side * pose.uniform(0.28, 0.56), pose.uniform(-0.42, 0.40)
        wide, high = pose.uniform(0.10, 0.20, 2).tolist()
        total = np.maximum(total, _bell(x, at_x, wide) * _bell(y, at_y, high))
    return total


def _scan(image: Image, site: int, seed: int, pose: np.random.Generator) -> NDArray[np.float32]:
    """What one hospital's scanner makes of it: gain, gamma, blur, grain, frame and marker."""
    scanner = np.random.default_rng([seed, 3, site])
    gain, gamma = scanner.uniform(0.85, 1.15), scanner.uniform(0.75, 1.3)
    blur, grain = scanner.uniform(0, 0.25), scanner.uniform(0.01, 0.04)
    frame, marked = int(scanner.integers(0, 7)), bool(scanner.random() < 0.5)
    image = np.clip(image * gain, 0, 1) ** np.float32(gamma)
    for axis in (0, 1):
        padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
        low, high = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        image = (1 - 2 * blur) * image + blur * (low + high)
    image += grain * pose.standard_normal(image.shape, dtype=np.float32)
    if marked:
        image[10:20, 112:115], image[17:20, 112:119] = 0.95, 0.95  # the letter L
    if frame:
        image[:frame], image[-frame:], image[:, :frame], image[:, -frame:] = 0, 0, 0, 0
    return np.clip(image, 0, 1).astype(np.float32, copy=False)


def _soft(inside: Image, width: float) -> Image:
    """0 outside, 1 inside, smooth over ``width``."""
    ramp = np.clip(inside * np.float32(1 / width) + np.float32(0.5), 0, 1)
    smooth: Image = ramp * ramp * (3 - 2 * ramp)
    return smooth


def _ellipse(
    x: Image, y: Image, at_x: float, at_y: float, wide: float, high: float, edge: float
) -> Image:
    return _soft(1 - ((x - at_x) / wide) ** 2 - ((y - at_y) / high) ** 2, edge)


def _bell(values: Image, centre: float, width: float) -> Image:
    scaled = (values - np.float32(centre)) * np.float32(1 / width)
    bell: Image = np.exp(-0.5 * scaled * scaled)
    return bell


@cache
def _grid() -> Image:
    """Linear interpolation from 12 points to SIDE pixels, shape (SIDE, 12)."""
    position = np.linspace(0, 11, SIDE)[:, None]
    grid: Image = np.maximum(0, 1 - np.abs(position - np.arange(12))).astype(np.float32)
    return grid
