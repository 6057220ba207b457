"""From the words of a label column to 0 and 1, or to a line that says why not.

A word that means disease is looked for in every way in which tables write it beside others: in a
list, between bars, slashes, commas or semicolons. Where it stands in a cell without being one of
its parts ("no pneumonia", "PNEUMONIA?"), or where a word says neither ("pending"), nothing is
assumed.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Final

import pandas as pd

from fedmed.base.entries import MISSING, missing
from fedmed.base.errors import UserError

SEPARATORS: Final = ("|", ";", "/", ",")
LIST: Final = "list"  # a list as Python writes it: ['a', 'b']
UNDECIDED: Final = ("?", "-", "pending", "unknown", "uncertain", "undetermined", "tbd", "todo")
"""Cells that say neither, in lower case; ``data.positive`` or ``data.negative`` may name them."""

_ITEM: Final = re.compile(r"""'([^']*)'|"([^"]*)"|([^,'"\s][^,'"]*)""")
_SHOWN: Final = 8  # values that a note names
_LONGEST: Final = 40  # characters of a value that a note shows


@dataclass(frozen=True)
class Words:
    """What ``data.positive``, ``data.negative`` and ``data.separator`` say.

    ``negative`` may be empty: every other word then means no disease. ``separator`` may be empty:
    it is then read from the column.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    separator: str = ""

    @classmethod
    def of(cls, positive: str, negative: str, separator: str) -> "Words":
        """From the settings' texts, words split by bars."""
        return cls(_words(positive), _words(negative), separator)


def zero_or_one(cells: pd.Series, words: Words, where: str) -> tuple[pd.Series, list[str]]:
    """Labels (Int8, <NA> where a cell is empty), and remarks on how they were read.

    A cell is 1 where one of its parts is in ``words.positive``. Raises :class:`UserError` naming
    ``where`` and the row for a word that means nothing, or perhaps something else.

    >>> labels, remarks = zero_or_one(pd.Series(["a|b", "b", ""]), Words(("a",)), "t.csv")
    >>> labels.tolist()
    [1, 0, <NA>]
    >>> remarks[0]
    "label cells are split at '|' (data.separator)"
    """
    plain = cells.astype("string").map(_spelt, na_action="ignore").astype("string")
    empty = missing(plain) & ~plain.isin([*words.positive, *words.negative]).fillna(False)
    kinds = [str(value) for value in plain[~empty].unique()]
    separator = words.separator or _separator(kinds, words.positive)
    parts = {value: _parts(value, separator) for value in kinds}
    _check_spelling(parts, words, where)
    _check_words(plain, parts, words, where)
    positive = {value for value in kinds if set(parts[value]) & set(words.positive)}
    labels = plain.isin(positive).astype("Int8").mask(empty)
    notes = [f"label cells are split at {_named(separator)} (data.separator)"]
    counts = Counter(str(value) for value in plain[~empty])
    ones = [(value, count) for value, count in counts.most_common() if value in positive]
    zeros = [(value, count) for value, count in counts.most_common() if value not in positive]
    told = [f"label 1 is {_listed(ones)}", f"label 0 is {_listed(zeros)}"]
    said = sorted({str(value) for value in plain[empty].dropna() if value})
    if said:
        listed = ", ".join(f"'{_cut(value)}'" for value in said[:_SHOWN])
        told.append(f"label cells of {listed} count as empty; data.negative may name them")
    return labels, [*(notes if separator else ()), *told]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_spelt(word) for word in text.split("|") if word.strip())


def _spelt(text: str) -> str:
    """One blank between words, and letters put together: "ö" is one, however it was typed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _separator(kinds: list[str], positive: tuple[str, ...]) -> str:
    """The one that finds positive words in most values that are none as a whole; "" for none."""
    wanted = set(positive)
    others = [value for value in kinds if value not in wanted]
    finds = {
        one: sum(bool(wanted & set(_parts(value, one))) for value in others)
        for one in (LIST, *SEPARATORS)
    }
    best = max(finds, key=lambda one: finds[one])
    return best if finds[best] else ""


def _parts(value: str, separator: str) -> list[str]:
    if not separator:
        return [value]
    if separator == LIST:
        return items(value)
    return [part.strip() for part in value.split(separator)]


def items(value: str) -> list[str]:
    """What a list holds as Python, numpy or a person writes it; any other text is one word.

    >>> items("['no finding', 'mass']"), items("['mass' 'nodule']"), items("[no mass, nodule]")
    (['no finding', 'mass'], ['mass', 'nodule'], ['no mass', 'nodule'])
    """
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    words = (a or b or c for a, b, c in _ITEM.findall(value[1:-1]))
    return [word for word in map(str.strip, words) if word.lower() not in MISSING]


def _check_spelling(parts: dict[str, list[str]], words: Words, where: str) -> None:
    """Every word of ``data.positive`` and ``data.negative`` is there as it is spelt."""
    there = {part for each in parts.values() for part in each}
    lower = {part.casefold(): part for part in there}
    for word in words.positive:
        if word not in there:
            near = lower.get(word.casefold())
            written = f"; the table writes '{_cut(near)}'" if near else ""
            raise UserError(
                f"{where}: no row has the label '{word}' of data.positive{written}; correct the "
                "spelling"
            )


def _check_words(plain: pd.Series, parts: dict[str, list[str]], words: Words, where: str) -> None:
    """No cell that may mean disease, or neither, passes for healthy."""
    known = {*words.positive, *words.negative}
    for value, each in parts.items():
        if not words.negative and set(each) & set(words.positive):
            continue  # it is 1, whatever else it says
        for part in each if each or not value.strip("[] ") else UNDECIDED[:1]:  # of [nan]
            why = "" if part in known else _doubt(part, words)
            if why:
                place = int((plain == value).fillna(False).to_numpy(dtype=bool).argmax())
                row = int(plain.index[place]) + 1
                raise UserError(f"{where}, row {row}: label '{_cut(value)}' {why}")


def _doubt(part: str, words: Words) -> str:
    """Why an unlisted part of a cell cannot be taken for healthy; "" where it can."""
    if words.negative:
        return f"has '{_cut(part)}', in neither data.positive nor data.negative; add it to one"
    if part.casefold() in UNDECIDED:
        return "says neither; drop the row, or name the word in data.positive or data.negative"
    for word in words.positive:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", part, re.IGNORECASE):
            return (
                f"holds '{word}' of data.positive without being it; name it in data.positive, or "
                "list every other value in data.negative"
            )
    return ""


def _named(separator: str) -> str:
    return "the items of a list" if separator == LIST else f"'{separator}'"


def _listed(counts: list[tuple[str, int]]) -> str:
    if not counts:
        return "no row"
    named = [f"'{_cut(value)}' ({count})" for value, count in counts[:_SHOWN]]
    more = counts[_SHOWN:]
    rest = f", and {len(more)} other values ({sum(n for _, n in more)})" if more else ""
    return ", ".join(named) + rest


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
