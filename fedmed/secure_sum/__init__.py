"""The sum of several members' integers, of which nobody learns one.

Each member's numbers leave it under masks that cancel in the sum, after Bonawitz et al. 2017
(Practical Secure Aggregation for Privacy-Preserving Machine Learning). A server relays every
message and may be hostile: it learns the sum over those whom a threshold of members signed for,
and nothing else. This package knows neither a network nor a model: bytes and arrays go in and out.

``Terms`` says who takes part and what is summed, ``Member`` is one member's side, ``Collector``
the server's. See docs/secure-sum.md for what it defends, and what not.
"""

from fedmed.secure_sum.collector import Collector
from fedmed.secure_sum.errors import NotMet, SumRefused
from fedmed.secure_sum.identities import Identity, read_public
from fedmed.secure_sum.member import Member
from fedmed.secure_sum.messages import (
    Hello,
    Masked,
    Note,
    Opened,
    Signed,
    Unmasking,
    hellos_text,
    read_hellos,
)
from fedmed.secure_sum.terms import Terms

__all__ = [
    "Collector",
    "Hello",
    "Identity",
    "Masked",
    "Member",
    "NotMet",
    "Note",
    "Opened",
    "Signed",
    "SumRefused",
    "Terms",
    "Unmasking",
    "hellos_text",
    "read_hellos",
    "read_public",
]
