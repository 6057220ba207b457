"""The server's side of a secure sum: it relays, adds up, and takes away masks that it is given."""

from __future__ import annotations

import numpy as np

from fedmed.secure_sum import masks, shares
from fedmed.secure_sum.errors import SumRefused
from fedmed.secure_sum.masks import Vector
from fedmed.secure_sum.member import committed, self_key
from fedmed.secure_sum.messages import Masked, Note, Opened, Signed, Unmasking
from fedmed.secure_sum.terms import Terms


class Collector:
    """One step of a sum: :meth:`add` masked vectors, then :meth:`survivors`, signatures, openings.

    Memory is that of one vector, however many members there are. Raises :class:`SumRefused` where
    something does not fit; the step is then lost, and nothing was learnt from it.
    """

    def __init__(self, terms: Terms, meeting: int, step: int) -> None:
        self.terms, self.meeting, self.step = terms, meeting, step
        self._total: Vector = np.zeros(terms.count, dtype=np.uint32)
        self._notes: dict[str, Note] = {}
        self._signatures: dict[str, bytes] = {}
        self._opened: dict[str, Opened] = {}

    def add(self, name: str, masked: Masked) -> None:
        """Fold one member's masked vector in."""
        note = masked.note
        if name not in self.terms.members or name in self._notes:
            raise SumRefused(f"{name} is no member, or was added already")
        if (note.meeting, note.step) != (self.meeting, self.step):
            raise SumRefused(
                f"{name} answers step {note.step} of meeting {note.meeting}, and this is step "
                f"{self.step} of meeting {self.meeting}"
            )
        if masked.vector.dtype != np.uint32 or masked.vector.shape != (self.terms.count,):
            raise SumRefused(f"{name} sends a vector of another form")
        if note.boxes.keys() != {*self.terms.members} - {name}:
            raise SumRefused(f"{name} has not a share for each peer")
        self._total += masked.vector
        self._notes[name] = note

    @property
    def survivors(self) -> list[str]:
        """Whose vectors are in the sum, in the members' order."""
        return [name for name in self.terms.members if name in self._notes]

    @property
    def enough(self) -> bool:
        """Whether so many are there that the sum may be unmasked."""
        return len(self._notes) >= self.terms.threshold

    def signed(self, name: str, told: Signed) -> None:
        """Take in a survivor's signature."""
        if told.name != name or told.step != self.step or name not in self._notes:
            raise SumRefused(f"{name} signs for another step or another name")
        self._signatures[name] = told.signature

    def ask(self, name: str) -> Unmasking:
        """What a survivor is asked to open."""
        return Unmasking(
            step=self.step,
            survivors=self.survivors,
            signatures=dict(self._signatures),
            boxes={who: note.boxes[name] for who, note in self._notes.items() if who != name},
        )

    def opened(self, name: str, told: Opened) -> None:
        """Take in a survivor's answer."""
        gone = {*self.terms.members} - self._notes.keys()
        if told.name != name or told.step != self.step or name not in self._notes:
            raise SumRefused(f"{name} opens another step")
        if told.shares.keys() != self._notes.keys() or told.pairs.keys() != gone:
            raise SumRefused(f"{name} opens others than the survivors")
        if any(len(key) != masks.KEY for key in told.pairs.values()):
            raise SumRefused(f"{name} opens no key")
        self._opened[name] = told

    def total(self) -> Vector:
        """The sum modulo 2^32; raises where too few opened, or a share is wrong."""
        self.terms.check_survivors(self.survivors)
        if len(self._opened) < self.terms.threshold:
            raise SumRefused(
                f"{len(self._opened)} members opened their shares, below the threshold of "
                f"{self.terms.threshold}"
            )
        gone = [name for name in self.terms.members if name not in self._notes]
        silent = [name for name in self.survivors if name not in self._opened]
        if gone and silent:
            raise SumRefused(
                f"{silent[0]} left before it gave its masks with {gone[0]}, who was gone"
            )
        keys = [(key, True) for key in self._own()]
        order = self.terms.members.index
        for lost in gone:
            for name in self.survivors:
                # The survivor added this pair's mask where it comes first, else took it away.
                keys.append((self._opened[name].pairs[lost], order(name) < order(lost)))
        masks.add(self._total, keys)
        return self._total

    def _own(self) -> list[bytes]:
        """The keys of the survivors' own masks, each from a threshold of its shares."""
        tellers = list(self._opened)[: self.terms.threshold]
        told = {teller: self._opened[teller].shares for teller in tellers}
        keys = []
        for name, secret in shares.joined(told, self.terms.members).items():
            text = committed(self.terms, self.meeting, self.step, name, secret)
            if text != self._notes[name].commitment:
                raise SumRefused(f"the shares of {name}'s mask do not verify")
            keys.append(self_key(self.terms, self.meeting, self.step, name, secret))
        return keys
