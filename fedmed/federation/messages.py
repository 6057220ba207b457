"""Names and codecs of what hospitals and server exchange.

=========  ==================  ====================================================================
message    record              content
=========  ==================  ====================================================================
query      ``request``         the run's name
query      ``reply``           hospital's name (public), whether its policy takes the plan, and if
                               not the most rounds and the largest epsilon that it would take;
                               whether it would send histograms of its evaluation patients; its
                               declared size and its version of fedmed; beside it ``own``: the
                               settings that its plan rests on and that are not those asked for
train      ``model``           trainable parameters of the global model, float32
train      ``frozen``          buffers that no training changes (empty with group norm): with the
                               first message alone, and again to a hospital that lost them
train      ``request``         of a secure sum: the run's name, ``phase`` and ``text``, alone
reply      ``sum``             ``text``: the member's answer to it
train      ``request``         the run's name, round number; ``frozen``: where the buffers are not
                               there, their fingerprint
reply      ``update``          change of the trainable parameters, noised where the arm says so,
                               float32 or (``run.wire``) the bits of bfloat16
reply      ``reply``           hospital's name and version; nothing computed from its data
reply      ``metrics``         ``loss`` and ``images``: only where the arm protects nothing
evaluate   ``model``           trainable parameters of the final model, float32
evaluate   ``frozen``          as in train, whole each time: it is asked once in a run
evaluate   ``request``         the run's name, ``edges`` of the histograms' bins (public)
reply      ``histograms``      counts by family (``all`` and each public attribute), float64,
                               noised where the arm protects anything; beside ``reply``
reply      ``clustering``      how images cluster in patients: where the arm protects nothing
reply      ``error``           hospital's name and a code from ``ERRORS``, never a text
=========  ==================  ====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedmed.federation.answers import ERRORS, Histograms, Joining, Reply
from fedmed.federation.arrays import (
    decode_arrays,
    encode_arrays,
    encode_update,
    size_of,
    take_arrays,
)
from fedmed.federation.exchange import (
    fingerprint,
    frozen_of,
    install,
    pack,
    parameters_of,
    request_fingerprint,
    unpack,
)
from fedmed.federation.talk import (
    MOST_IMAGES,
    code_of,
    error_of,
    is_from,
    join_content,
    part_of,
    phase_content,
    query_content,
    read_join,
    read_phase,
    refusal_content,
    sum_content,
    within,
)
from fedmed.privacy.mechanisms.updates import finite

if TYPE_CHECKING:
    from fedmed.evaluation.pooled.histograms import Spec

__all__ = [
    "ERRORS",
    "Histograms",
    "Joining",
    "Reply",
    "decode_arrays",
    "encode_arrays",
    "encode_update",
    "error_of",
    "evaluate_content",
    "fingerprint",
    "frozen_of",
    "histogram_content",
    "install",
    "join_content",
    "pack",
    "parameters_of",
    "part_of",
    "phase_content",
    "query_content",
    "read_frozen",
    "read_histograms",
    "read_join",
    "read_phase",
    "read_reply",
    "read_sum",
    "request_fingerprint",
    "size_of",
    "sum_content",
    "take_arrays",
    "train_content",
    "unpack",
    "update_content",
]


_LARGEST_LOSS: Final = torch.finfo(torch.float32).max


def train_content(
    model: Mapping[str, Tensor] | ArrayRecord,
    frozen: ArrayRecord | str,
    round_number: int,
    run: str,
) -> RecordDict:
    """Content of a train message; ``run`` names the run in the hospitals' ledgers.

    ``frozen``: the buffers, or the fingerprint of those that the hospital has.
    """
    record = model if isinstance(model, ArrayRecord) else encode_arrays(model)
    content = RecordDict({"model": record})
    if isinstance(frozen, str):
        request = ConfigRecord({"round": round_number, "run": run, "frozen": frozen})
    else:
        request = ConfigRecord({"round": round_number, "run": run})
        content["frozen"] = frozen
    content["request"] = request
    return content


def read_frozen(content: RecordDict) -> dict[str, Tensor] | str:
    """A train message's buffers, or the fingerprint of those that the hospital should have."""
    if "frozen" in content:
        return decode_arrays(part_of(content, "frozen", ArrayRecord))
    return str(part_of(content, "request", ConfigRecord)["frozen"])


def evaluate_content(
    model: Mapping[str, Tensor] | ArrayRecord,
    frozen: ArrayRecord,
    edges: Sequence[float],
    run: str,
) -> RecordDict:
    """Content of an evaluate message."""
    record = model if isinstance(model, ArrayRecord) else encode_arrays(model)
    request = ConfigRecord({"run": run, "edges": list(edges)})
    return RecordDict({"model": record, "frozen": frozen, "request": request})


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
        return Histograms(hospital, error=code_of(content))
    try:
        given = decode_arrays(part_of(content, "histograms", ArrayRecord))
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Histograms(hospital, error="bad-counts")
    fits = given.keys() == spec.families.keys() and all(
        tuple(given[family].shape) == spec.shape(family) and given[family].dtype == torch.float64
        for family in spec.families
    )
    if not fits or not finite(given) or not is_from(content, hospital):
        return Histograms(hospital, error="bad-counts")
    told = _numbers(content, "clustering").get("clustering", 1.0)
    clustering = float(told) if isinstance(told, int | float) else math.nan
    if not 1 <= clustering < math.inf:
        return Histograms(hospital, error="bad-counts")
    return Histograms(hospital, {n: given[n].numpy() for n in spec.families}, clustering)


def _numbers(content: RecordDict, name: str) -> MetricRecord:
    record = content.get(name)
    return record if isinstance(record, MetricRecord) else MetricRecord()


def update_content(reply: Reply, wire: str = "float32", *, spend: bool = False) -> RecordDict:
    """Content of a hospital's answer; ``wire`` is ``run.wire``; ``spend`` empties its update."""
    if reply.error is not None:
        return refusal_content(reply.hospital, reply.error)
    content = RecordDict({"reply": ConfigRecord({"hospital": reply.hospital})})
    content["update"] = encode_update(reply.update or {}, wire, spend=spend)
    metrics: dict[str, int | float | list[int] | list[float]] = {}
    if reply.loss is not None:
        metrics["loss"] = reply.loss
    if reply.images is not None:
        metrics["images"] = reply.images
    if metrics:
        content["metrics"] = MetricRecord(metrics)
    return content


def read_sum(message: Message, hospital: str, count: int, *, masked: bool) -> Reply:
    """A checked sum of whole numbers, with the note of a masked one; else an error code.

    The message is emptied: what is read is in the answer alone.
    """
    if message.has_error():
        return Reply(hospital, error="no-answer")
    content = message.content
    if "error" in content:
        return Reply(hospital, error=code_of(content))
    try:
        update = take_arrays(part_of(content, "update", ArrayRecord), "float32")
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Reply(hospital, error="bad-update")
    vector, note = update.get("sum"), update.get("note")
    fits = (
        update.keys() == ({"sum", "note"} if masked else {"sum"})
        and vector is not None
        and vector.dtype == torch.int32
        and tuple(vector.shape) == (count,)
        and (note is None or (note.dtype == torch.uint8 and note.dim() == 1))
    )
    if not fits or not is_from(content, hospital):
        return Reply(hospital, error="bad-update")
    return Reply(hospital, update)


def read_reply(
    message: Message, hospital: str, like: Mapping[str, Tensor], wire: str = "float32"
) -> Reply:
    """A checked answer: the names, shapes and dtypes of ``like``, all finite, else an error code.

    The message is emptied: what is read is in the answer alone.

    Flower's own error replies carry a text; it is dropped here and never logged.
    """
    if message.has_error():
        return Reply(hospital, error="no-answer")
    content = message.content
    if "error" in content:
        return Reply(hospital, error=code_of(content))
    try:
        update = take_arrays(part_of(content, "update", ArrayRecord), wire)
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Reply(hospital, error="bad-update")
    fits = update.keys() == like.keys() and all(
        update[n].shape == v.shape and update[n].dtype == v.dtype for n, v in like.items()
    )
    if not fits or not finite(update):
        return Reply(hospital, error="bad-update")
    if not is_from(content, hospital):
        return Reply(hospital, error="bad-update")
    metrics = _numbers(content, "metrics")
    loss, images = metrics.get("loss"), metrics.get("images")
    if not (within(loss, _LARGEST_LOSS) and within(images, MOST_IMAGES)):
        return Reply(hospital, error="bad-update")
    return Reply(
        hospital,
        {name: update[name] for name in like},
        float(loss) if isinstance(loss, int | float) else None,
        int(images) if isinstance(images, int) else None,
    )
