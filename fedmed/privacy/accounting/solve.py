"""DP-SGD's four numbers: epsilon, noise, length and batch; any one of them, given the others."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedmed.base.errors import UserError
from fedmed.base.rounding import up
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import Relation


@dataclass(frozen=True, kw_only=True)
class Question:
    """``epochs`` passes a round over ``units`` patients (or images), in steps of ``batch``.

    The convention everywhere: the sampling rate is batch / units and a round has
    round(epochs x units / batch) steps, at least one. Poisson sampling; ``relation`` says whether
    one unit is added or removed, or replaced.

    >>> question = Question(units=1000, batch=64, epochs=20, delta=1e-5)
    >>> question.rate, question.steps
    (0.064, 312)
    """

    units: int
    batch: int
    epochs: float
    rounds: int = 1
    delta: float
    relation: Relation = "add-or-remove"

    @property
    def rate(self) -> float:
        """Sampling rate of a step."""
        return self.batch / self.units

    @property
    def steps_per_round(self) -> int:
        """Steps of a round."""
        return max(1, round(self.epochs * self.units / self.batch))

    @property
    def steps(self) -> int:
        """Steps of all rounds."""
        return self.rounds * self.steps_per_round


def epsilon(question: Question, noise_multiplier: float) -> float:
    """Epsilon of the whole training at this noise multiplier.

    >>> round(epsilon(Question(units=1000, batch=64, epochs=20, delta=1e-5), 1.0), 2)
    7.73
    """
    return _epsilon(question, noise_multiplier, question.steps)


def noise(question: Question, target: float) -> float:
    """Smallest noise multiplier for a target epsilon (see accounting.noise_multiplier).

    >>> round(noise(Question(units=1000, batch=64, epochs=20, delta=1e-5), target=8), 3)
    0.982
    """
    return accounting.noise_multiplier(
        target, question.delta, question.rate, question.steps, question.relation
    )


def steps(question: Question, noise_multiplier: float, target: float) -> int:
    """Most steps at this batch and noise within the target; 0 where one is too much.

    >>> steps(Question(units=1000, batch=64, epochs=1, delta=1e-5), 1.2, target=8)
    614
    """

    def fits(count: int) -> bool:
        return _epsilon(question, noise_multiplier, count) <= target

    top = 1
    while top < accounting.MOST_STEPS and fits(top):
        top *= 4
    return largest(fits, min(top, accounting.MOST_STEPS))


def _epsilon(question: Question, noise_multiplier: float, count: int) -> float:
    return accounting.epsilon(
        noise_multiplier, question.rate, count, question.delta, question.relation
    )


def rounds(question: Question, noise_multiplier: float, target: float) -> int:
    """Most rounds at this batch and noise within the target; 0 where one is too much."""
    return steps(question, noise_multiplier, target) // question.steps_per_round


def batch(question: Question, noise_multiplier: float, target: float) -> int:
    """Largest expected batch at this noise and as many epochs within the target; 0 where none.

    >>> batch(Question(units=1000, batch=1, epochs=20, delta=1e-5), 1.0, target=8)
    67
    """

    def fits(size: int) -> bool:
        return epsilon(replace(question, batch=size), noise_multiplier) <= target

    return largest(fits, question.units)


def largest(fits: Callable[[int], bool], top: int) -> int:
    """Largest number from 0 to ``top`` that fits, where all below it do; 0 always does.

    >>> largest(lambda number: number * number <= 30, top=100)
    5
    """
    low, high = 0, top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def smallest(fits: Callable[[int], bool], bottom: int, top: int) -> int | None:
    """Smallest number from ``bottom`` to ``top`` that fits, where all above do; None if none.

    >>> smallest(lambda number: number * number >= 30, bottom=1, top=100)
    6
    """
    if not fits(top):
        return None
    low, high = bottom - 1, top
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


CONFIG_NAMES = ("privacy.epsilon", "train.rounds", "train.batch-size", "privacy.noise-multiplier")


def nearest_for_noise(
    question: Question,
    noise_multiplier: float,
    target: float,
    names: tuple[str, str, str, str] = CONFIG_NAMES,
) -> str:
    """What would make a plan with this noise keep the target: one line of choices.

    ``names`` are what the reader calls epsilon, rounds (empty: no such thing), batch and noise.
    """
    called, rounds_called, batch_called, noise_called = names
    choices = [f"raise {called} to {_four(epsilon(question, noise_multiplier))}"]
    fewer = rounds(question, noise_multiplier, target)
    if fewer and rounds_called:
        choices.append(f"lower {rounds_called} to {fewer}")
    smaller = batch(question, noise_multiplier, target)
    if smaller:
        choices.append(f"lower {batch_called} to {smaller}")
    choices.append(f"raise {noise_called} to {_four(noise(question, target))}")
    return "; or ".join(choices)


def nearest_for_signal(
    question: Question, target: float, parameters: int, limit: float
) -> list[str]:
    """What would bring a step's noise-to-signal down to ``limit`` at a target epsilon.

    Larger epsilon, fewer rounds or a larger batch, each alone; those that cannot are left out.
    """

    def ratio(asked: Question, goal: float) -> float:
        return noise(asked, goal) * math.sqrt(parameters) / asked.batch

    remedies = []
    steps_up = [target * 2 ** (i / 2) for i in range(1, 13)]
    larger = next((goal for goal in steps_up if ratio(question, goal) <= limit), None)
    if larger is not None:
        remedies.append(f"raise privacy.epsilon to {_four(larger)}")
    fewer = largest(
        lambda n: ratio(replace(question, rounds=max(1, n)), target) <= limit, question.rounds
    )
    if fewer:
        remedies.append(f"lower train.rounds to {fewer}")
    bigger = smallest(
        lambda size: ratio(replace(question, batch=size), target) <= limit,
        question.batch,
        question.units,
    )
    if bigger is not None:
        remedies.append(f"raise train.batch-size to {bigger}")
    return remedies


def check(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is not in (low, high]; raises :class:`UserError` naming it."""
    if not (math.isfinite(value) and low < value <= high):
        raise UserError(f"{name} = {value:g}: give a number above {low:g} and at most {high:g}")


def _four(value: float) -> str:
    """Four digits, rounded up, so that what is proposed is accepted."""
    return f"{up(value, 4):.6g}"
