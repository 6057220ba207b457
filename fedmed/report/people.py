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
    found = _LEFT_OUT.fullmatch(text)
    if found is None:
        return text
    group = named(found["attribute"] or attribute, found["group"])
    if group != found["group"]:
        return f"{group} are not compared{found['why']}"
    if found["attribute"] == "sex_age" and group == "unknown":
        return f"unknown sex or age is not compared{found['why']}"
    if found["attribute"] and group == "unknown":
        return f"unknown {found['attribute'].replace('_', ' ')} is not compared{found['why']}"
    return text


def _years(band: str) -> str | None:
    """An age band in words; None for what is none."""
    found = _BAND.fullmatch(band)
    if found is None:
        return None
    return f"{found['low']} to {found['high']}" if found["high"] else f"{found['low']} and over"
