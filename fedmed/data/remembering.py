"""What a process keeps of data from one request to the next: every such cache, and one way out."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_FORGETTING: Final[list[Callable[[], None]]] = []


def remembered(maxsize: int) -> "Callable[[Callable[P, T]], functools._lru_cache_wrapper[T]]":
    """An :func:`functools.lru_cache` of what is made from data, emptied by :func:`forget`."""

    def wrap(function: Callable[P, T]) -> "functools._lru_cache_wrapper[T]":
        cached = functools.lru_cache(maxsize)(function)
        _FORGETTING.append(cached.cache_clear)
        return cached

    return wrap


def forget() -> None:
    """Empty every cache: under other settings a process keeps the shards of one run, not of all."""
    for clear in _FORGETTING:
        clear()
