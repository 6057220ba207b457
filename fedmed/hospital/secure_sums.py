"""A hospital's side of the secure sum: whose keys it uses, and where it keeps them.

In a simulation the members' long-term keys come from one secret of the run's folder, and what a
member holds between messages lies in a file there, for its next message may be another process's.
At a deployed site the guard holds both: see :class:`fedmed.hospital.guard.sums.GuardSums`.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fedmed.base.files import write_text
from fedmed.config import Settings
from fedmed.data.network import member_names
from fedmed.federation import exchange
from fedmed.federation.sums import member_file, note_of, secret_file
from fedmed.privacy.plans import SummedPlan
from fedmed.secure_sum import (
    Identity,
    Member,
    SumRefused,
    Terms,
    Unmasking,
    read_hellos,
)

PHASES: Final = ("hello", "meet", "sign", "open")


class Sums(Protocol):
    """Who takes part in secure sums here, and with which keys."""

    def names(self, settings: Settings) -> Sequence[str]:
        """All members, in the order in which everybody has them."""
        ...

    def opened(self, terms: Terms, name: str) -> AbstractContextManager[Member]:
        """The member, as its last message left it; what it becomes is kept."""
        ...

    def current(self, stored: bytes, run: str, name: str) -> bool:
        """Whether a kept answer can be used: no masked one of a meeting that is over."""
        ...


@dataclass(frozen=True)
class SimulatedSums:
    """The members of a simulation, in the folder of their run."""

    folder: Path

    def names(self, settings: Settings) -> Sequence[str]:
        """See :class:`Sums`."""
        return sorted(member_names(settings))

    @contextmanager
    def opened(self, terms: Terms, name: str) -> Iterator[Member]:
        """See :class:`Sums`."""
        secret = secret_file(self.folder).read_bytes()
        peers = {other: Identity.derived(secret, other).public for other in terms.members}
        member = Member(name, terms, Identity.derived(secret, name), peers)
        path = member_file(self.folder, name)
        if path.exists():
            member.restore(path.read_text(encoding="utf-8"))
        yield member
        write_text(path, member.to_json())

    def current(self, stored: bytes, run: str, name: str) -> bool:
        """See :class:`Sums`."""
        path, meeting = member_file(self.folder, name), meeting_of(stored)
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return meeting is None or meeting == held.get("meeting")


def terms(run: str, names: Sequence[str], plan: SummedPlan, count: int) -> Terms:
    """What all members and the server must have alike; raises :class:`SumRefused`."""
    if len(names) != plan.hospitals:
        raise SumRefused(
            f"{len(names)} members are known here, and the plan is of {plan.hospitals}"
        )
    return Terms(
        run=run,
        members=tuple(names),
        threshold=plan.threshold,
        colluding=plan.colluding,
        count=count,
        about=plan.agreed(count),
    )


def answer(member: Member, phase: str, text: str) -> str:
    """A member's answer to a message of one phase; raises :class:`SumRefused`."""
    if phase == "hello":
        if not text.isdecimal() or len(text) > 15:
            raise SumRefused("a meeting that is no number")
        return member.hello(int(text)).to_text()
    if phase == "meet":
        member.meet(read_hellos(text))
        return "{}"
    asked = Unmasking.from_text(text)
    if phase == "sign":
        return member.sign(asked.step, asked.survivors).to_text()
    return member.open(asked).to_text()


def meeting_of(stored: bytes) -> int | None:
    """The meeting of a kept answer; None where it has none."""
    try:
        return note_of(exchange.unpack(stored)).meeting
    except SumRefused:
        return None
