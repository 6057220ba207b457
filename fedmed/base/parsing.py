"""JSON and TOML from anywhere: no deeper, no longer and no larger numbers than the code expects.

Python's parsers fail on deep nesting and on long integers in ways of their own, and what they do
take can fail much later, where nobody remembers the file.
"""

import json
import math
import tomllib
from typing import Any, Final

DEPTH: Final = 32
"""Levels of lists and tables that a file may have."""

_DIGITS: Final = 19  # of a 64-bit integer
_LINE: Final = 1 << 14  # characters: a key of many dots costs their number squared


class Unparsable(ValueError):
    """Why a text cannot be used, in words that follow the file's name."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; raises :class:`Unparsable`.

    NaN, infinities and numbers beyond the range of float, which JSON does not know, are None, and
    halves of a surrogate pair are replaced: no encoding can write them.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            plain, parse_int=_whole, parse_float=_finite, parse_constant=lambda _: None
        )
    except Unparsable:
        raise
    except RecursionError:
        raise Unparsable(f"it is nested more than {DEPTH} levels deep") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise Unparsable(str(error)) from None
    check_tree(value)
    return _mended(value) if "\\ud" in plain.lower() else value


def parse_toml(data: bytes) -> dict[str, Any]:
    """The tables of a TOML file; raises :class:`Unparsable`. Integers have 64 bits, as in TOML."""
    try:
        text = data.decode("utf-8-sig")
        if max(map(len, text.split("\n"))) > _LINE:
            raise Unparsable(f"a line has over {_LINE} characters")
        tables = tomllib.loads(text)
    except Unparsable:
        raise
    except RecursionError:
        raise Unparsable(f"it is nested more than {DEPTH} levels deep") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, or int's own
        long = "int_max_str_digits" in str(error)
        why = "it has an integer of more than 64 bits" if long else str(error)
        raise Unparsable(why) from None
    check_tree(tables)
    return tables


def check_tree(value: Any) -> None:
    """Raise :class:`Unparsable` for a value nested deeper than :data:`DEPTH`, or a large integer.

    The message names the key.
    """
    left: list[tuple[Any, str, int]] = [(value, "", 0)]
    while left:
        one, key, depth = left.pop()
        if isinstance(one, int) and not -(2**63) <= one < 2**64:
            raise Unparsable(f"{_short(key)} is an integer of more than 64 bits")
        if isinstance(one, dict | list):
            if depth >= DEPTH:
                raise Unparsable(f"{_short(key)} is nested more than {DEPTH} levels deep")
            items = one.items() if isinstance(one, dict) else ((None, inner) for inner in one)
            for name, inner in items:
                if isinstance(inner, dict | list | int):
                    dotted = key if name is None else f"{key}.{name}" if key else str(name)
                    left.append((inner, dotted, depth + 1))


def _short(key: str) -> str:
    return f"'{key if len(key) <= 60 else key[:60] + '...'}'" if key else "the whole"


def _whole(text: str) -> int:
    if len(text) > _DIGITS + 1:
        raise Unparsable(f"it has an integer of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(one) for key, one in value.items()}
    return value
