"""A plan for a training of one's own, from its numbers instead of from settings."""

from fedmed.privacy.accounting.asking import Asked, answered
from fedmed.privacy.plans.gradient import GradientPlan


def plan(
    *,
    patients: int,
    batch: int | None = None,
    epochs: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    delta: float = 1e-5,
    clipping_norm: float = 1.0,
) -> GradientPlan:
    """The plan of one DP-SGD training: leave out one number, and it is solved for.

    ``batch`` is the expected number of patients in a step, each drawn with probability batch /
    patients (Poisson sampling); ``epochs`` are passes over them. The guarantee is for adding or
    removing one patient with all images, by privacy loss distributions. With everything given,
    ``epsilon`` is the limit that the noise must keep. Raises :class:`UserError` for numbers out of
    range and for a plan that cannot be, naming the nearest that can.

    >>> solved = plan(patients=1000, batch=64, epochs=20, epsilon=8)
    >>> round(solved.noise_multiplier, 3), solved.steps, solved.epsilon() <= 8
    (0.982, 312, True)
    >>> plan(patients=1000, batch=64, noise_multiplier=1.2, epsilon=8).steps
    614
    """
    answer = answered(
        Asked(
            patients=patients,
            batch=batch,
            epochs=epochs,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
            delta=delta,
        )
    )
    return GradientPlan(
        unit="patient",
        units=patients,
        expected_batch=answer.batch,
        steps_per_round=answer.steps,
        rounds=1,
        clipping_norm=clipping_norm,
        noise_multiplier=answer.noise_multiplier,
        delta=delta,
    )
