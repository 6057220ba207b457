"""A whole secure sum in one process, for tests of what a server can and cannot do."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmed.secure_sum import Collector, Hello, Identity, Masked, Member, Opened, Terms

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")


def terms(members: int = 5, threshold: int = 4, colluding: int = 1, **changes: Any) -> Terms:
    given = {"run": "r", "members": NAMES[:members], "threshold": threshold, "count": 7}
    return Terms(colluding=colluding, **{**given, **changes})


def members(about: Terms, **changes: Any) -> dict[str, Member]:
    """Members who have pinned each other's keys."""
    identities = {name: Identity.new() for name in about.members}
    public = {name: identity.public for name, identity in identities.items()}
    return {
        name: Member(name, about, identities[name], {**public, **changes}) for name in about.members
    }


def hellos(everybody: dict[str, Member], meeting: int = 1) -> dict[str, Hello]:
    return {name: member.hello(meeting) for name, member in everybody.items()}


def met(about: Terms) -> dict[str, Member]:
    """Members who have met."""
    everybody = members(about)
    told = hellos(everybody)
    for member in everybody.values():
        member.meet(told)
    return everybody


def vectors(about: Terms, generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        name: generator.integers(0, 2**32, about.count, dtype=np.uint32) for name in about.members
    }


def masked(
    everybody: dict[str, Member], given: dict[str, np.ndarray], step: int = 1
) -> dict[str, Masked]:
    return {name: everybody[name].mask(step, vector.copy()) for name, vector in given.items()}


def signed(collector: Collector, everybody: dict[str, Member]) -> None:
    for name in collector.survivors:
        collector.signed(name, everybody[name].sign(collector.step, collector.survivors))


def opened(collector: Collector, everybody: dict[str, Member], who: Sequence[str]) -> list[Opened]:
    told = [everybody[name].open(collector.ask(name)) for name in who]
    for answer in told:
        collector.opened(answer.name, answer)
    return told


def summed(
    everybody: dict[str, Member],
    given: dict[str, np.ndarray],
    step: int = 1,
    silent: Sequence[str] = (),
) -> np.ndarray:
    """The unmasked sum of one step; `silent` leave after they sent their vectors."""
    about = next(iter(everybody.values())).terms
    collector = Collector(about, next(iter(everybody.values())).meeting, step)
    for name, answer in masked(everybody, given, step).items():
        collector.add(name, answer)
    signed(collector, everybody)
    opened(collector, everybody, [name for name in collector.survivors if name not in silent])
    return collector.total()
