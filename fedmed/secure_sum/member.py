"""One member's side of a secure sum; what it holds between messages, it can write down."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedmed.secure_sum import masks, shares
from fedmed.secure_sum.errors import NotMet, SumRefused
from fedmed.secure_sum.identities import Identity, verified
from fedmed.secure_sum.masks import Vector
from fedmed.secure_sum.messages import Hello, Masked, Note, Opened, Signed, Unmasking
from fedmed.secure_sum.terms import Terms

_NONCE = bytes(12)  # of boxes: each has a key of its own


@dataclass
class Member:
    """A member of ``terms``, known to its peers by ``identity``; ``peers`` are their public keys.

    Per run: :meth:`hello`, :meth:`meet`. Per step, in order: :meth:`mask`, :meth:`sign`,
    :meth:`open`. A step that was masked is never masked again, and for a step one set of survivors
    is signed: whatever the server says, it learns one sum of each step at most.
    """

    name: str
    terms: Terms
    identity: Identity
    peers: Mapping[str, bytes]
    meeting: int = 0
    step: int = 0  # the last that was masked in this meeting
    _key: bytes = b""  # private, X25519, of this meeting
    _secrets: dict[str, bytes] = field(default_factory=dict)  # shared with each peer
    _own_share: bytes = b""
    _signed: tuple[str, ...] = ()  # the survivors that were signed for in this step

    def __post_init__(self) -> None:
        if self.name not in self.terms.members:
            raise SumRefused(f"{self.name} is no member of this sum")
        for name in self._others():
            if name not in self.peers:
                raise SumRefused(f"the key of {name} is not pinned here: nothing is sent to it")
        keys = [self.identity.public, *(self.peers[name] for name in self._others())]
        if len(set(keys)) < len(keys):
            raise SumRefused("two members have the same pinned key")

    def hello(self, meeting: int) -> Hello:
        """A fresh key for a meeting; meetings go forward, and the keys of earlier ones are gone."""
        if meeting <= self.meeting:
            raise SumRefused(f"meeting {meeting} after meeting {self.meeting}")
        key = X25519PrivateKey.generate()
        self.meeting, self._key, self._secrets = meeting, key.private_bytes_raw(), {}
        self.step, self._own_share, self._signed = 0, b"", ()  # masks are of their meeting
        public = key.public_key().public_bytes_raw()
        text = self.terms.signed_text("hello", self.name, meeting, public)
        return Hello(
            name=self.name, meeting=meeting, public=public, signature=self.identity.sign(text)
        )

    def meet(self, hellos: Mapping[str, Hello]) -> None:
        """Take in every peer's key; raises where one did not sign it, these terms and this meeting.

        A server that puts keys of its own between two members is noticed here: it has no key that
        is pinned.
        """
        if not self._key:
            raise NotMet("no meeting was begun")
        own, shared = X25519PrivateKey.from_private_bytes(self._key), {}
        for name in self._others():
            hello = hellos.get(name)
            if hello is None:
                raise SumRefused(f"{name} is missing from the meeting")
            text = self.terms.signed_text("hello", name, self.meeting, hello.public)
            if hello.name != name or not verified(self.peers[name], hello.signature, text):
                raise SumRefused(
                    f"{name}: its key for this meeting is not signed by the key that is pinned, "
                    "for these members, numbers, grid and threshold"
                )
            try:
                shared[name] = own.exchange(X25519PublicKey.from_public_bytes(hello.public))
            except ValueError as error:
                raise SumRefused(f"{name}: its key is none") from error
        self._secrets = shared

    def mask(self, step: int, vector: Vector) -> Masked:
        """The vector under its masks, which takes its memory; steps go forward.

        To every pair's mask comes one of its own, so that an answer that came late, when the
        others have given the pair's masks away, is still covered.
        """
        if len(self._secrets) < len(self._others()):
            raise NotMet("the members have not met")
        if step <= self.step:
            raise SumRefused(f"step {step} after step {self.step}: a mask is used once")
        if vector.dtype != np.uint32 or vector.shape != (self.terms.count,):
            raise SumRefused(f"a vector of another form than {self.terms.count} numbers")
        self.step, self._signed = step, ()
        own = secrets.token_bytes(shares.SECRET)
        told = shares.split(own, self.terms.threshold, self.terms.members)
        self._own_share = told[self.name]
        before = self.terms.members.index(self.name)
        keys = [(self_key(self.terms, self.meeting, step, self.name, own), False)]
        keys += [
            (self._pair(name, step), self.terms.members.index(name) < before)
            for name in self._others()
        ]
        masks.add(vector, keys)
        boxes = {
            name: self._cipher(self.name, name, step).encrypt(_NONCE, told[name], None)
            for name in self._others()
        }
        commitment = committed(self.terms, self.meeting, step, self.name, own)
        note = Note(meeting=self.meeting, step=step, boxes=boxes, commitment=commitment)
        return Masked(vector=vector, note=note)

    def sign(self, step: int, survivors: list[str]) -> Signed:
        """The member's word on who is summed; raises for a second set, or without itself."""
        chosen = self.terms.check_survivors(survivors)
        if step != self.step or not self._own_share:
            raise SumRefused(f"step {step} is not the step that was masked ({self.step})")
        if self.name not in chosen:
            raise SumRefused("it is not among the survivors, so it opens nothing")
        if self._signed not in ((), chosen):
            raise SumRefused(f"another set of survivors was signed in step {step}")
        self._signed = chosen
        return Signed(
            name=self.name,
            step=step,
            signature=self.identity.sign(survivors_text(self.terms, self.meeting, step, chosen)),
        )

    def open(self, asked: Unmasking) -> Opened:
        """Shares of the survivors' own masks, and the pair keys with those who are gone.

        Only for the set that it signed itself, with the signatures of a threshold of members.
        """
        chosen = self.terms.check_survivors(asked.survivors)
        if asked.step != self.step or chosen != self._signed:
            raise SumRefused(f"step {asked.step}: it did not sign these survivors")
        text = survivors_text(self.terms, self.meeting, asked.step, chosen)
        keys = {**self.peers, self.name: self.identity.public}
        good = [
            name for name in chosen if verified(keys[name], asked.signatures.get(name, b""), text)
        ]
        if len(good) < self.terms.threshold:
            raise SumRefused(
                f"{len(good)} signatures on these survivors, below the threshold of "
                f"{self.terms.threshold}: nothing is unmasked"
            )
        told = {self.name: self._own_share}
        for name in chosen:
            if name == self.name:
                continue
            try:
                cipher = self._cipher(name, self.name, asked.step)
                told[name] = cipher.decrypt(_NONCE, asked.boxes.get(name, b""), None)
            except InvalidTag as error:
                raise SumRefused(f"the share of {name} does not verify") from error
        gone = [name for name in self.terms.members if name not in chosen]
        pairs = {name: self._pair(name, asked.step) for name in gone}
        return Opened(name=self.name, step=asked.step, shares=told, pairs=pairs)

    def to_json(self) -> str:
        """What it holds between messages, private keys too: for a file of its own site alone."""
        return json.dumps(
            {
                "terms": self.terms.digest().hex(),
                "meeting": self.meeting,
                "step": self.step,
                "key": self._key.hex(),
                "secrets": {name: value.hex() for name, value in self._secrets.items()},
                "own-share": self._own_share.hex(),
                "signed": list(self._signed),
            }
        )

    def restore(self, text: str) -> None:
        """Go on from :meth:`to_json`; of other terms only meeting and step, which go forward."""
        held: dict[str, Any] = json.loads(text)
        self.meeting, self.step = held["meeting"], held["step"]
        if held["terms"] != self.terms.digest().hex():
            return
        self._key = bytes.fromhex(held["key"])
        self._secrets = {name: bytes.fromhex(value) for name, value in held["secrets"].items()}
        self._own_share, self._signed = bytes.fromhex(held["own-share"]), tuple(held["signed"])

    def _others(self) -> list[str]:
        return [name for name in self.terms.members if name != self.name]

    def _pair(self, peer: str, step: int) -> bytes:
        """The key of a pair's mask in one step: the same at both, and of no other step."""
        first, second = sorted((self.name, peer))
        text = self.terms.signed_text("pair", self.meeting, step, first, second)
        return masks.derived(self._secrets[peer], text)

    def _cipher(self, sender: str, receiver: str, step: int) -> ChaCha20Poly1305:
        peer = receiver if sender == self.name else sender
        text = self.terms.signed_text("box", self.meeting, step, sender, receiver)
        return ChaCha20Poly1305(masks.derived(self._secrets[peer], text))


def self_key(terms: Terms, meeting: int, step: int, name: str, secret: bytes) -> bytes:
    """The key of a member's own mask, from the secret that was shared out."""
    return masks.derived(secret, terms.signed_text("self", meeting, step, name))


def committed(terms: Terms, meeting: int, step: int, name: str, secret: bytes) -> bytes:
    """A digest of the secret, by which wrong shares are noticed."""
    return hashlib.sha256(terms.signed_text("commitment", meeting, step, name, secret)).digest()


def survivors_text(terms: Terms, meeting: int, step: int, survivors: tuple[str, ...]) -> bytes:
    """What is signed for a set of survivors."""
    return terms.signed_text("survivors", meeting, step, *survivors)
