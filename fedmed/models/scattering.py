"""Wavelet scattering in two and three dimensions: features without any trained number.

After Bruna & Mallat 2013, "Invariant scattering convolution networks"; Tramèr & Boneh 2021,
"Differentially private learning needs better features", put a linear model on them. In two
dimensions filters, borders and the order of channels are kymatio's (Andreux et al. 2020).
"""

import functools
import math
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from fedmed.config.scattering import ANGLES, AXES, parts_of, paths_of

_SIGMA, _XI = 0.8, 3 * math.pi / 4  # pixels and radians per pixel, at the finest scale
_SLANT = 4 / ANGLES  # in the plane: width of the envelope along the wave over that across it
_ALIASES = range(-1, 2)  # periods of a sampled filter's spectrum that are not 0 in float32
_FLOOR = 0.01  # grey levels from black to white are 4
_AT_ONCE = 1 << 20  # complex numbers: 8 MB


class Scattering(nn.Module):
    """Orders 0, 1 and 2 of the scattering of an image or a volume, at ``scales`` = J octaves.

    :meth:`maps` takes (batch, ``channels``, *sides) float32 with all sides equal to ``side``, at
    least 2^J. It returns (batch, channels x paths, *maps) float32 with sides of ``side`` // 2^J:
    per channel the image, its moduli ``|x * psi_1|`` and ``||x * psi_1| * psi_2|`` of coarser
    psi_2, each averaged by a Gaussian of 0.8 x 2^(J-1) pixels. Borders are mirrored. ``forward``
    gives them as one stage: 4 s of order 0, and 2 log((0.01 + s) / c) of orders 1 and 2, as
    contrast differs by factors and rare strong edges would rule the rest. The c are what films
    have, 0.07 and 0.016: numbers are around 0, as is the noise that an engine's check makes up.

    A wavelet of octave j is a Morlet: a Gaussian of 0.8 x 2^j pixels times a wave of 3/4 pi / 2^j
    radians per pixel, less the Gaussian times what makes the mean 0. In the plane there are 8
    directions, and the Gaussian is twice as wide across the wave as along it. In space there are 6,
    and it is round, so that it is a product of three lines and no filter is stored. Images go one
    by one, and large ones filter by filter.
    """

    def __init__(
        self, side: int, scales: int = 2, dimensions: Literal[2, 3] = 2, channels: int = 1
    ) -> None:
        super().__init__()
        self.side, self.scales, self.dimensions = side, scales, dimensions
        self.channels = channels
        self._axes = tuple(range(-dimensions, 0))
        self.count = ANGLES if dimensions == 2 else AXES
        whole = padded_side(side, scales)
        self.register_buffer("_border", _mirrored(side, whole), persistent=False)
        for level in range(scales):
            size = whole >> level
            self.register_buffer(f"_mean{level}", _averaging(size, level, scales), persistent=False)
            for scale in range(level, scales):
                for name, values in _filters(size, level, scale, dimensions).items():
                    self.register_buffer(f"_{name}{level}{scale}", values, persistent=False)

    def extra_repr(self) -> str:
        """What tells two of them apart, as there is no weight that does."""
        sizes = f"side={self.side}, scales={self.scales}, dimensions={self.dimensions}"
        return f"{sizes}, channels={self.channels}"

    def width(self, pooling: str) -> int:
        """Numbers of an image, under a ``pooling`` of :class:`FeatureNetwork`."""
        parts = parts_of(pooling, self.side, self.scales, self.dimensions)
        return self.channels * paths_of(self.scales, self.dimensions) * parts

    def forward(self, images: Tensor) -> list[Tensor]:
        """(batch, channels, *sides) -> (batch, channels x paths, *maps), logarithms."""
        maps = self.maps(images)
        maps = maps.view(len(maps), self.channels, -1, *maps.shape[2:])
        zeroth, first, second = torch.split(maps, self._orders(), 2)
        orders = [4 * zeroth, _logarithm(first, 0.07), _logarithm(second, 0.016)]
        return [torch.cat(orders, 2).flatten(1, 2)]

    def _orders(self) -> list[int]:
        """Maps of orders 0, 1 and 2."""
        first = self.scales * self.count
        return [1, first, paths_of(self.scales, self.dimensions) - 1 - first]

    def maps(self, images: Tensor) -> Tensor:
        """(batch, channels, *sides) -> (batch, channels x paths, *maps)."""
        with torch.autocast(images.device.type, enabled=False):
            planes = [self._scattered(plane) for plane in images.flatten(0, 1).float()]
        return torch.stack(planes).view(len(images), -1, *planes[0].shape[1:])

    def standardised(self, features: Tensor) -> Tensor:
        """Features (batch, n), each vector on its own: of length 1 at most, no trained number.

        Every map has mean 0 and deviation 1 over its positions (GroupNorm of one channel each, as
        Tramèr & Boneh 2021 have it of several), and orders 0, 1 and 2 a third of the length each.
        Of pooling "mean", which leaves one number of a map, the vector as a whole has mean 0.
        """
        paths = paths_of(self.scales, self.dimensions)
        maps = features.reshape(len(features), self.channels, paths, -1)
        if maps.shape[-1] == 1:
            return layer_norm(features, features.shape[1:]) / math.sqrt(features.shape[1])
        shares = [share for share in self._orders() if share]
        parts = self.channels * len(shares) * maps.shape[-1]
        weights = [1 / math.sqrt(parts * share) for share in shares for _ in range(share)]
        maps = layer_norm(maps, maps.shape[-1:]) * maps.new_tensor(weights)[:, None]
        return maps.flatten(1)

    def _scattered(self, plane: Tensor) -> Tensor:
        """(*sides) -> (paths, *maps)."""
        for axis in range(self.dimensions):
            plane = plane.index_select(axis, self._buffer("border"))
        first, second = [self._averaged(plane[None], 0)], []
        spectrum = torch.fft.fftn(plane[None], dim=self._axes)
        for scale in range(self.scales):
            moduli = self._moduli(spectrum, 0, scale)[0]
            first.append(self._averaged(moduli, scale))
            at_once = max(1, _AT_ONCE // (self.count * moduli[0].numel()))
            for part in torch.split(moduli, at_once) if scale + 1 < self.scales else ():
                spectra = torch.fft.fftn(part, dim=self._axes)
                coarser = range(scale + 1, self.scales)
                maps = [self._averaged(self._moduli(spectra, scale, to), to) for to in coarser]
                second.append(torch.cat(maps, 1).flatten(0, 1))
        return torch.cat(first + second)

    def _moduli(self, spectra: Tensor, level: int, scale: int) -> Tensor:
        """Moduli (n, directions, *grid of ``scale``) of spectra (n, *grid of ``level``)."""
        fold, step = 1 << (scale - level), max(1, _AT_ONCE // spectra.numel())
        paired = torch.view_as_real(spectra).flatten(-2)[:, None]  # the filters are real
        parts = []
        for start in range(0, self.count, step):
            folded = paired * self._wavelets(level, scale, slice(start, start + step))
            for axis in self._axes if fold > 1 else ():  # of every 2^k-th pixel
                aliases = folded.chunk(fold, axis)
                folded = functools.reduce(torch.add, aliases)
            whole = torch.view_as_complex(folded.view(*folded.shape[:-1], -1, 2))
            parts.append(torch.fft.ifftn(whole, dim=self._axes).abs())
        return torch.cat(parts, 1)

    def _wavelets(self, level: int, scale: int, which: slice) -> Tensor:
        """Spectra of some of an octave's wavelets, each number twice: (n, *sides, 2 x side)."""
        if self.dimensions == 2:
            return self._buffer(f"planes{level}{scale}")[which]
        rows, columns, lines = self._buffer(f"lines{level}{scale}")[which].unbind(2)
        lines = lines.repeat_interleave(2, -1)
        bumps = rows[..., None, None] * columns[..., None, :, None] * lines[..., None, None, :]
        return bumps[:, 0] - bumps[:, 1]

    def _averaged(self, maps: Tensor, level: int) -> Tensor:
        """The Gaussian mean around every 2^J-th pixel, of maps (..., *grid of ``level``)."""
        matrix = self._buffer(f"mean{level}")
        for _ in range(self.dimensions):
            maps = maps.movedim(-self.dimensions, -1) @ matrix
        return maps

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(f"_{name}")


def _logarithm(values: Tensor, typical: float) -> Tensor:
    """About 0 for numbers of a film; of numbers from 0 on, but for rounding."""
    return 2 * torch.log((_FLOOR + values.clamp(min=0)) / typical)


def padded_side(side: int, scales: int) -> int:
    """The side with its borders, a multiple of 2^J: a map has a cell more on either side."""
    return ((side >> scales) + 2) << scales


def directions(dimensions: Literal[2, 3]) -> Tensor:
    """Unit vectors (directions, dimensions) float64, no two of them opposite."""
    if dimensions == 2:
        turns = [(ANGLES // 2 - 1 - place) * math.pi / ANGLES for place in range(ANGLES)]
        return torch.tensor([[math.cos(t), math.sin(t)] for t in turns], dtype=torch.float64)
    golden = (1 + math.sqrt(5)) / 2
    axes = [(0, 1, golden), (1, golden, 0), (golden, 0, 1)]
    axes += [(0, -1, golden), (-1, golden, 0), (golden, 0, -1)]
    return torch.tensor(axes, dtype=torch.float64) / math.sqrt(1 + golden**2)


def _mirrored(side: int, whole: int) -> Tensor:
    """Which pixel stands at each place of the padded side; the outermost one is not repeated."""
    period = max(1, 2 * (side - 1))
    place = (torch.arange(whole) - (whole - side) // 2) % period
    return torch.minimum(place, period - place)


def _frequencies(size: int, level: int) -> Tensor:
    """Radians per pixel of the image, on a grid of every 2^``level``-th pixel."""
    turns: Tensor = torch.fft.fftfreq(size, dtype=torch.float64)
    return turns * (2 * math.pi / (1 << level))


def _line(size: int, level: int, centre: Tensor, sigma: float) -> Tensor:
    """Spectrum (*centre, size) of a sampled Gaussian times a wave of ``centre`` radians."""
    omega = _frequencies(size, level)
    parts = [omega + 2 * math.pi * alias - centre[..., None] for alias in _ALIASES]
    return torch.exp(-0.5 * (sigma * torch.stack(parts)).square()).sum(0)


def _averaging(size: int, level: int, scales: int) -> Tensor:
    """Matrix (size, maps): circular means by a Gaussian around every 2^J-th pixel but the ends."""
    spectrum = _line(size, level, torch.zeros(()).double(), _SIGMA * (1 << scales - 1))
    kernel = torch.fft.ifft(spectrum).real
    step = 1 << (scales - level)
    centres = torch.arange(step, size - step, step)
    matrix: Tensor = kernel[(centres[None] - torch.arange(size)[:, None]) % size]
    return matrix.float()


@functools.lru_cache(maxsize=12)  # every hospital and request builds a network
def _filters(size: int, level: int, scale: int, dimensions: Literal[2, 3]) -> dict[str, Tensor]:
    """Spectra of an octave's wavelets: planes (directions, size, size), or lines in space.

    Lines (directions, 2, 3, size): of the wave and of what makes its mean 0, along three axes.
    """
    sigma, waves = _SIGMA * (1 << scale), directions(dimensions) * (_XI / (1 << scale))
    folds = 1 << (scale - level)
    if dimensions == 2:
        plain = torch.zeros_like(waves)
        bumps, wide = (_planes(size, level, centre, sigma) for centre in (waves, plain))
        ratio = bumps[:, :1, :1] / wide[:, :1, :1]
        planes = (bumps - ratio * wide) / folds**2
        return {"planes": planes.float().repeat_interleave(2, -1)}
    lines = torch.stack([_line(size, level, centre, sigma) for centre in (waves, 0 * waves)], 1)
    lines[:, 1] *= lines[:, 0, :, :1] / lines[:, 1, :, :1]
    return {"lines": (lines / folds).float()}


def _planes(size: int, level: int, waves: Tensor, sigma: float) -> Tensor:
    """Spectra (directions, size, size) of sampled Gaussians times waves (directions, 2)."""
    omega = _frequencies(size, level)
    total = torch.zeros(ANGLES, size, size, dtype=torch.float64)
    x, y = directions(2)[:, :, None, None].unbind(1)
    for alias in product(_ALIASES, _ALIASES):
        rows, columns = ((omega + 2 * math.pi * k) for k in alias)
        rows, columns = rows[:, None] - waves[:, :1, None], columns - waves[:, 1:, None]
        along, across = rows * x + columns * y, columns * x - rows * y
        total += torch.exp(-0.5 * sigma**2 * (along**2 + (across / _SLANT) ** 2))
    return total
