"""What a patient gives away once: a short noised vector of features, and a noised label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fedmed.privacy.mechanisms.geometric import (
    bits_for,
    discrete_laplace,
    excess,
    turned,
    variance,
)
from fedmed.privacy.mechanisms.integers import Integers
from fedmed.privacy.mechanisms.step import Mechanism, pure

if TYPE_CHECKING:  # it loads torch, and a plan needs none
    from fedmed.privacy.mechanisms.noise import NoiseSource

LEVELS: Final = 2**16
"""Steps of the grid in a clipping norm: a vector is rounded to multiples of norm / LEVELS."""

LABEL_SHARE: Final = 0.1
"""The label's share of epsilon: small, as it tells the level of scores alone."""

MOST_COMPONENTS: Final = 64
SMALLEST, LARGEST = 0.01, 64.0
"""Epsilons that are drawn for."""

_KEPT: Final = 2.0**-20  # of the vector's epsilon, for the rounding of thresholds


@dataclass(frozen=True)
class Released:
    """A patient's release: steps of the grid (k,) int64, and an answer that may be turned."""

    steps: Integers
    answer: bool

    def packed(self) -> bytes:
        """As bytes: 8 of each number, and one of the answer."""
        return self.steps.astype("<i8").tobytes() + bytes([self.answer])

    @classmethod
    def of(cls, data: bytes) -> Released:
        """The release of :meth:`packed`."""
        return cls(np.frombuffer(data[:-1], dtype="<i8").astype(np.int64), bool(data[-1]))


@dataclass(frozen=True, kw_only=True)
class FeatureLaplace:
    """Local randomiser of one patient, pure ``epsilon`` where the patient's data are replaced.

    A vector is clipped to L1 norm ``norm``, in whole steps of a grid: at most :data:`LEVELS` in
    all, and its sign is turned where the label is 0, which changes no length. So two patients'
    vectors are 2 x LEVELS steps apart at most, whatever their films and labels. Discrete Laplace
    noise of rate ``vector_epsilon`` / (2 x LEVELS) in each of ``components`` coordinates changes
    the probability of any result by e^``vector_epsilon`` (Dwork et al. 2006), randomised response
    that of the label by e^``label_epsilon``; both are drawn apart, so that their epsilons add up.
    Nothing is assumed of where the vector comes from. Raises ``ValueError`` outside the ranges of
    this module.
    """

    epsilon: float
    norm: float
    components: int

    def __post_init__(self) -> None:
        if not SMALLEST <= self.epsilon <= LARGEST:
            raise ValueError(f"epsilon {self.epsilon} is not from {SMALLEST} to {LARGEST}")
        if not (self.norm > 0 and math.isfinite(self.norm)):
            raise ValueError(f"norm {self.norm} must be a number above 0")
        if not 1 <= self.components <= MOST_COMPONENTS:
            raise ValueError(f"components {self.components} is not from 1 to {MOST_COMPONENTS}")
        spent = 2 * LEVELS * self.rate + excess(self.rate, self.bits, self.components)
        if spent > self.vector_epsilon:
            raise ValueError(f"the noise spends {spent}, more than {self.vector_epsilon}")

    @property
    def label_epsilon(self) -> float:
        """Of the label."""
        return LABEL_SHARE * self.epsilon

    @property
    def vector_epsilon(self) -> float:
        """Of the vector."""
        return self.epsilon - self.label_epsilon

    @property
    def rate(self) -> float:
        """Of the discrete Laplace, for each step of the grid."""
        return self.vector_epsilon * (1 - _KEPT) / (2 * LEVELS)

    @property
    def bits(self) -> int:
        """Digits of a released number."""
        return bits_for(self.rate, LEVELS)

    @property
    def width(self) -> float:
        """Of a step of the grid."""
        return self.norm / LEVELS

    @property
    def deviation(self) -> float:
        """Standard deviation of a coordinate's noise, in the vector's own units."""
        return math.sqrt(variance(self.rate)) * self.width

    @property
    def truthful(self) -> float:
        """Probability with which a label is told as it is."""
        return 1 / (1 + math.exp(-self.label_epsilon))

    @property
    def key(self) -> str:
        """Name and parameters: another key is another release of the same patient."""
        return f"feature-laplace-{self.components}-norm-{self.norm!r}-epsilon-{self.epsilon!r}"

    @property
    def words(self) -> str:
        """What is done, in one line."""
        return (
            f"discrete Laplace noise of deviation {self.deviation:.3g} on {self.components} "
            f"features per patient, clipped to L1 norm {self.norm:g} and signed by the label "
            f"(epsilon {self.vector_epsilon:.3g}), and randomised response to the label (epsilon "
            f"{self.label_epsilon:.3g})"
        )

    @property
    def step(self) -> Mechanism:
        """What one release costs a patient whose films and label are replaced."""
        return pure(self.epsilon)

    def rounded(self, vector: NDArray[np.float64]) -> Integers:
        """A vector (k,) in steps of the grid, of L1 norm :data:`LEVELS` at most, whatever it is.

        What is not finite counts as a vector of zeros. The bound is one on whole numbers: rounding
        is toward zero, and where floating point left more steps than LEVELS they are divided once
        more, toward zero again.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            length = float(np.abs(vector).sum())
            scaled = vector * (LEVELS / max(length, self.norm))
        if not (math.isfinite(length) and bool(np.isfinite(scaled).all())):
            return np.zeros(vector.shape, dtype=np.int64)
        steps = np.trunc(np.clip(scaled, -LEVELS, LEVELS)).astype(np.int64)
        total = int(np.abs(steps).sum())
        if total > LEVELS:
            steps = np.sign(steps) * (np.abs(steps) * LEVELS // total)
        return steps

    def release(
        self, vector: NDArray[np.float64], answer: bool, source: NoiseSource, *context: str
    ) -> Released:
        """One patient's release; ``vector`` (k,) of any numbers, ``context`` tells it from all."""
        steps, answers = self.rounded(vector), np.array([answer])
        steps = steps if answer else -steps
        return Released(
            discrete_laplace(steps, self.rate, self.bits, source.key("features", *context)),
            bool(turned(answers, self.label_epsilon, source.key("label", *context))[0]),
        )

    def nobody(self, source: NoiseSource, *context: str) -> Released:
        """The release of a place that no patient takes: noise alone, and a fair coin.

        A patient in that place instead changes every probability by e^``epsilon`` at most.
        """
        zeros = np.zeros(self.components, dtype=np.int64)
        return Released(
            discrete_laplace(zeros, self.rate, self.bits, source.key("features", *context)),
            bool(turned(np.array([False]), 0.0, source.key("label", *context))[0]),
        )

    def vectors(self, steps: Integers) -> NDArray[np.float64]:
        """Released numbers in the vector's own units."""
        result: NDArray[np.float64] = steps.astype(np.float64) * self.width
        return result

    def unbiased(self, answers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Answers (0 or 1) whose expectation is the label's: (y - (1 - p)) / (2 p - 1)."""
        return (answers - (1 - self.truthful)) / (2 * self.truthful - 1)
