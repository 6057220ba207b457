"""One step of a mechanism, in the few numbers that decide what it costs.

A mechanism gives accounting its ``dp_accounting`` event and its Rényi divergence, and a ledger the
words that it keeps: all three come from the same frozen object.
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Kind = Literal["gaussian", "laplace", "group-gaussian", "replace-gaussian", "pure"]
Relation = Literal["add-or-remove", "replace-one"]
# Whole orders only: the fractional ones do not converge at small noise.
ORDERS: Final = (*range(2, 33), 40, 48, 64, 96, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """One step, in units of its sensitivity.

    ``gaussian``: noise of ``noise`` x the L2 sensitivity, on a Poisson sample at ``rate`` (1:
    everybody). ``group-gaussian``: the same seen from a person with ``group`` records, each sampled
    on its own. ``replace-gaussian``: the same where another record takes one's place. ``laplace``:
    ``group`` coordinates, each with Laplace noise of scale ``noise`` x its sensitivity, all of
    which one record may change at once. ``pure``: any mechanism of epsilon 1 / ``noise`` at delta 0
    where one record replaces another, counted as the worst of them, which is randomised response
    (Kairouz et al. 2015, Theorem 3.1).
    """

    kind: Kind
    noise: float
    rate: float = 1.0
    group: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"mechanism '{self.kind}' is not known")
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise {self.noise} must be a number above 0")
        if not 0 < self.rate <= 1:
            raise ValueError(f"sampling_rate {self.rate} must be in (0, 1]")
        if self.group < 1:
            raise ValueError(f"group {self.group} must be at least 1")

    @property
    def relation(self) -> Relation:
        """Between which data sets ``event`` tells apart."""
        replaced = self.kind in ("replace-gaussian", "pure")
        return "replace-one" if replaced else "add-or-remove"

    def event(self, count: int) -> "DpEvent":
        """``count`` such steps, as dp-accounting composes them under ``relation``."""
        # dp-accounting takes a second to import: for those who read a ledger's rows it is not.
        from fedmed.privacy.mechanisms.divergences import event

        return event(self, count)

    def rdp(self) -> tuple[float, ...]:
        """Rényi divergence of one step at each of ``ORDERS``, under ``relation``."""
        from fedmed.privacy.mechanisms.divergences import renyi

        return renyi(self)

    def pure_epsilon(self) -> float:
        """Epsilon of one step at delta 0; infinite for Gaussian noise."""
        return self.group / self.noise if self.kind in ("laplace", "pure") else math.inf

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Mechanism":
        """The mechanism of :meth:`to_json`; raises ``ValueError`` or ``TypeError`` for another."""
        return cls(**value)


def gaussian(noise: float, rate: float = 1.0) -> Mechanism:
    """Gaussian noise on a Poisson sample (or on everybody).

    >>> gaussian(1.5, rate=0.1).relation
    'add-or-remove'
    """
    return Mechanism(kind="gaussian", noise=noise, rate=rate)


def replace_gaussian(noise: float, rate: float = 1.0) -> Mechanism:
    """The same where one record is replaced by another: it covers one that is added or removed."""
    return Mechanism(kind="replace-gaussian", noise=noise, rate=rate)


def group_gaussian(noise: float, rate: float, group: int) -> Mechanism:
    """The same for a person with ``group`` records; with one record it is plain Gaussian."""
    if group == 1:
        return gaussian(noise, rate)
    return Mechanism(kind="group-gaussian", noise=noise, rate=rate, group=group)


def laplace(noise: float, coordinates: int) -> Mechanism:
    """Laplace noise on ``coordinates`` numbers.

    >>> laplace(0.5, coordinates=1024).pure_epsilon()
    2048.0
    """
    return Mechanism(kind="laplace", noise=noise, group=coordinates)


def pure(epsilon: float) -> Mechanism:
    """A mechanism of pure ``epsilon``, of which nothing more is known.

    >>> pure(8.0).pure_epsilon()
    8.0
    """
    return Mechanism(kind="pure", noise=1 / epsilon)
