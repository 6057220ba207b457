"""The one way to a terminal: what files and names say is shown, never obeyed.

A column of a CSV, a hospital's name or a message from a server may hold escape sequences, marks
that turn the direction of writing, or rich's markup. All output of the commands goes through here.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # a health check needs none of it
    from rich.console import Console
    from rich.text import Text

_JOINERS: Final = "\u200c\u200d"  # parts of words in several scripts
_LONGEST: Final = 1500  # characters of an error


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` with an escape for each character that a terminal could obey; tabs stay.

    ``lines`` leaves line ends as they are, for text that was laid out here.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter == "\t" or (lines and letter == "\n") else _shown(letter)
        for letter in text
    )


def say(text: object = "", *, err: bool = False, end: bool = True) -> None:
    """Print lines on standard output, or on standard error."""
    stream = sys.stderr if err else sys.stdout
    line = printable(str(text), lines=True) + ("\n" if end else "")
    # What the terminal's encoding has not is an escape too.
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def one_line(text: str) -> str:
    """An error as one line of a length that can be read."""
    flat = printable(" ".join(part.strip() for part in text.splitlines() if part.strip()))
    if len(flat) <= _LONGEST:
        return flat
    return f"{flat[: _LONGEST // 2]} ... {flat[-_LONGEST // 2 :]}"


def cell(value: object) -> Text:
    """A cell of a table, without markup."""
    from rich.text import Text

    return Text(printable(str(value)))


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich's that takes no markup from text."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


class Formatter(logging.Formatter):
    """Log lines from which no text can break out."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with escapes."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        """A traceback, with escapes."""
        return printable(super().formatException(ei), lines=True)  # type: ignore[arg-type]  # logging's tuple


def _shown(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind not in ("Cc", "Cf", "Cs", "Zl", "Zp") or letter in _JOINERS:
        return letter
    return (
        letter.encode("ascii", "backslashreplace").decode("ascii")
        if ord(letter) > 127
        else (f"\\x{ord(letter):02x}")
    )
