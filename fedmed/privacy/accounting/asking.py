"""``fedmed plan`` without an experiment: the numbers of one DP-SGD training; no data, no torch."""

from dataclasses import dataclass, replace

import numpy as np

from fedmed.base.errors import UserError
from fedmed.privacy import accounting
from fedmed.privacy.accounting import solve
from fedmed.privacy.mechanisms.step import gaussian


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The numbers of ``fedmed plan`` without an experiment; one that is None is solved for."""

    patients: int
    batch: int | None
    epochs: float | None
    epsilon: float | None
    noise_multiplier: float | None
    delta: float


def solved(asked: Asked) -> dict[str, float | int | None]:
    """All numbers of a DP-SGD training, solved for the one that is not given.

    Where epsilon and noise are both given with everything else, epsilon is the limit that the
    noise must keep. Raises :class:`UserError` for numbers out of range, for more than one unknown,
    and for a plan that cannot be, naming the nearest that can.
    """
    _check(asked)
    absent = [
        name
        for name in ("batch", "epochs", "epsilon", "noise_multiplier")
        if getattr(asked, name) is None
    ]
    if len(absent) > 1:
        options = ", ".join("--" + name.replace("_", "-") for name in absent)
        raise UserError(f"fedmed plan: {options} are missing; leave out one of them at most")
    missing = absent[0] if absent else ""
    sigma, target = asked.noise_multiplier or 0.0, asked.epsilon or 0.0
    question = solve.Question(
        units=asked.patients, batch=asked.batch or 1, epochs=asked.epochs or 1.0, delta=asked.delta
    )
    steps = question.steps
    if missing == "noise_multiplier":
        sigma = solve.noise(question, target)
    elif missing == "batch":
        found = solve.batch(question, sigma, target)
        if not found:
            raise UserError(
                f"impossible: no batch keeps epsilon {target:g} at noise {sigma:g}; "
                "raise --epsilon or --noise-multiplier, or lower --epochs"
            )
        question = replace(question, batch=found)
        steps = question.steps
    elif missing == "epochs":
        steps = solve.steps(question, sigma, target)
        if not steps:
            raise UserError(
                f"impossible: one step passes epsilon {target:g} at noise {sigma:g}; raise "
                "--epsilon or --noise-multiplier, or lower --batch"
            )
    elif not missing and solve.epsilon(question, sigma) > target:
        raise UserError(
            f"impossible: noise {sigma:g} gives epsilon {solve.epsilon(question, sigma):.4g}, "
            f"above {target:g}; "
            + solve.nearest_for_noise(question, sigma, target, solve.OPTION_NAMES)
        )
    return _numbers(asked, question, steps, sigma)


def _numbers(
    asked: Asked, question: solve.Question, steps: int, sigma: float
) -> dict[str, float | int | None]:
    spent = ((gaussian(sigma, question.rate), steps),)
    risk = accounting.risk(spent, asked.delta)
    return {
        "patients": asked.patients,
        "batch": question.batch,
        "epochs": asked.epochs if asked.epochs is not None else steps * question.rate,
        "sampling_rate": question.rate,
        "steps": steps,
        "noise_multiplier": sigma,
        "epsilon": accounting.composed_epsilon(spent, asked.delta),
        "delta": asked.delta,
        "mu": risk.mu,
        "advantage": risk.advantage,
        "tpr_at_fpr_0.01": risk.tpr_at_fpr_001,
        "epsilon_rdp": accounting.rdp_epsilon(accounting.rdp(spent), asked.delta),
        "epsilon_replace_one": accounting.composed_epsilon(spent, asked.delta, "replace-one"),
    }


def _check(asked: Asked) -> None:
    if not 1 <= asked.patients < 10**9:
        given = str(asked.patients)[:20]
        raise UserError(f"--patients {given}: give a number from 1 to 999,999,999")
    if asked.batch is not None and not 1 <= asked.batch <= asked.patients:
        raise UserError(
            f"--batch {asked.batch}: give 1 to {asked.patients} (--patients): the sampling rate is "
            "batch / patients"
        )
    for name, value, top in (
        ("--epochs", asked.epochs, 1e6),
        ("--epsilon", asked.epsilon, 1e4),
        ("--noise-multiplier", asked.noise_multiplier, accounting.LARGEST_NOISE),
    ):
        if value is not None:
            solve.check(name, value, 0 if name == "--epochs" else 1e-4, top)
    if asked.noise_multiplier is not None and asked.noise_multiplier < 0.01:
        raise UserError(f"--noise-multiplier {asked.noise_multiplier:g}: give 0.01 or more")
    if not 1e-12 <= asked.delta < 1:
        raise UserError(f"--delta {asked.delta:g}: give a number from 1e-12 to below 1")
    if asked.batch and asked.epochs and asked.epochs * asked.patients / asked.batch > 1e6:
        raise UserError(
            "--epochs and --batch make more than 1,000,000 steps, which cannot be accounted; "
            "lower --epochs or raise --batch"
        )
    if asked.delta >= 1 / asked.patients:
        raise UserError(
            f"impossible: --delta {asked.delta:g} is not below 1/{asked.patients}, so the "
            f"guarantee would mean nothing; use {10 ** np.floor(np.log10(0.1 / asked.patients)):g}"
        )
