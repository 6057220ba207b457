"""What an app asks of a site's guard: the frame's header and arrays, every part of it checked.

A request without arrays needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fedmed.site.wire import BadFrame

if TYPE_CHECKING:
    from torch import Tensor

    from fedmed.config import Scalar

KINDS: Final = ("status", "app", "query", "train", "sum", "evaluate")
_KEYS: Final = {
    "status": (),
    "app": ("app",),
    "query": ("version", "config", "run", "run-id"),
    "train": ("version", "config", "run", "run-id", "round", "buffers", "model", "frozen"),
    "sum": ("version", "config", "run", "run-id", "phase", "text"),
    "evaluate": ("version", "config", "run", "run-id", "edges", "model", "frozen"),
}
_MOST_KEYS, _MOST_ARRAYS, _MOST_EDGES, _LARGEST = 1000, 10_000, 5000, 1e300


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, of the right form; whether it is granted is another question.

    ``config`` is the flat run config as the app has it: what the researcher asks for.
    ``phase`` and ``text`` are a message of a secure sum. ``buffers`` is the fingerprint of what
    would be ``frozen`` and did not come again.
    """

    kind: str
    version: str = ""
    config: dict[str, Scalar] = field(default_factory=dict)
    run: str = ""
    run_id: int = 0
    round_number: int = 0
    edges: tuple[float, ...] = ()
    app: str = ""
    phase: str = ""
    text: str = ""
    buffers: str = ""
    model: dict[str, Tensor] = field(default_factory=dict)
    frozen: dict[str, Tensor] = field(default_factory=dict)


def write_request(request: Request) -> tuple[dict[str, Any], bytes]:
    """Header and body of a request."""
    model, frozen = b"", b""
    if "model" in _KEYS[request.kind]:
        from fedmed.site.arrays import write_arrays

        model, frozen = write_arrays(request.model), write_arrays(request.frozen)
    values: dict[str, Any] = {
        "version": request.version,
        "config": request.config,
        "run": request.run,
        "run-id": request.run_id,
        "round": request.round_number,
        "edges": list(request.edges),
        "app": request.app,
        "phase": request.phase,
        "text": request.text,
        "buffers": request.buffers,
        # Their order is that of noise and of fingerprints, and safetensors keeps none.
        "model": {"bytes": len(model), "names": list(request.model)},
        "frozen": {"bytes": len(frozen), "names": list(request.frozen)},
    }
    header = {"kind": request.kind, **{key: values[key] for key in _KEYS[request.kind]}}
    return header, model + frozen


def read_request(header: dict[str, Any], body: bytes) -> Request:
    """The request of a frame; raises :class:`BadFrame` for any other form."""
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadFrame("another kind of request")
    if set(header) != {"kind", *_KEYS[kind]}:
        raise BadFrame("other keys than the kind of request has")
    for key in _KEYS[kind]:
        if not _CHECKS[key](header[key]):
            raise BadFrame(f"a wrong value of {key}")
    model, frozen = header.get("model"), header.get("frozen")
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    if model is None or frozen is None:
        if body:
            raise BadFrame("a body that is not wanted")
    else:
        if model["bytes"] + frozen["bytes"] != len(body):
            raise BadFrame("a body of another length than its parts")
        from fedmed.site.arrays import read_arrays

        size = model["bytes"]
        parts = (
            read_arrays(body[:size], model["names"]),
            read_arrays(body[size:], frozen["names"]),
        )
        if parts[0].keys() & parts[1].keys():
            raise BadFrame("an array that is there twice")
        if parts[1] and header.get("buffers"):
            raise BadFrame("buffers and the fingerprint of others")
    return Request(
        kind=kind,
        version=header.get("version", ""),
        config=header.get("config", {}),
        run=header.get("run", ""),
        run_id=header.get("run-id", 0),
        round_number=header.get("round", 0),
        edges=tuple(float(edge) for edge in header.get("edges", ())),
        app=header.get("app", ""),
        phase=header.get("phase", ""),
        text=header.get("text", ""),
        buffers=header.get("buffers", ""),
        model=parts[0],
        frozen=parts[1],
    )


def _config(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST_KEYS
        and all(isinstance(item, str | bool | int | float) for item in value.values())
    )


def _edges(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_EDGES
        and all(type(edge) in (int, float) and abs(edge) <= _LARGEST for edge in value)
    )


def _whole(limit: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value < limit


def _like(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _about_arrays(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"bytes", "names"}
        and _whole(2**63)(value["bytes"])
        and isinstance(value["names"], list)
        and len(value["names"]) <= _MOST_ARRAYS
        and all(isinstance(name, str) for name in value["names"])
    )


_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "version": _like(r"[ -~]{1,64}"),
    "config": _config,
    # Without what a ledger's own names of releases and evaluations hold.
    "run": _like(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"),
    "run-id": _whole(2**64),
    "round": _whole(1_000_000),
    "edges": _edges,
    "app": _like(r"[0-9a-f]{64}"),
    "phase": _like(r"hello|meet|sign|open"),
    "text": lambda value: isinstance(value, str),  # within the header's own limit
    "buffers": _like(r"([0-9a-f]{64})?"),
    "model": _about_arrays,
    "frozen": _about_arrays,
}
