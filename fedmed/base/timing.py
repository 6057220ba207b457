"""Where the time of this process goes; read by the launcher, never sent by a hospital."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_spent: dict[str, float] = defaultdict(float)


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Add the block's wall time, in seconds, to ``what``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _spent[what] += time.perf_counter() - start


def spent(what: str) -> float:
    """Seconds spent on ``what`` in this process since :func:`reset`."""
    return _spent[what]


def reset() -> None:
    """Start counting anew."""
    _spent.clear()
