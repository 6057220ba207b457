"""The cost of a private arm, split into its recipe, its clipping and its noise: the arms between.

A private arm trains by another recipe than the arm without privacy: larger batches, fewer passes,
another learning rate. What it loses holds the cost of all that beside that of privacy. Two arms
with its settings stand between: the recipe alone, and the recipe with clipping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fedmed.base.errors import UserError
from fedmed.config import Settings

STEPS: Final = {"sampled-sgd": "recipe", "clipped-sgd": "clipped"}
"""The arms that protect nothing, and what the name of such an arm ends with."""


def controls(arm: str) -> tuple[str, ...]:
    """Names of the arms that split the cost of an arm, from its recipe to its noise."""
    return tuple(f"{arm}-{ending}" for ending in STEPS.values())


def asked(
    listed: Any, arms: Mapping[str, Settings], where: str, *, chosen: bool
) -> tuple[str, ...]:
    """The arms that ``decompose`` names; `chosen`: of these only the ones that are run.

    Raises :class:`UserError` for what is no list of arms, and for an arm that is not ``dp-sgd``.
    """
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise UserError(f'{where}: decompose = {listed!r}; give a list such as ["dp-sgd"]')
    if len(set(listed)) != len(listed):
        raise UserError(f"{where}: decompose = {listed!r} names one twice; keep each once")
    for name in listed:
        if name not in arms:
            if chosen:
                continue
            raise UserError(
                f"{where}: decompose names '{name}', which is not in arms = [...]; add it there, "
                "or remove it"
            )
        if arms[name].arm.plan != "gradient":
            raise UserError(
                f"{where}: decompose names '{name}', whose arm {arms[name].arm.name} clips no "
                "gradients; name arms of dp-sgd"
            )
        if arms[name].privacy.image_mechanism != "none":
            raise UserError(
                f"{where}: decompose names '{name}', which noises images too "
                "(privacy.image-mechanism), and that has no step of its own; name another arm"
            )
    return tuple(name for name in listed if name in arms)


def with_controls(
    arms: Mapping[str, Settings], split: Sequence[str], where: str
) -> dict[str, Settings]:
    """The arms, each of ``split`` after the two that lie between it and no privacy."""
    arranged: dict[str, Settings] = {}
    for name, settings in arms.items():
        if name in split:
            for kind, control in zip(STEPS, controls(name), strict=True):
                if control in arms:
                    raise UserError(
                        f"{where}: the arm '{control}' is made of {name} by decompose; give yours "
                        "another name"
                    )
                arranged[control] = settings.replaced({"privacy.arm": kind}, where)
        arranged[name] = settings
    return arranged
