"""Memory that is used again: in a fresh array of megabytes, pages cost more than the arithmetic."""

from __future__ import annotations

import math
import threading

import numpy as np
import numpy.typing as npt

_held = threading.local()


def scratch(name: str, *shape: int) -> npt.NDArray[np.float64]:
    """An array [shape] with anything in it; the same memory for the same name in this thread.

    What is in it is lost when the name is asked for again, so it must not be kept or returned to
    where that may happen.
    """
    buffer: npt.NDArray[np.float64] | None = getattr(_held, name, None)
    size = math.prod(shape)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size)
        setattr(_held, name, buffer)
    return buffer[:size].reshape(shape)


def gathered(
    name: str, table: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Rows of a table [m, r] as :func:`scratch` memory [rows, r]; all must be rows of it."""
    result = scratch(name, rows.size, table.shape[1])
    # "clip": with "raise", numpy writes to a fresh array first.
    return np.take(table, rows, axis=0, out=result, mode="clip")
