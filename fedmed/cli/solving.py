"""``fedmed plan`` without an experiment: the numbers of one DP-SGD training; no data, no torch."""

from fedmed.privacy import accounting
from fedmed.privacy.accounting.asking import Asked, answered
from fedmed.privacy.mechanisms.step import gaussian

__all__ = ["Asked", "solved"]


def solved(asked: Asked) -> dict[str, float | int | None]:
    """All numbers of a DP-SGD training, solved for the one that is not given.

    Raises :class:`UserError` naming the command's options; see ``asking.answered``.
    """
    answer = answered(asked, lambda name: "--" + name.replace("_", "-"), "fedmed plan")
    spent = ((gaussian(answer.noise_multiplier, answer.rate), answer.steps),)
    risk = accounting.risk(spent, asked.delta)
    return {
        "patients": asked.patients,
        "batch": answer.batch,
        "epochs": asked.epochs if asked.epochs is not None else answer.steps * answer.rate,
        "sampling_rate": answer.rate,
        "steps": answer.steps,
        "noise_multiplier": answer.noise_multiplier,
        "epsilon": accounting.composed_epsilon(spent, asked.delta),
        "delta": asked.delta,
        "mu": risk.mu,
        "advantage": risk.advantage,
        "tpr_at_fpr_0.01": risk.tpr_at_fpr_001,
        "epsilon_rdp": accounting.rdp_epsilon(accounting.rdp(spent), asked.delta),
        "epsilon_replace_one": accounting.composed_epsilon(spent, asked.delta, "replace-one"),
    }
