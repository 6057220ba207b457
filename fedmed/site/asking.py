"""How an app asks a site's guard: one connection for each request, no file of the site.

What carries no arrays needs no torch: an app's process is a new one for each message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fedmed import __version__
from fedmed.federation.answers import ERRORS, Histograms, Joining, Reply
from fedmed.site.requests import Request, write_request
from fedmed.site.wire import BadFrame, exchange

if TYPE_CHECKING:
    from torch import Tensor

    from fedmed.config import Scalar

_PATIENCE: Final = 24 * 3600.0  # seconds for one round of training; the server's timeout is shorter


class GuardRefusal(Exception):
    """A guard's refusal, or that there is none: a code from ``answers.ERRORS``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code if code in ERRORS else "internal"


def status(path: str, *, seconds: float = 5.0) -> dict[str, Any]:
    """Name of the site and version of a guard that is ready; raises :class:`GuardRefusal`."""
    return _ask(path, Request(kind="status"), seconds)[0]


def query(path: str, config: Mapping[str, Scalar], run: str, run_id: int) -> Joining:
    """Who the site is and whether its policy takes the plan; raises :class:`GuardRefusal`."""
    header, _ = _ask(path, _request("query", config, run, run_id))
    return Joining(**header["joining"])


def train(
    path: str,
    config: Mapping[str, Scalar],
    run: str,
    run_id: int,
    round_number: int,
    model: dict[str, Tensor],
    frozen: dict[str, Tensor] | str,
) -> Reply:
    """One round at the site; raises :class:`GuardRefusal`.

    ``frozen``: the buffers that no training changes, or the fingerprint of those that it has.
    """
    values: dict[str, Any] = {"round_number": round_number, "model": model}
    values["buffers" if isinstance(frozen, str) else "frozen"] = frozen
    header, arrays = _ask(path, _request("train", config, run, run_id, **values))
    return Reply(header["hospital"], arrays, header["loss"], header["images"])


def in_sum(
    path: str, config: Mapping[str, Scalar], run: str, run_id: int, phase: str, text: str
) -> tuple[str, str]:
    """The site's name and its answer in a secure sum; raises :class:`GuardRefusal`."""
    header, _ = _ask(path, _request("sum", config, run, run_id, phase=phase, text=text))
    return str(header["hospital"]), str(header["text"])


def evaluate(
    path: str,
    config: Mapping[str, Scalar],
    run: str,
    run_id: int,
    model: dict[str, Tensor],
    frozen: dict[str, Tensor],
    edges: tuple[float, ...],
) -> Histograms:
    """Histograms of the site's evaluation images; raises :class:`GuardRefusal`."""
    values = {"model": model, "frozen": frozen, "edges": edges}
    header, arrays = _ask(path, _request("evaluate", config, run, run_id, **values))
    counts = {name: value.numpy() for name, value in arrays.items()}
    return Histograms(header["hospital"], counts, header["clustering"])


def _request(
    kind: str, config: Mapping[str, Scalar], run: str, run_id: int, **values: Any
) -> Request:
    return Request(
        kind=kind, version=__version__, config=dict(config), run=run, run_id=run_id, **values
    )


def _ask(
    path: str, request: Request, seconds: float = _PATIENCE
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        header, body = exchange(path, *write_request(request), seconds=seconds)
        arrays = _arrays(body, header.get("arrays"))
    except (OSError, BadFrame) as error:
        raise GuardRefusal("guard") from error
    if "error" in header:
        raise GuardRefusal(str(header["error"]))
    return header, arrays


def _arrays(body: bytes, about: Any) -> dict[str, Tensor]:
    if about is None:
        return {}
    from fedmed.site.arrays import ANSWERS, read_arrays

    return read_arrays(body, about["names"], ANSWERS)
