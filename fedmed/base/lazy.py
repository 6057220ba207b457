"""Public names of a package that are imported when they are first asked for (PEP 562)."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, homes: Mapping[str, Iterable[str]], packages: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``.

    ``homes`` says which names lie in which module of it; a module is imported the first time that
    one of its names is asked for. ``packages`` are subpackages that need no import of their own.

    >>> find, names = attach("fedmed.evaluation", {"discrimination": ["auroc"]})
    >>> find("auroc")([0, 1], [0.2, 0.7])
    1.0
    >>> "auroc" in names()
    True
    """
    places = {name: module for module, listed in homes.items() for name in listed}
    inner = frozenset(packages)

    def find(name: str) -> Any:
        if name in inner:
            return import_module(f"{package}.{name}")
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places, *inner})

    return find, names
