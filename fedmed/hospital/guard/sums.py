"""A deployed site's side of secure sums: its long-term key, its peers' keys, and nothing on disk.

What a member holds between messages is in the guard's memory alone. A guard that starts again has
lost it: no step from before can be unmasked any more, and the members meet again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from fedmed.config import Settings
from fedmed.hospital.secure_sums import meeting_of
from fedmed.secure_sum import Member, SumRefused, Terms
from fedmed.site.file import SiteFile
from fedmed.site.sum_keys import read_identity, read_peers

_MOST: Final = 4  # runs whose members are kept


@dataclass
class GuardSums:
    """The member of one site, by run."""

    site: SiteFile
    _held: dict[str, Member] = field(default_factory=dict, repr=False)

    def names(self, settings: Settings) -> Sequence[str]:
        """This site and those whose keys it has pinned, whatever the server says."""
        return sorted({self.site.name, *read_peers(self.site)})

    @contextmanager
    def opened(self, terms: Terms, name: str) -> Iterator[Member]:
        """The member of the run; with other terms than before it begins anew, steps go forward."""
        if name != self.site.name:
            raise SumRefused(f"this is the site of {self.site.name}, not of {name}")
        held = self._held.pop(terms.run, None)
        if held is None or held.terms != terms:
            fresh = Member(name, terms, read_identity(self.site), read_peers(self.site))
            if held is not None:
                fresh.meeting, fresh.step = held.meeting, held.step
            held = fresh
        self._held[terms.run] = held
        while len(self._held) > _MOST:
            self._held.pop(next(iter(self._held)))
        yield held

    def current(self, stored: bytes, run: str, name: str) -> bool:
        """See :class:`fedmed.hospital.secure_sums.Sums`."""
        meeting, held = meeting_of(stored), self._held.get(run)
        return meeting is None or (held is not None and held.meeting == meeting)
