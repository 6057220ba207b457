"""From mechanisms to epsilon and back.

Rényi divergences, which a ledger adds up, are here at once. What needs privacy loss distributions
is loaded when it is first asked for: their library takes a second to import.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy
from fedmed.privacy.accounting.renyi import (
    ODOMETER_ORDERS,
    Spent,
    allowance,
    epsilon_at,
    odometer,
    rdp,
    rdp_epsilon,
)

if TYPE_CHECKING:
    from fedmed.privacy.accounting.epsilons import (
        ACCOUNTANT,
        LARGEST_NOISE,
        MOST_STEPS,
        Risk,
        composed_epsilon,
        epsilon,
        noise_multiplier,
        risk,
    )
else:
    __getattr__, __dir__ = lazy.attach(
        __name__,
        {
            "epsilons": (
                *("ACCOUNTANT", "LARGEST_NOISE", "MOST_STEPS", "Risk", "composed_epsilon"),
                *("epsilon", "noise_multiplier", "risk"),
            )
        },
    )

__all__ = [
    "ACCOUNTANT",
    "LARGEST_NOISE",
    "MOST_STEPS",
    "ODOMETER_ORDERS",
    "Risk",
    "Spent",
    "allowance",
    "composed_epsilon",
    "epsilon",
    "epsilon_at",
    "noise_multiplier",
    "odometer",
    "rdp",
    "rdp_epsilon",
    "risk",
]
