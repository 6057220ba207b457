"""Queries, and the messages of a secure sum: words and small numbers, for which nobody needs torch.

What they hold stands in :mod:`fedmed.federation.messages`.
"""

import math
from typing import Final, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from fedmed.federation.answers import ERRORS, Joining

Part = TypeVar("Part", ArrayRecord, ConfigRecord, MetricRecord)
MOST_IMAGES: Final = 10**9
_MOST_ROUNDS: Final = 10**6
_LONGEST_WORD: Final = 200


def part_of(content: RecordDict, name: str, kind: type[Part]) -> Part:
    """One record of a message; raises ``KeyError`` where it is absent or of another kind.

    Flower's own ``content.array_records`` and its like are parts of a cycle of references that
    holds the whole message in memory until some later collection.
    """
    record = content.get(name)
    if not isinstance(record, kind):
        raise KeyError(name)
    return record


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
        told = str(settings_of(content, "error").get("code", ""))
        return told if told in ERRORS else "no-answer"
    try:
        record = part_of(content, "reply", ConfigRecord)
        own = settings_of(content, "own")
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
        and within(answer.rounds, _MOST_ROUNDS)
        and within(answer.epsilon, math.inf)
        and within(answer.public_size, MOST_IMAGES)
    )
    return answer if likely else "internal"


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
    if not is_from(message.content, hospital):
        return None
    return str(settings_of(message.content, "sum").get("text", ""))


def error_of(message: Message) -> str | None:
    """The code of an answer that is an error, or None."""
    if message.has_error() or not message.has_content():
        return "no-answer"
    return code_of(message.content) if "error" in message.content else None


def refusal_content(hospital: str, code: str) -> RecordDict:
    """Content of an answer that is an error."""
    return RecordDict({"error": ConfigRecord({"hospital": hospital, "code": code})})


def settings_of(content: RecordDict, name: str) -> ConfigRecord:
    """A record of words and numbers; empty where there is none."""
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def code_of(content: RecordDict) -> str:
    """The code of an error that came; one that is not known is taken for a failure."""
    told = str(settings_of(content, "error").get("code", ""))
    return told if told in ERRORS else "internal"


def is_from(content: RecordDict, hospital: str) -> bool:
    """Whether an answer names no other hospital than the one that was asked."""
    return settings_of(content, "reply").get("hospital", "") in ("", hospital)


def within(value: object, limit: float) -> bool:
    """Whether a number that may be absent is one from 0 to ``limit``; NaN is not."""
    if value is None:
        return True
    return isinstance(value, int | float) and 0 <= value <= limit
