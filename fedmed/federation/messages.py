"""Names and codecs of what hospitals and server exchange.

=========  ==================  ====================================================================
message    record              content
=========  ==================  ====================================================================
query      ``request``         the run's name
query      ``reply``           hospital's name (public), whether its policy takes the plan, and if
                               not the most rounds and the largest epsilon that it would take;
                               whether it would send histograms of its evaluation patients
train      ``model``           trainable parameters of the global model, float32
train      ``frozen``          buffers that no training changes (empty with group norm)
train      ``request``         the run's name, round number
reply      ``update``          change of the trainable parameters, noised where the arm says so
reply      ``reply``           hospital's name; nothing computed from its data
reply      ``metrics``         ``loss`` and ``images``: only where the arm protects nothing
evaluate   ``model``           trainable parameters of the final model, float32
evaluate   ``frozen``          as in train
evaluate   ``request``         the run's name, ``edges`` of the histograms' bins (public)
reply      ``histograms``      counts by family (``all`` and each public attribute), float64,
                               noised where the arm protects anything; beside ``reply``
reply      ``clustering``      how images cluster in patients: where the arm protects nothing
reply      ``error``           hospital's name and a code from :data:`ERRORS`, never a text
=========  ==================  ====================================================================
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from fedmed.evaluation.histograms import Spec
from fedmed.models import trainable
from fedmed.privacy.updates import finite

ERRORS: Final = {
    "data": "the hospital's images could not be read",
    "plan": "the hospital could not make the plan that was asked for",
    "policy": "the hospital's own policy does not allow it",
    "budget": "the hospital has taken all the steps that its plan pays for",
    "ledger": "the hospital's ledger could not be written",
    "not-finite": "training gave NaN or infinite numbers",
    "mismatch": "the server's model does not fit the hospital's",
    "memory": "the hospital ran out of memory",
    "internal": "an unexpected failure; the hospital's own log names its kind",
    "bad-counts": "the histograms had another form, or numbers that are not finite",
    "bad-update": "the update had another form, or numbers that are not finite",
    "no-answer": "no answer came in time, or the hospital's process ended",
}


@dataclass(frozen=True)
class Reply:
    """A hospital's answer to a train message: an update, or an error code."""

    hospital: str
    update: dict[str, Tensor] | None = None
    loss: float | None = None
    images: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Histograms:
    """A hospital's answer to an evaluate message: counts by family, or an error code.

    ``clustering`` tells how images cluster in patients; 1 under an arm that protects anything.
    """

    hospital: str
    counts: dict[str, NDArray[np.float64]] | None = None
    clustering: float = 1.0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Joining:
    """A hospital's answer to a query; where it does not accept, what it would take instead.

    ``rounds`` at the plan's own noise, ``epsilon`` at its own length; 0 where there is no room.
    Both come from the policy and the ledger, never from data. ``public_size`` is the number of
    units that the policy declares; 0 where it declares none. ``evaluates``: whether it would send
    histograms of its evaluation patients, where the settings ask for them.
    """

    hospital: str
    accepts: bool = True
    evaluates: bool = True
    rounds: int = 0
    epsilon: float = 0.0
    public_size: int = 0


def encode_arrays(arrays: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors of any device to a Flower record, names and order kept."""
    return ArrayRecord({name: value.detach().cpu().contiguous() for name, value in arrays.items()})


def decode_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    """A Flower record to CPU tensors, names and order kept."""
    return dict(record.to_torch_state_dict())


def size_of(message: Message) -> int:
    """Bytes of a message's arrays as they are encoded; 0 where it carries none."""
    if not message.has_content():
        return 0
    return sum(record.count_bytes() for record in message.content.array_records.values())


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy of the trainable parameters, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in trainable(model).items()}


def frozen_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy of everything in the state that training never changes."""
    names = trainable(model).keys()
    return {n: v.detach().cpu().clone() for n, v in model.state_dict().items() if n not in names}


def install(model: nn.Module, arrays: Mapping[str, Tensor]) -> None:
    """Copy arrays into the model's state; raises ``ValueError`` for another name or shape."""
    own = model.state_dict()
    for name, value in arrays.items():
        if name not in own or own[name].shape != value.shape:
            raise ValueError(f"array '{name}' does not fit the model")
    with torch.no_grad():
        for name, value in arrays.items():
            own[name].copy_(value)


def fingerprint(arrays: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes: which model a request was about."""
    digest = hashlib.sha256()
    for name, value in arrays.items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def request_fingerprint(arrays: Mapping[str, Tensor], spec: Spec) -> str:
    """SHA-256 of a model and the public cells: which release of histograms was asked for."""
    return hashlib.sha256(f"{fingerprint(arrays)}|{spec!r}".encode()).hexdigest()


def pack(update: Mapping[str, Tensor]) -> bytes:
    """Arrays as safetensors bytes: what a ledger keeps of a release."""
    return save_bytes({name: value.contiguous() for name, value in update.items()})


def unpack(data: bytes) -> dict[str, Tensor]:
    """Arrays of :func:`pack`."""
    return dict(load_bytes(data))


def query_content(run: str) -> RecordDict:
    """Content of a query: which run asks."""
    return RecordDict({"request": ConfigRecord({"run": run})})


def join_content(answer: Joining) -> RecordDict:
    """Content of a hospital's answer to a query."""
    record = ConfigRecord(
        {
            "hospital": answer.hospital,
            "accepts": answer.accepts,
            "evaluates": answer.evaluates,
            "rounds": answer.rounds,
            "epsilon": answer.epsilon,
            "public-size": answer.public_size,
        }
    )
    return RecordDict({"reply": record})


def read_join(message: Message) -> Joining | str:
    """A hospital's answer to a query, or the code of its error."""
    if message.has_error() or not message.has_content():
        return "no-answer"
    content = message.content
    if "reply" not in content:
        code = str(content.config_records.get("error", ConfigRecord()).get("code", ""))
        return code if code in ERRORS else "no-answer"
    try:
        record = content.config_records["reply"]
        return Joining(
            hospital=str(record["hospital"]),
            accepts=bool(record["accepts"]),
            evaluates=bool(record["evaluates"]),
            rounds=int(str(record["rounds"])),
            epsilon=float(str(record["epsilon"])),
            public_size=int(str(record["public-size"])),
        )
    except (KeyError, ValueError):
        return "internal"


def train_content(
    model: Mapping[str, Tensor] | ArrayRecord, frozen: ArrayRecord, round_number: int, run: str
) -> RecordDict:
    """Content of a train message; ``run`` names the run in the hospitals' ledgers."""
    record = model if isinstance(model, ArrayRecord) else encode_arrays(model)
    request = ConfigRecord({"round": round_number, "run": run})
    return RecordDict({"model": record, "frozen": frozen, "request": request})


def evaluate_content(
    model: Mapping[str, Tensor], frozen: ArrayRecord, edges: Sequence[float], run: str
) -> RecordDict:
    """Content of an evaluate message."""
    request = ConfigRecord({"run": run, "edges": list(edges)})
    return RecordDict({"model": encode_arrays(model), "frozen": frozen, "request": request})


def histogram_content(answer: Histograms) -> RecordDict:
    """Content of a hospital's answer to an evaluate message."""
    if answer.error is not None:
        return update_content(Reply(answer.hospital, error=answer.error))
    content = RecordDict({"reply": ConfigRecord({"hospital": answer.hospital})})
    arrays = {n: torch.from_numpy(c) for n, c in (answer.counts or {}).items()}
    content["histograms"] = encode_arrays(arrays)
    if answer.clustering != 1:
        content["clustering"] = MetricRecord({"clustering": answer.clustering})
    return content


def read_histograms(message: Message, hospital: str, spec: Spec) -> Histograms:
    """A checked answer: every family of ``spec``, its shape, all finite; else an error code."""
    if message.has_error():
        return Histograms(hospital, error="no-answer")
    content = message.content
    if "error" in content:
        return Histograms(hospital, error=_code(content))
    try:
        given = decode_arrays(content.array_records["histograms"])
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Histograms(hospital, error="bad-counts")
    fits = given.keys() == spec.families.keys() and all(
        tuple(given[family].shape) == spec.shape(family) and given[family].dtype == torch.float64
        for family in spec.families
    )
    if not fits or not finite(given):
        return Histograms(hospital, error="bad-counts")
    told = content.metric_records.get("clustering", MetricRecord()).get("clustering", 1.0)
    clustering = float(told) if isinstance(told, int | float) else math.nan
    if not 1 <= clustering < math.inf:
        return Histograms(hospital, error="bad-counts")
    return Histograms(hospital, {n: given[n].numpy() for n in spec.families}, clustering)


def _code(content: RecordDict) -> str:
    code = str(content.config_records.get("error", ConfigRecord()).get("code", ""))
    return code if code in ERRORS else "internal"


def update_content(reply: Reply) -> RecordDict:
    """Content of a hospital's answer."""
    if reply.error is not None:
        error = ConfigRecord({"hospital": reply.hospital, "code": reply.error})
        return RecordDict({"error": error})
    content = RecordDict({"reply": ConfigRecord({"hospital": reply.hospital})})
    content["update"] = encode_arrays(reply.update or {})
    metrics: dict[str, int | float | list[int] | list[float]] = {}
    if reply.loss is not None:
        metrics["loss"] = reply.loss
    if reply.images is not None:
        metrics["images"] = reply.images
    if metrics:
        content["metrics"] = MetricRecord(metrics)
    return content


def read_reply(message: Message, hospital: str, like: Mapping[str, Tensor]) -> Reply:
    """A checked answer: the names, shapes and dtypes of ``like``, all finite, else an error code.

    Flower's own error replies carry a text; it is dropped here and never logged.
    """
    if message.has_error():
        return Reply(hospital, error="no-answer")
    content = message.content
    if "error" in content:
        return Reply(hospital, error=_code(content))
    try:
        update = decode_arrays(content.array_records["update"])
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Reply(hospital, error="bad-update")
    fits = update.keys() == like.keys() and all(
        update[n].shape == v.shape and update[n].dtype == v.dtype for n, v in like.items()
    )
    if not fits or not finite(update):
        return Reply(hospital, error="bad-update")
    metrics = content.metric_records.get("metrics", MetricRecord())
    loss, images = metrics.get("loss"), metrics.get("images")
    return Reply(
        hospital,
        {name: update[name] for name in like},
        float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else None,
        int(images) if isinstance(images, int) else None,
    )
