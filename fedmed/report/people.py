"""Groups of patients in words: what tables call "F 0-29" are women of 0 to 29."""

from __future__ import annotations

import re
from typing import Final

_SEXES: Final = {"F": "women", "M": "men"}
_BAND: Final = re.compile(r"(?P<low>\d+)(?:-(?P<high>\d+)|\+)")
_LEFT_OUT: Final = re.compile(r"(?:(?P<attribute>\w+): )?(?P<group>.+?) is not compared(?P<why>.*)")


def named(attribute: str, name: str) -> str:
    """A group by sex, by age band or by both in words; another as the tables call it."""
    if attribute == "sex":
        return _SEXES.get(name, name)
    if attribute == "age":
        years = _years(name)
        return name if years is None else f"patients of {years}"
    if attribute == "sex_age":
        sex, _, band = name.partition(" ")
        years = _years(band)
        return name if years is None or sex not in _SEXES else f"{_SEXES[sex]} of {years}"
    return name


def note(text: str, attribute: str = "") -> str:
    """A note of the evaluation on a group that is left out, with the group in words.

    ``attribute`` is what the groups are made of, where the note does not begin with it.
    """
    match = _LEFT_OUT.fullmatch(text)
    if match is None:
        return text
    group = named(match["attribute"] or attribute, match["group"])
    if group != match["group"]:
        return f"{group} are not compared{match['why']}"
    if match["attribute"] == "sex_age" and group == "unknown":
        return f"unknown sex or age is not compared{match['why']}"
    if match["attribute"] and group == "unknown":
        return f"unknown {match['attribute'].replace('_', ' ')} is not compared{match['why']}"
    return text


def _years(band: str) -> str | None:
    """An age band in words; None for what is none."""
    match = _BAND.fullmatch(band)
    if match is None:
        return None
    return f"{match['low']} to {match['high']}" if match["high"] else f"{match['low']} and over"
