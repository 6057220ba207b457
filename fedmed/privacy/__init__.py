"""Plans, mechanisms, accounting and statements of differential privacy.

:func:`plan` makes the plan of one training; :func:`epsilon`, :func:`noise_multiplier` and
:func:`risk` answer single questions of it. :mod:`fedmed.privacy.gradients` clips and noises the
gradients of one's own model. docs/privacy.md says what the numbers mean. Nothing is imported before
it is used.
"""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.privacy import gradients
    from fedmed.privacy.accounting.epsilons import (
        Risk,
        composed_epsilon,
        epsilon,
        noise_multiplier,
        risk,
    )
    from fedmed.privacy.accounting.renyi import rdp, rdp_epsilon
    from fedmed.privacy.mechanisms.noise import NoiseSource
    from fedmed.privacy.mechanisms.step import Mechanism, gaussian, laplace
    from fedmed.privacy.plans.gradient import GradientPlan
    from fedmed.privacy.plans.solving import plan
else:
    __getattr__, __dir__ = lazy.attach(
        __name__,
        {
            "accounting.epsilons": (
                *("Risk", "composed_epsilon", "epsilon", "noise_multiplier", "risk"),
            ),
            "accounting.renyi": ("rdp", "rdp_epsilon"),
            "mechanisms.noise": ("NoiseSource",),
            "mechanisms.step": ("Mechanism", "gaussian", "laplace"),
            "plans.gradient": ("GradientPlan",),
            "plans.solving": ("plan",),
        },
        packages=("gradients",),
    )

__all__ = [
    "GradientPlan",
    "Mechanism",
    "NoiseSource",
    "Risk",
    "composed_epsilon",
    "epsilon",
    "gaussian",
    "gradients",
    "laplace",
    "noise_multiplier",
    "plan",
    "rdp",
    "rdp_epsilon",
    "risk",
]
