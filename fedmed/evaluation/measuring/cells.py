"""Cells: the images that are in the same group of every attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def cells_of(images: int, groups: Sequence[Sequence[Integers]]) -> tuple[Integers, list[Floats]]:
    """Cell [images] of each image, and per partition 1 where a group has a cell [groups, cells].

    `groups` are the positions of each group's images by partition; an image is in one group of
    each. No partition: one cell.

    >>> cell, (inside,) = cells_of(3, [[np.array([0, 2]), np.array([1])]])
    >>> cell.tolist(), inside.tolist()
    ([0, 1, 0], [[1.0, 0.0], [0.0, 1.0]])
    """
    cell = np.zeros(images, dtype=np.int64)
    codes = []
    for of_partition in groups:
        group = np.zeros(images, dtype=np.int64)
        for position, chosen in enumerate(of_partition):
            group[chosen] = position
        codes.append(group)
        _, cell = np.unique(cell * len(of_partition) + group, return_inverse=True)
    _, first = np.unique(cell, return_index=True)
    return cell, [
        (group[first] == np.arange(len(of_partition))[:, None]) * 1.0
        for group, of_partition in zip(codes, groups, strict=True)
    ]
