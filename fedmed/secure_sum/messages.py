"""What members and the collector tell each other, as JSON of known keys, every part checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from fedmed.secure_sum.errors import SumRefused
from fedmed.secure_sum.masks import Vector

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
_LARGEST: Final = 4 << 20  # characters: 255 members, each with a signature and a box for each
_MOST: Final = 255  # entries of a mapping
_LONGEST: Final = 512  # bytes of one value


class _Message:
    """A message that JSON can hold: bytes as hexadecimal digits."""

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps({name: _told(value) for name, value in vars(self).items()})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Of :meth:`to_text`; raises :class:`SumRefused` for any other form."""
        given = _object(text)
        kinds = cls.__annotations__
        if given.keys() != kinds.keys():
            raise SumRefused(f"a {cls.__name__} of other keys")
        return cls(**{name: _READ[kind](given[name]) for name, kind in kinds.items()})


@dataclass(frozen=True, kw_only=True)
class Hello(_Message):
    """A member's fresh X25519 key for one meeting, signed by its long-term key over the terms."""

    name: str
    meeting: int
    public: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Note(_Message):
    """What goes beside a masked vector: a share of the own mask for each peer, sealed for it."""

    meeting: int
    step: int
    boxes: dict[str, bytes]
    commitment: bytes


@dataclass(frozen=True, kw_only=True)
class Masked:
    """One member's vector of one step under its masks, and the note beside it."""

    vector: Vector
    note: Note


@dataclass(frozen=True, kw_only=True)
class Signed(_Message):
    """A member's word that it unmasks for these survivors in this step, and for no others."""

    name: str
    step: int
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Unmasking(_Message):
    """What the collector asks of a survivor: the survivors, their signatures, the boxes for it."""

    step: int
    survivors: list[str]
    signatures: dict[str, bytes]
    boxes: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Opened(_Message):
    """A survivor's answer: shares of survivors' own masks, its pair keys with those who are gone.

    Of no member both.
    """

    name: str
    step: int
    shares: dict[str, bytes]
    pairs: dict[str, bytes]


def read_hellos(text: str) -> dict[str, Hello]:
    """Hellos by name, of :func:`hellos_text`."""
    given = _object(text)
    if len(given) > _MOST:
        raise SumRefused("more hellos than members can be")
    told = {name: Hello.from_text(_text(value)) for name, value in given.items()}
    if any(hello.name != name for name, hello in told.items()):
        raise SumRefused("a hello under another's name")
    return told


def hellos_text(hellos: Mapping[str, Hello]) -> str:
    """Hellos by name as JSON."""
    return json.dumps({name: hello.to_text() for name, hello in hellos.items()})


def _object(text: str) -> dict[str, Any]:
    if len(text) > _LARGEST:
        raise SumRefused("a message above the limit")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SumRefused("a message that is no JSON") from error
    if not isinstance(given, dict):
        raise SumRefused("a message that is no object")
    return given


def _told(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: item.hex() for name, item in value.items()}
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise SumRefused("a text that is none")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise SumRefused("a number that is no whole one")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * _LONGEST or not _HEX.fullmatch(value):
        raise SumRefused("bytes that are none")
    return bytes.fromhex(value)


def _mapping(value: Any) -> dict[str, bytes]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise SumRefused("a mapping that is none")
    return {name: _bytes(item) for name, item in value.items()}


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise SumRefused("a list that is none")
    return [_text(item) for item in value]


_READ: Final = {
    "str": _text,
    "int": _whole,
    "bytes": _bytes,
    "dict[str, bytes]": _mapping,
    "list[str]": _names,
}
