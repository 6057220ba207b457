"""The same work on several things at once, where numpy lets other threads run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def in_threads(
    work: Callable[[Thing], Made], things: Sequence[Thing], threads: int | None
) -> list[Made]:
    """`work` of each, in order, from at most `threads` threads (None: one per core).

    >>> in_threads(abs, [-1, 2], threads=2)
    [1, 2]
    """
    most = (os.cpu_count() or 1) if threads is None else threads
    with ThreadPoolExecutor(max(1, min(most, len(things)))) as pool:
        return list(pool.map(work, things))
