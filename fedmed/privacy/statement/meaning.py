"""When an epsilon is protection worth the name: the one bound that statements and reports use."""

from typing import Final

MOST: Final = 20.0
"""Largest epsilon that is called protection. At 20 what an attacker has seen may be e^20, about 5e8
times as likely under one of two neighbouring data sets as under the other: they are told apart all
but always. Smaller epsilons are stated as they are; whether one is enough is not ours to say."""


def comparable(unit: str, epsilon: float | None, replaced: float | None) -> float | None:
    """The epsilon under the one neighbouring relation in which all arms of a ``unit`` are compared.

    Patients are added or removed under every arm. Images and hospitals are not: there the figure
    ``replaced``, of data that are exchanged for others, counts where it is known.
    """
    if epsilon is None or replaced is None or unit == "patient":
        return epsilon
    return replaced


def meaningful(
    unit: str,
    epsilon: float | None,
    *,
    replaced: float | None = None,
    of_patient: float | None = None,
) -> bool:
    """Whether a guarantee for one ``unit`` is meaningful protection: epsilon at most :data:`MOST`.

    Judged is the epsilon of :func:`comparable`, and under the unit image also ``of_patient``, what
    all images of one patient come to. No epsilon, no protection.
    """
    judged = comparable(unit, epsilon, replaced)
    if judged is None or judged > MOST:
        return False
    return unit != "image" or of_patient is None or of_patient <= MOST
