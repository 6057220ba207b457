"""Libraries that log what they cannot read, tag values among it: nothing of theirs is printed."""

import logging
import threading
from typing import Final

_entering: Final = threading.Lock()
_within: Final[dict[str, int]] = {}
_before: Final[dict[str, "_State"]] = {}


class quiet:
    """Silence a logger and all below it; blocks may lie within each other and in several threads.

    >>> with quiet("pydicom"):
    ...     logging.getLogger("pydicom.filereader").warning("not printed")
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        with _entering:
            _within[self._name] = _within.get(self._name, 0) + 1
            if _within[self._name] == 1:
                _before[self._name] = _State(self._name)

    def __exit__(self, *_: object) -> None:
        with _entering:
            _within[self._name] -= 1
            if not _within[self._name]:
                _before.pop(self._name).restore()


class _State:
    """What a logger and those below it were when the first block began, all of them now off."""

    def __init__(self, name: str) -> None:
        loggers = logging.Logger.manager.loggerDict
        below = [logging.getLogger(n) for n in list(loggers) if n.startswith(f"{name}.")]
        self._top = logging.getLogger(name)
        self._were = [(one, one.disabled) for one in (self._top, *below)]
        self._propagates, self._handlers = self._top.propagate, self._top.handlers
        for one, _ in self._were:
            one.disabled = True
        # A logger that is born meanwhile ends here, and not in Python's handler of last resort.
        self._top.propagate, self._top.handlers = False, [logging.NullHandler()]

    def restore(self) -> None:
        for one, was in self._were:
            one.disabled = was
        self._top.propagate, self._top.handlers = self._propagates, self._handlers
