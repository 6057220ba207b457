"""Reading TOML and ``--set``, and saying in one line what is wrong with them."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, read_bytes
from fedmed.base.parsing import Unparsable, parse_toml
from fedmed.config.names import Scalar, kebab

MOST: Final = MIB
"""Bytes of a TOML file: an experiment has a few thousand."""


def parse_assignment(text: str) -> tuple[str, Scalar]:
    """``key=value`` of ``--set``; the value is read as TOML, else as text.

    >>> parse_assignment("train.rounds=3")
    ('train.rounds', 3)
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UserError(f"--set {text}: write it as key=value, for example train.rounds=3")
    parsed: Any = value.strip()
    try:
        table = parse_toml(f"value = {parsed}".encode("utf-8", "surrogateescape"))
    except Unparsable:
        table = {}
    if list(table) == ["value"]:  # a value of several lines could be several keys
        parsed = table["value"]
    if not isinstance(parsed, str | int | float | bool):
        raise UserError(f"--set {text}: give one number, true, false or text")
    return key.strip(), parsed


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises :class:`UserError` naming the file and the line."""
    remedy = "give the path of an experiment's TOML"
    try:
        return parse_toml(read_bytes(path, MOST, remedy))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {remedy}") from error
    except Unparsable as error:
        raise UserError(f"{path}: not valid TOML: {error}; correct that line") from error


def plain(value: Any) -> Any:
    """A value given in Python as TOML would have it: paths are text, tuples lists; a copy.

    >>> plain({"seeds": (0, 1), "data": {"path": Path("films.csv")}})
    {'seeds': [0, 1], 'data': {'path': 'films.csv'}}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def explain(error: ValidationError, section: type[BaseModel]) -> str:
    """The first validation error of ``section`` in one line: key, what is wrong, what to do."""
    first = error.errors()[0]
    key = ".".join(kebab(str(part)) for part in first["loc"])
    kind, given = first["type"], first.get("input")
    if kind == "extra_forbidden":
        spelt = ".".join(str(part) for part in first["loc"])
        meant = nearest_key(spelt, _keys(section))
        return (
            f"unknown key '{spelt}'{meant or '; correct the spelling (kebab case), or remove it'}"
        )
    if kind == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        return f"{key} = {_shown(given)} is not known; use {first['ctx']['expected']}"
    message = str(first["msg"]).replace("Input should be", "it must be")
    if ends := _range(section, first["loc"]):
        message = f"{message} {ends}" if kind.endswith("_type") else f"it must be {ends}"
    return f"{key} = {_shown(given)}: {message}; correct it"


def _shown(given: Any) -> str:
    """A value in at most 60 characters; a whole number may have more digits than text can hold."""
    if isinstance(given, int) and given.bit_length() > 128:
        return f"{'-' * (given < 0)}10^{round(given.bit_length() * math.log10(2))}"
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(section: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """The range of a key that has one with two ends, "from 0 to 1"; empty for another key."""
    kind: Any = section
    field = None
    for part in path:
        fields = getattr(kind, "model_fields", {})
        field = {kebab(name): field for name, field in fields.items()}.get(kebab(str(part)))
        if field is None:
            return ""
        kind = field.annotation
    ends = {}
    for entry in field.metadata if field else ():
        for name in ("ge", "gt", "le", "lt"):
            if getattr(entry, name, None) is not None:
                ends[name] = getattr(entry, name)
    return f"from {ends['ge']:.12g} to {ends['le']:.12g}" if {"ge", "le"} <= ends.keys() else ""


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """``; did you mean '...'?`` where a known word is close, else nothing.

    ``likeness`` is from 0 (any word) to 1 (the same), as ``difflib`` measures it.

    >>> nearest("round", ["rounds", "batch-size"])
    "; did you mean 'rounds'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f"; did you mean '{close[0]}'?" if close else ""


def nearest_key(key: str, known: Iterable[str]) -> str:
    """As :func:`nearest` for dotted keys: one of the right name in another table comes first.

    >>> nearest_key("train.epsilon", ["privacy.epsilon", "train.precision"])
    "; did you mean 'privacy.epsilon'?"
    """
    names = list(known)
    same = [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]]
    return nearest(key, same, 0.0) or nearest(key, names)


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of every table and key of ``section``."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{kebab(name)}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{kebab(name)}.")


def widen(nested: Any, section: type[BaseModel]) -> Any:
    """Let ``1`` stand for ``1.0`` where a fraction is expected (TOML tells them apart)."""
    if not isinstance(nested, dict):
        return nested
    fields = {kebab(name): field for name, field in section.model_fields.items()}
    widened: dict[str, Any] = {}
    for key, value in nested.items():
        field = fields.get(key)
        kind = None if field is None else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            value = widen(value, kind)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            # A number beyond the range of float stays as it is, and is refused with its key.
            value = float(value) if abs(value) < 2**1023 else value
        widened[key] = value
    return widened
