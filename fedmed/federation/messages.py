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

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from torch import Tensor

from fedmed.evaluation.pooled.histograms import Spec
from fedmed.federation.arrays import (
    decode_arrays,
    encode_arrays,
    encode_update,
    part_of,
    size_of,
    take_arrays,
)
from fedmed.federation.exchange import (
    ERRORS,
    Histograms,
    Joining,
    Reply,
    fingerprint,
    frozen_of,
    install,
    pack,
    parameters_of,
    request_fingerprint,
    unpack,
)
from fedmed.privacy.mechanisms.updates import finite

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
_MOST_IMAGES: Final = 10**9
_MOST_ROUNDS: Final = 10**6
_LONGEST_WORD: Final = 200


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
            "version": answer.version,
        }
    )
    return RecordDict({"reply": record, "own": ConfigRecord(dict(answer.own))})


def read_join(message: Message) -> Joining | str:
    """A hospital's answer to a query, or the code of its error."""
    if message.has_error():
        # What a SuperNode answers for a bundle that it does not unpack.
        return "app" if message.error.code == ErrorCode.INVALID_FAB else "no-answer"
    if not message.has_content():
        return "no-answer"
    content = message.content
    if "reply" not in content:
        code = str(_settings(content, "error").get("code", ""))
        return code if code in ERRORS else "no-answer"
    try:
        record = part_of(content, "reply", ConfigRecord)
        own = _settings(content, "own")
        answer = Joining(
            hospital=str(record["hospital"]),
            accepts=bool(record["accepts"]),
            evaluates=bool(record["evaluates"]),
            rounds=int(str(record["rounds"])),
            epsilon=float(str(record["epsilon"])),
            public_size=int(str(record["public-size"])),
            own={k: v for k, v in own.items() if isinstance(v, str | int | float | bool)},
            version=str(record.get("version", "unknown")),
        )
    except (KeyError, ValueError):
        return "internal"
    likely = (
        0 < len(answer.hospital) <= _LONGEST_WORD
        and len(answer.version) <= _LONGEST_WORD
        and (answer.hospital + answer.version).isprintable()
        and _within(answer.rounds, _MOST_ROUNDS)
        and _within(answer.epsilon, math.inf)
        and _within(answer.public_size, _MOST_IMAGES)
    )
    return answer if likely else "internal"


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
        return Histograms(hospital, error=_code(content))
    try:
        given = decode_arrays(part_of(content, "histograms", ArrayRecord))
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Histograms(hospital, error="bad-counts")
    fits = given.keys() == spec.families.keys() and all(
        tuple(given[family].shape) == spec.shape(family) and given[family].dtype == torch.float64
        for family in spec.families
    )
    if not fits or not finite(given) or not _is_from(content, hospital):
        return Histograms(hospital, error="bad-counts")
    told = _numbers(content, "clustering").get("clustering", 1.0)
    clustering = float(told) if isinstance(told, int | float) else math.nan
    if not 1 <= clustering < math.inf:
        return Histograms(hospital, error="bad-counts")
    return Histograms(hospital, {n: given[n].numpy() for n in spec.families}, clustering)


def phase_content(run: str, phase: str, text: str) -> RecordDict:
    """Content of a message of a secure sum."""
    return RecordDict({"request": ConfigRecord({"run": run, "phase": phase, "text": text})})


def sum_content(hospital: str, text: str) -> RecordDict:
    """Content of a member's answer to it."""
    return RecordDict(
        {"reply": ConfigRecord({"hospital": hospital}), "sum": ConfigRecord({"text": text})}
    )


def read_phase(message: Message, hospital: str) -> str | None:
    """The text of a member's answer; None where there is none, or it is another's."""
    if message.has_error() or not message.has_content() or "sum" not in message.content:
        return None
    if not _is_from(message.content, hospital):
        return None
    return str(_settings(message.content, "sum").get("text", ""))


def error_of(message: Message) -> str | None:
    """The code of an answer that is an error, or None."""
    if message.has_error() or not message.has_content():
        return "no-answer"
    return _code(message.content) if "error" in message.content else None


def _settings(content: RecordDict, name: str) -> ConfigRecord:
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def _numbers(content: RecordDict, name: str) -> MetricRecord:
    record = content.get(name)
    return record if isinstance(record, MetricRecord) else MetricRecord()


def _code(content: RecordDict) -> str:
    code = str(_settings(content, "error").get("code", ""))
    return code if code in ERRORS else "internal"


def update_content(reply: Reply, wire: str = "float32", *, spend: bool = False) -> RecordDict:
    """Content of a hospital's answer; ``wire`` is ``run.wire``; ``spend`` empties its update."""
    if reply.error is not None:
        error = ConfigRecord({"hospital": reply.hospital, "code": reply.error})
        return RecordDict({"error": error})
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
        return Reply(hospital, error=_code(content))
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
    if not fits or not _is_from(content, hospital):
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
        return Reply(hospital, error=_code(content))
    try:
        update = take_arrays(part_of(content, "update", ArrayRecord), wire)
    except Exception:  # bytes from outside: numpy and zipfile raise many kinds
        return Reply(hospital, error="bad-update")
    fits = update.keys() == like.keys() and all(
        update[n].shape == v.shape and update[n].dtype == v.dtype for n, v in like.items()
    )
    if not fits or not finite(update):
        return Reply(hospital, error="bad-update")
    if not _is_from(content, hospital):
        return Reply(hospital, error="bad-update")
    metrics = _numbers(content, "metrics")
    loss, images = metrics.get("loss"), metrics.get("images")
    if not (_within(loss, _LARGEST_LOSS) and _within(images, _MOST_IMAGES)):
        return Reply(hospital, error="bad-update")
    return Reply(
        hospital,
        {name: update[name] for name in like},
        float(loss) if isinstance(loss, int | float) else None,
        int(images) if isinstance(images, int) else None,
    )


def _is_from(content: RecordDict, hospital: str) -> bool:
    """Whether an answer names no other hospital than the one that was asked."""
    return _settings(content, "reply").get("hospital", "") in ("", hospital)


def _within(value: object, limit: float) -> bool:
    """Whether a number that may be absent is one from 0 to ``limit``; NaN is not."""
    if value is None:
        return True
    return isinstance(value, int | float) and 0 <= value <= limit
