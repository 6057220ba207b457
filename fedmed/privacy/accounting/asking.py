"""One DP-SGD training by its numbers: what was asked, checked, and solved for what was left out."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedmed.base.errors import UserError
from fedmed.privacy import accounting
from fedmed.privacy.accounting import solve

Names = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The numbers of one training; one that is None is solved for."""

    patients: int
    batch: int | None
    epochs: float | None
    epsilon: float | None
    noise_multiplier: float | None
    delta: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The numbers that settle a training: ``steps`` of ``batch`` patients, at a noise."""

    patients: int
    batch: int
    steps: int
    noise_multiplier: float

    @property
    def rate(self) -> float:
        """Sampling rate of a step."""
        return self.batch / self.patients


def answered(asked: Asked, called: Names = str, who: str = "plan") -> Answer:
    """The training that was asked for, solved for the number that is not given.

    Where epsilon and noise are both given with everything else, epsilon is the limit that the
    noise must keep. Raises :class:`UserError` for numbers out of range, for more than one unknown,
    and for a plan that cannot be, naming the nearest that can. ``called`` gives the names by which
    ``who`` knows the numbers.

    >>> answered(Asked(patients=1000, batch=64, epochs=20, epsilon=None, noise_multiplier=1.0,
    ...                delta=1e-5)).steps
    312
    """
    _check(asked, called)
    absent = [
        name
        for name in ("batch", "epochs", "epsilon", "noise_multiplier")
        if getattr(asked, name) is None
    ]
    if len(absent) > 1:
        listed = ", ".join(map(called, absent))
        raise UserError(f"{who}: {listed} are missing; leave out one of them at most")
    missing = absent[0] if absent else ""
    sigma, target = asked.noise_multiplier or 0.0, asked.epsilon or 0.0
    question = solve.Question(
        units=asked.patients, batch=asked.batch or 1, epochs=asked.epochs or 1.0, delta=asked.delta
    )
    steps = question.steps
    epsilon, noise, batch = called("epsilon"), called("noise_multiplier"), called("batch")
    if missing == "noise_multiplier":
        sigma = solve.noise(question, target)
    elif missing == "batch":
        largest = solve.batch(question, sigma, target)
        if not largest:
            raise UserError(
                f"impossible: no batch keeps epsilon {target:g} at noise {sigma:g}; "
                f"raise {epsilon} or {noise}, or lower {called('epochs')}"
            )
        question = replace(question, batch=largest)
        steps = question.steps
    elif missing == "epochs":
        steps = solve.steps(question, sigma, target)
        if not steps:
            raise UserError(
                f"impossible: one step passes epsilon {target:g} at noise {sigma:g}; raise "
                f"{epsilon} or {noise}, or lower {batch}"
            )
    elif not missing and solve.epsilon(question, sigma) > target:
        raise UserError(
            f"impossible: noise {sigma:g} gives epsilon {solve.epsilon(question, sigma):.4g}, "
            f"above {target:g}; "
            + solve.nearest_for_noise(question, sigma, target, (epsilon, "", batch, noise))
        )
    return Answer(
        patients=asked.patients, batch=question.batch, steps=steps, noise_multiplier=sigma
    )


def _check(asked: Asked, called: Names) -> None:
    patients, batch, epochs, delta = map(called, ("patients", "batch", "epochs", "delta"))
    if not 1 <= asked.patients < 10**9:
        given = str(asked.patients)[:20]
        raise UserError(f"{patients} {given}: give a number from 1 to 999,999,999")
    if asked.batch is not None and not 1 <= asked.batch <= asked.patients:
        raise UserError(
            f"{batch} {asked.batch}: give 1 to {asked.patients} ({patients}): the sampling rate is "
            "batch / patients"
        )
    noise = called("noise_multiplier")
    for name, value, least, top in (
        (epochs, asked.epochs, 0, 1e6),
        (called("epsilon"), asked.epsilon, 1e-4, 1e4),
        (noise, asked.noise_multiplier, 1e-4, accounting.LARGEST_NOISE),
    ):
        if value is not None:
            solve.check(name, value, least, top)
    if asked.noise_multiplier is not None and asked.noise_multiplier < 0.01:
        raise UserError(f"{noise} {asked.noise_multiplier:g}: give 0.01 or more")
    if not 1e-12 <= asked.delta < 1:
        raise UserError(f"{delta} {asked.delta:g}: give a number from 1e-12 to below 1")
    if asked.batch and asked.epochs and asked.epochs * asked.patients / asked.batch > 1e6:
        raise UserError(
            f"{epochs} and {batch} make more than 1,000,000 steps, which cannot be accounted; "
            f"lower {epochs} or raise {batch}"
        )
    if asked.delta >= 1 / asked.patients:
        raise UserError(
            f"impossible: {delta} {asked.delta:g} is not below 1/{asked.patients}, so the "
            f"guarantee would mean nothing; use {10 ** np.floor(np.log10(0.1 / asked.patients)):g}"
        )
