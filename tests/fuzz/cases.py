"""What a bad input is, and the kinds of them by name: each draws a new one from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

BAD, HARMLESS, EITHER = "bad", "harmless", "either"


@dataclass(kw_only=True)
class Case:
    """One call of ``fedmed`` in a folder, and what must come of it.

    ``expect``: a bad input ends with 2 and one line, a harmless one with 0, either with one of the
    two. ``names`` are words of which that line holds at least one. ``codes`` are further exit codes
    that the command's guide allows. ``ends`` is what a command prints that would go on for ever; it
    is then sent a signal. ``writes`` are the files that it may write, relative to the folder.
    """

    arguments: list[str]
    expect: str = EITHER
    names: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    ends: str = ""
    writes: tuple[str, ...] = ()
    several_lines: bool = False  # a check list, which is no single error
    note: str = ""  # what was done to the input
    kind: str = field(default="", init=False)


Draw = Callable[[Random, Path], Case]
KINDS: dict[str, Draw] = {}
HEAVY: set[str] = set()  # whose inputs are large, and left out of a short run


def kind(name: str, weight: int = 1, *, heavy: bool = False) -> Callable[[Draw], Draw]:
    """Register a kind; one of weight 3 is drawn three times as often.

    A ``heavy`` one takes seconds or gigabytes.
    """

    def register(draw: Draw) -> Draw:
        for copy in range(weight):
            full = name if not copy else f"{name}#{copy + 1}"
            KINDS[full] = draw
            HEAVY.update({full} if heavy else ())
        return draw

    return register


def draw(seed: int, number: int, folder: Path) -> Case:
    """Input ``number`` of ``seed``, its files written in ``folder``: always the same one."""
    names = sorted(KINDS)
    # A step that shares no factor with their number: neighbours are of different families.
    name = names[number * 37 % len(names)] if len(names) % 37 else names[number % len(names)]
    case = KINDS[name](Random(f"{seed}:{number}:{name}"), folder)
    case.kind = name.partition("#")[0]
    return case
