"""A bar with the time left, for work that is one share of a whole; nothing where nobody looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from fedmed.base.terminal import console, printable


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[float], None] | None]:
    """What takes the share done, 0 to 1, and shows it; None where standard error is no terminal."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeLeft(),
    )
    with Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task(printable(what), total=1.0)
        yield lambda share: bars.update(task, completed=share)
