"""From mechanisms to epsilon and back, by Google's dp-accounting, and what an attacker gains.

Privacy loss distributions (PLD) compose numerically (Koskela et al. 2020; Doroshenko et al. 2022)
and give an upper bound on epsilon. Rényi accounting (Mironov 2017) stands beside it: it brackets
the search for a noise multiplier, and it is what a ledger adds up across plans.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import numpy as np
from dp_accounting import ComposedDpEvent, DpEvent
from dp_accounting import NeighboringRelation as Neighbouring
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.special import ndtri

from fedmed.base.errors import UserError
from fedmed.privacy.accounting.renyi import Spent, rdp, rdp_epsilon
from fedmed.privacy.mechanisms.step import Mechanism, Relation, gaussian, replace_gaussian

ACCOUNTANT: Final = f"privacy loss distribution, dp-accounting {version('dp-accounting')}"
LARGEST_NOISE: Final = 1e4
MOST_STEPS: Final = 1_000_000
# By how large a share the discretisation may overstate epsilon (it never understates it): in the
# search for a noise multiplier, and in the number that is reported.
_COARSE: Final = 1e-2
_FINE: Final = 1e-4
_BRACKET_ORDERS: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_SMALLEST: Final = 1e-7  # a smaller interval than this costs time and shows nothing
_AIM: Final = 1 - 2.5e-4  # share of a target epsilon that the search for a noise goes for
_LOUD: Final = 0.05  # scale of Laplace noise, in sensitivities
_RELATIONS: Final[dict[Relation, Neighbouring]] = {
    "add-or-remove": Neighbouring.ADD_OR_REMOVE_ONE,
    "replace-one": Neighbouring.REPLACE_ONE,
}

_STEPS: Final[dict[Relation, Callable[[float, float], Mechanism]]] = {
    "add-or-remove": gaussian,
    "replace-one": replace_gaussian,
}


@dataclass(frozen=True)
class Risk:
    """What the guarantee means to an attacker who guesses between two neighbouring data sets.

    ``mu``: the run is mu-Gaussian-DP (Dong et al. 2022) at false-positive rates down to delta;
    ``advantage``: largest true- minus false-positive rate; ``tpr_at_fpr_001``: power at 1 % false
    positives. All from the run's own PLD (Kulynych et al. 2024, Algorithm 1).
    """

    mu: float
    advantage: float
    tpr_at_fpr_001: float


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    relation: Relation = "add-or-remove",
) -> float:
    """Epsilon at ``delta`` of ``steps`` Poisson-sampled Gaussian steps, by PLD.

    Zero steps cost nothing; without noise epsilon is infinite. Raises ``ValueError`` outside
    ``noise_multiplier >= 0``, ``0 < sampling_rate <= 1``, ``steps >= 0``, ``0 < delta < 1``.

    >>> round(epsilon(1.0, sampling_rate=0.01, steps=1000, delta=1e-5), 2)
    1.83
    >>> round(epsilon(1.0, 0.01, 1000, 1e-5, relation="replace-one"), 2)
    2.84
    """
    if not (noise_multiplier >= 0 and math.isfinite(noise_multiplier)):
        raise ValueError(f"noise_multiplier {noise_multiplier} must be a number >= 0")
    if noise_multiplier == 0 and steps > 0:
        return math.inf
    if steps == 0:
        return 0.0
    step = _STEPS[relation](noise_multiplier, sampling_rate)
    return composed_epsilon(((step, steps),), delta)


@functools.lru_cache(maxsize=4096)
def composed_epsilon(
    spent: Spent, delta: float, relation: Relation = "add-or-remove", accuracy: float = _FINE
) -> float:
    """Epsilon at ``delta`` of everything in ``spent``, composed by PLD.

    Each mechanism under its own relation, or where a record is replaced under all of them:
    ``replace-one`` is known for (sampled) Gaussians alone. Raises ``ValueError`` for ``delta``
    outside (0, 1) and counts below 0.

    >>> two = ((gaussian(1.0, 0.01), 500), (gaussian(2.0, 0.05), 100))
    >>> round(composed_epsilon(two, 1e-5), 2)
    1.71
    """
    _check(spent, delta)
    # A Laplace coordinate that gives its value away has a loss that no grid holds: added up.
    loud = tuple((m, n) for m, n in spent if m.kind == "laplace" and m.noise < _LOUD)
    spent = tuple(item for item in spent if item not in loud and item[1])
    if loud or not spent:
        return _pure(loud) + (composed_epsilon(spent, delta, relation, accuracy) if spent else 0.0)
    by_pld = float(_pld(spent, delta, relation, accuracy).get_epsilon_for_delta(delta))
    return min(by_pld, _pure(spent))


@functools.lru_cache(maxsize=4096)
def risk(spent: Spent, delta: float) -> Risk:
    """What ``spent`` means to an attacker, each mechanism under its relation, by riskcal.

    >>> attack = risk(((gaussian(1.0, 0.01), 1000),), 1e-5)
    >>> round(attack.mu, 2), round(attack.advantage, 2), round(attack.tpr_at_fpr_001, 3)
    (0.46, 0.16, 0.029)
    """
    # riskcal takes a second to import, which nobody but the reader of these numbers should wait for
    from riskcal.analysis import get_advantage_from_pld, get_beta_from_pld

    _check(spent, delta)
    if not any(count for _, count in spent):
        return Risk(0.0, 0.0, 0.01)
    pld = _pld(spent, delta, "add-or-remove", _FINE)
    # Both ends of the curve down to delta: below, it is delta's event that decides.
    low = np.geomspace(delta, 0.5, 200)
    alphas = np.concatenate([low, 1 - low[::-1]])
    betas = np.clip(np.asarray(get_beta_from_pld(pld, alphas)), 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mus = ndtri(1 - alphas) - ndtri(betas)
    # Where beta itself is below delta the same holds by symmetry, and ndtri(0) is no number.
    usable = betas >= delta
    mu = float(np.max(mus[usable])) if usable.any() else math.inf
    advantage = float(get_advantage_from_pld(pld))
    power = float(1 - get_beta_from_pld(pld, 0.01))
    if power < 0.01:
        # Less than guessing: losses below the grid's steps, which riskcal rounds to either side.
        # The advantage is of the same distribution and rounded up; no rate gains more than it.
        power = 0.01 + advantage
    # mu-Gaussian-DP is an advantage of 2 Phi(mu / 2) - 1 (Dong et al. 2022), so it is no less.
    least = 2.0 * float(ndtri(0.5 + 0.5 * advantage))
    return Risk(mu=max(least, mu), advantage=advantage, tpr_at_fpr_001=power)


@functools.lru_cache(maxsize=4096)
def noise_multiplier(
    target: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    relation: Relation = "add-or-remove",
) -> float:
    """Smallest noise multiplier (to 0.1 %) whose PLD epsilon at ``delta`` is at most ``target``.

    Bracketed by Rényi accounting, searched on a coarse discretisation, which can only overstate
    epsilon, and checked on the fine one. Raises :class:`UserError` where no noise up to 1e4 is
    enough.

    >>> sigma = noise_multiplier(3.0, delta=1e-5, sampling_rate=0.01, steps=1000)
    >>> round(sigma, 3), epsilon(sigma, 0.01, 1000, 1e-5) <= 3.0
    (0.814, True)
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be >= 1")
    if not (target > 0 and math.isfinite(target)):
        raise ValueError(f"target epsilon {target} must be a number above 0")
    if steps > MOST_STEPS:
        raise UserError(
            f"{steps} private steps are more than can be accounted; keep to {MOST_STEPS}: lower "
            "train.rounds or train.local-epochs, or raise train.batch-size"
        )

    @functools.cache
    def excess(log_sigma: float) -> float:
        spent = ((_STEPS[relation](math.exp(log_sigma), sampling_rate), steps),)
        pld = _compose(spent, "add-or-remove", target, _COARSE)
        return math.log(max(float(pld.get_epsilon_for_delta(delta)), 1e-12) / target)

    start = _by_rdp(target, delta, sampling_rate, steps)
    bottom, top = _bracket(excess, start) if start <= LARGEST_NOISE else (start, start)
    if top > math.log(LARGEST_NOISE):
        raise UserError(
            f"privacy.epsilon = {target:g} at delta = {delta:g} cannot be reached in {steps} "
            "steps; raise epsilon, or lower train.rounds"
        )
    root = float(brentq(excess, bottom, top, xtol=1e-3))
    slope = (excess(top) - excess(bottom)) / (top - bottom)
    # What the coarse grid overstates is given back along the slope, on the fine grid.
    sigma = math.exp(root)
    for _ in range(3):
        # The number that is reported: where it fits already, the last check costs nothing.
        reported = epsilon(sigma, sampling_rate, steps, delta, relation)
        error = math.log(max(reported, 1e-12) / (target * _AIM))
        if abs(error) < 2e-4:
            break
        if not slope < -0.01:
            break
        sigma *= math.exp(min(0.2, max(-0.2, -error / slope)))
    while epsilon(sigma, sampling_rate, steps, delta, relation) > target:
        sigma *= 1.0005
    return sigma


def _bracket(excess: Callable[[float], float], start: float) -> tuple[float, float]:
    """Two log noises, one with too much epsilon and one with enough noise, from ``start``."""
    top = math.log(start)
    while excess(top) > 0 and top <= math.log(LARGEST_NOISE):
        top += math.log(1.25)
    bottom = top - math.log(1.3)
    while excess(bottom) <= 0:
        top, bottom = bottom, bottom - math.log(1.3)
    return bottom, top


def _by_rdp(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """A noise multiplier that is enough by Rényi accounting, to a tenth.

    For an epsilon so small that it is beyond the orders kept: about what a Gaussian limit says.
    """

    def enough(sigma: float) -> bool:
        return _few_orders([gaussian(sigma, sampling_rate).event(steps)], delta) <= target

    high = 1.0
    while not enough(high):
        high *= 2
        if high > LARGEST_NOISE:
            return sampling_rate * math.sqrt(2 * steps * math.log(1.25 / delta)) / target
    low = high / 2
    while enough(low) and low > 0.02:
        high, low = low, low / 2
    for _ in range(3):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _few_orders(events: Sequence[DpEvent], delta: float) -> float:
    accountant = RdpAccountant(_BRACKET_ORDERS)
    accountant.compose(ComposedDpEvent(list(events)))
    bound: float = accountant.get_epsilon(delta)
    return bound


def _pld(
    spent: Spent, delta: float, relation: Relation, accuracy: float
) -> PrivacyLossDistribution:
    """The privacy loss distribution, on a grid as fine as the size of epsilon needs."""
    return _compose(spent, relation, _size(spent, delta, relation), accuracy)


def _compose(
    spent: Spent, relation: Relation, size: float, accuracy: float
) -> PrivacyLossDistribution:
    """The composition on a grid that overstates an epsilon of about ``size`` by ``accuracy``."""
    events: dict[Relation, list[DpEvent]] = {}
    for mechanism, count in spent:
        replaced = "replace-one" in (relation, mechanism.relation)
        if count:
            own: Relation = "replace-one" if replaced else "add-or-remove"
            events.setdefault(own, []).append(mechanism.event(count))
    interval = _interval(spent, size, accuracy)
    plds = [_composed(own, told, interval) for own, told in events.items()]
    return functools.reduce(lambda one, other: one.compose(other), plds)


def _composed(
    relation: Relation, events: list[DpEvent], interval: float
) -> PrivacyLossDistribution:
    accountant = PLDAccountant(_RELATIONS[relation], interval)
    accountant.compose(ComposedDpEvent(events))
    # The accountant has no name for what it composes; a pinned version keeps this true.
    pld: PrivacyLossDistribution = accountant._pld
    return pld


def _pure(spent: Spent) -> float:
    """Epsilon at delta 0."""
    return sum(m.pure_epsilon() * count for m, count in spent if count)


@functools.lru_cache(maxsize=4096)
def _size(spent: Spent, delta: float, relation: Relation) -> float:
    """Roughly epsilon: by Rényi accounting, or where that is far off by a PLD on few points."""
    replaced = "replace-one" in (relation, *(m.relation for m, _ in spent))
    sampled = all(mechanism.kind in ("gaussian", "replace-gaussian") for mechanism, _ in spent)
    if sampled:
        rough = _few_orders([m.event(count) for m, count in spent if count], delta)
    else:
        rough = rdp_epsilon(rdp(spent), delta)
    rough = min(rough, _pure(spent))
    if replaced:
        rough *= 2
    elif 0.1 < rough < 100 and sampled:
        return rough
    coarse = float(_compose(spent, relation, rough, _COARSE).get_epsilon_for_delta(delta))
    return max(_SMALLEST, min(rough, coarse))


def _interval(spent: Spent, size: float, accuracy: float) -> float:
    """Discretisation interval for an epsilon of about ``size``.

    Each of T sampled steps overstates the loss by about the interval squared over two (measured:
    0.1 to 0.6 of it); the loss of a Laplace coordinate or an answer must be resolved besides.
    """
    sampled = sum(count for m, count in spent if m.rate < 1)
    wanted = min(size / 100, math.sqrt(2 * accuracy * size / max(1, sampled)))
    for mechanism, count in spent:
        if mechanism.kind in ("laplace", "pure") and count:
            # Many coordinates make a long grid: then fewer points for each.
            points = min(100.0, max(4.0, 200_000 / (mechanism.group * count)))
            wanted = min(wanted, 1 / mechanism.noise / points, 10.0)
    return max(_SMALLEST, wanted)


def _check(spent: Spent, delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} must be in (0, 1)")
    for _, count in spent:
        if count < 0:
            raise ValueError(f"steps {count} must be >= 0")
