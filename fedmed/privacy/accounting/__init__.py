"""From mechanisms to epsilon and back."""

from fedmed.privacy.accounting.epsilons import (
    ACCOUNTANT,
    LARGEST_NOISE,
    MOST_STEPS,
    ODOMETER_ORDERS,
    Risk,
    Spent,
    allowance,
    composed_epsilon,
    epsilon,
    epsilon_at,
    noise_multiplier,
    odometer,
    rdp,
    rdp_epsilon,
    risk,
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
