"""What every plan gives: to training its numbers, to accounting its mechanism, to readers words."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from fedmed.base.errors import UserError
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.step import Mechanism
from fedmed.privacy.statement import facts
from fedmed.privacy.statement.facts import Facts, Party

P = TypeVar("P")
Payer = Literal["hospital", "server", "nobody"]


_STEPS = 64
_SMALLEST, _LARGEST = 1e-30, 1e30  # far from where float32 loses digits (1e-38) or ends (3e38)


def check_noise(deviation: float, bound: float, divisor: float, grid: float = 2.0**-52) -> None:
    """Noise on a sum of norm up to ``bound``, both divided by ``divisor`` afterwards, is not lost.

    Its deviation is at least 64 steps of a number as large as ``bound`` whose steps are ``grid`` of
    its size (by default float64, in which noise is added), and a normal number of float32 far from
    either end before and after the division. All of it is public. Raises :class:`UserError`.
    """
    fits = min(deviation, deviation / divisor) > _SMALLEST and max(deviation, bound) < _LARGEST
    if not (fits and deviation >= _STEPS * grid * bound):
        raise UserError(
            f"privacy.clipping-norm: noise of deviation {deviation:.3g} on a sum up to {bound:.3g} "
            f"(divided by {divisor:g}) is lost in rounding; raise privacy.noise-multiplier, lower "
            "privacy.epsilon or train.batch-size, or bring privacy.clipping-norm nearer to 1"
        )


@dataclass(frozen=True, kw_only=True)
class Words:
    """A plan in the words of a statement, made from its ``facts`` and read by people alone.

    ``released`` lists what leaves whoever is trusted.
    """

    facts: Facts
    mechanism: str
    sampling: str
    released: tuple[str, ...]
    accountant: str = accounting.ACCOUNTANT
    not_covered: tuple[str, ...] = field(default=())

    @property
    def neighbouring(self) -> str:
        """What may differ between two data sets."""
        return facts.neighbours(self.facts.unit, self.facts.relation, self.facts.changes)

    @property
    def trust(self) -> str:
        """Who must be trusted."""
        return facts.trust(self.facts.trusted)


class Plan(Protocol):
    """The privacy parameters of an arm at one member, fixed before training.

    ``steps`` private steps are planned, ``steps_per_round`` in each round, and ``payer``'s ledger
    pays for them. A plan that claims nothing has no ``step`` and the unit ``none``; ``delta`` is 0
    where the guarantee is pure.
    """

    @property
    def unit(self) -> str:
        """Whose data one epsilon protects."""
        ...

    @property
    def payer(self) -> Payer:
        """Whose ledger pays for each round."""
        ...

    @property
    def delta(self) -> float:
        """Of the guarantee."""
        ...

    @property
    def steps(self) -> int:
        """Private steps of the whole run."""
        ...

    @property
    def steps_per_round(self) -> int:
        """Private steps of one round."""
        ...

    @property
    def step(self) -> Mechanism | None:
        """The mechanism of one step, seen from the plan's unit; None where nothing is claimed."""
        ...

    def cost(self, unit: str) -> Mechanism | None:
        """One step seen from another ``unit``; None where it gives that unit no guarantee."""
        ...

    def spent(self, taken: int | None = None) -> accounting.Spent:
        """What ``taken`` steps (by default those planned) compose."""
        ...

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Epsilon after ``taken`` steps at ``delta`` (the plan's own); None: nothing is claimed.

        A pure guarantee has the same epsilon at every delta.
        """
        ...

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Epsilon where one unit's data are replaced by others, not added or removed."""
        ...

    def per_patient(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Epsilon for one patient where the unit is smaller; None where none is claimed."""
        ...

    def noise_to_signal(self, parameters: int) -> float | None:
        """Expected norm of a step's noise over the largest norm that its signal can have.

        ``parameters`` is how many numbers are trained. From the plan alone: no data are read.
        """
        ...

    def facts(self, scheme: str) -> Facts:
        """What is guaranteed, under a training scheme (federated, pooled, local-only)."""
        ...

    def words(self, scheme: str) -> Words:
        """The plan in words, under a training scheme."""
        ...

    @property
    def parts(self) -> tuple["Plan", ...]:
        """The plan, or what it is made of."""
        ...


class Common:
    """What most plans share."""

    def cost(self: Plan, unit: str) -> Mechanism | None:
        """See :class:`Plan`."""
        return self.step if unit == self.unit else None

    def spent(self: Plan, taken: int | None = None) -> accounting.Spent:
        """See :class:`Plan`."""
        count = self.steps if taken is None else taken
        return () if self.step is None else ((self.step, count),)

    def per_patient(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """See :class:`Plan`."""
        return None

    @property
    def parts(self: Plan) -> tuple[Plan, ...]:
        """See :class:`Plan`."""
        return (self,)


class Once(Common):
    """What is drawn once, before anything is trained, under a pure guarantee."""

    @property
    def payer(self) -> Payer:
        """Nobody, round by round: the hospital pays once, for the release."""
        return "nobody"

    @property
    def delta(self) -> float:
        """The guarantee is pure."""
        return 0.0

    @property
    def steps(self) -> int:
        """One release."""
        return 1

    @property
    def steps_per_round(self) -> int:
        """None: the release comes before the rounds."""
        return 0


def part(plan: Plan, kind: type[P]) -> P | None:
    """The plan's part of a kind, or None where it has none."""
    return next((item for item in plan.parts if isinstance(item, kind)), None)


def holder(scheme: str) -> Party:
    """Who holds the training images."""
    return "pool" if scheme == "pooled" else "hospital"


def everyone(scheme: str) -> Party:
    """Who has to be trusted where nothing is guaranteed."""
    return "recipients" if scheme == "local-only" else "everyone"


def leaving(scheme: str) -> str:
    """What an unprotected run lets out."""
    if scheme == "local-only":
        return "the hospital's own model after every round; nothing is shared between hospitals"
    if scheme == "pooled":
        return "all images and labels, to one place; the model after every round"
    return "the update of every round, to the server"
