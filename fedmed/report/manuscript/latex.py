"""Texts and tables as LaTeX: no character of a name or a cohort is taken for a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_WRITTEN: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "ε": r"$\varepsilon$",
    "δ": r"$\delta$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{NO-BREAK SPACE}": "~",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
"""Characters that LaTeX takes for commands, or that its fonts lack, and how they are written."""


def escaped(text: str) -> str:
    """A text for the body of a LaTeX document; control characters are left out."""
    kept = (character for character in text if character.isprintable() or character in _WRITTEN)
    return "".join(_WRITTEN.get(character, character) for character in kept)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str, note: str
) -> str:
    """A table for the package booktabs, the first column left and the others as they are wide.

    All texts are escaped here; `note` stands below the table, and may be empty.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
            r"\toprule",
            line(columns),
            r"\midrule",
            *(line(row) for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip {escaped(note)}"] if note else []),
            r"\end{table}",
            "",
        ]
    )
