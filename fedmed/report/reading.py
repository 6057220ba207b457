"""Reading files that may be absent, damaged or half written, and values that may be anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from fedmed.base.errors import UserError
from fedmed.base.files import MOST_JSON
from fedmed.base.opening import read_bytes
from fedmed.base.parsing import Unparsable, parse_json

Json = dict[str, Any]
Number = float | None
_LARGEST: Final = 1e18


def json_object(path: Path, directory: Path, problems: list[str]) -> Json:
    """A JSON object; empty where the file is absent or, with a note in `problems`, damaged.

    NaN and infinities, which JSON does not know, are read as None.
    """
    try:
        value = parse_json(read_bytes(path, MOST_JSON))
    except FileNotFoundError:
        return {}
    except (UserError, Unparsable):
        value = None
    if not isinstance(value, dict):
        problems.append(f"{path.relative_to(directory)} is damaged or half written: skipped")
        return {}
    return value


def number(value: Any) -> Number:
    """A number as a float; None for anything else, and beyond what any figure here can be.

    An axis to 1e308 has no ticks, and a square of it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST else None


def dig(value: Any, *path: str) -> Any:
    """The value under nested keys; None where one of them is absent."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def table(value: Any, *path: str) -> Json:
    """The object under nested keys; empty where there is none."""
    nested = dig(value, *path)
    return nested if isinstance(nested, dict) else {}


def rows(value: Any, *path: str) -> list[Json]:
    """The objects of the list under nested keys; anything else in it is left out."""
    nested = dig(value, *path)
    return [row for row in nested if isinstance(row, dict)] if isinstance(nested, list) else []


def texts(value: Any, *path: str) -> list[str]:
    """The texts of the list under nested keys."""
    nested = dig(value, *path)
    return [text for text in nested if isinstance(text, str)] if isinstance(nested, list) else []


def pair(value: Any) -> tuple[Number, Number]:
    """An interval's two ends; both None where it is not one."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None, None
    low, high = number(value[0]), number(value[1])
    return (None, None) if low is None or high is None else (low, high)


def mean(values: Iterable[Any]) -> Number:
    """Mean of the numbers that are there; None where there is none."""
    present = [value for value in map(number, values) if value is not None]
    return sum(present) / len(present) if present else None
