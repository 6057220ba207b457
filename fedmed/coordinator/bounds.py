"""How far one hospital may move the model: the length of its update, its weight, its numbers."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from fedmed.config import Settings
from fedmed.experiment.directory import WAITING, save_arrays
from fedmed.federation.messages import Reply
from fedmed.privacy.mechanisms.grid import Grid
from fedmed.privacy.mechanisms.updates import norm
from fedmed.privacy.plans import GradientPlan, Plan, SummedPlan, UpdatePlan, part

HELD: Final = 8
"""Updates of a first round that wait on the disk until there is something to compare with."""

MISSED: Final = 1e-9
"""Probability that a planned bound is below an honest hospital's noised update."""

_TAIL: Final = math.sqrt(2 * math.log(1 / MISSED))  # P(|N(0, I_d)| > sqrt(d) + t) <= exp(-t^2 / 2)
_ROUNDED: Final = 1.01  # float32 sums, and bfloat16 on the wire: at most 2^-8 of each number
_HONEST: Final = 2  # a shard holds at most so many times the units that were declared


@dataclass
class Bounds:
    """Cuts updates that are longer than they may be, and says whose.

    Everyone may send ``factor`` times the median norm of the others' last updates, of which an even
    number has the upper median, and nobody more than its plan says an update can be (``planned``).
    Beside fewer than two others a median says little: an update as long as the model is then let
    through as well. Norms and order are those of the hospitals' list, so that a sum is the same
    wherever hospitals run. Of one member alone nothing is cut.
    """

    factor: float
    planned: Callable[[], Mapping[str, float]] = dict
    spool: Path | None = None  # folder of updates that wait; None: they wait in memory
    norms: dict[str, float] = field(default_factory=dict)  # of each hospital's last update, cut
    cut: list[dict[str, Any]] = field(default_factory=list)  # in the present round
    _planned: Mapping[str, float] = field(default_factory=dict)

    def within(
        self, replies: Iterable[Reply], members: Iterable[str], model: Callable[[], float]
    ) -> Iterator[Reply]:
        """The updates in their order, none longer than it may be.

        ``members`` are all that were asked; ``model`` gives the norm of their model, and is called
        before the first reply or not at all.
        """
        self.cut = []
        names = {*members}
        if len(names) < 2:
            yield from replies
            return
        self._planned = self.planned()
        known = min(len(self._others(name, names)) for name in names)
        own = model() if known < 2 else 0.0
        comparable = known >= min(2, len(names) - 1)
        waiting = _Waiting(self.spool)
        try:
            for reply in replies:
                size = norm(reply.update or {})
                if comparable:
                    yield self._held_to(self._limit(reply.hospital, names, own), reply, size)
                else:
                    self.norms[reply.hospital] = size
                    waiting.put(reply)
                    comparable = len(waiting) == HELD
                    if comparable:
                        yield from self._compared(waiting, names, own)
                del reply  # or its update would stay until the next one is there
            yield from self._compared(waiting, names, own)
        finally:
            waiting.close()

    def _compared(self, waiting: "_Waiting", names: set[str], own: float) -> Iterator[Reply]:
        """What waited: each against all others, as they were sent."""
        sizes = dict(self.norms)
        limits = {name: self._limit(name, names, own) for name in sizes}
        while len(waiting):
            reply = waiting.take()
            yield self._held_to(limits[reply.hospital], reply, sizes[reply.hospital])
            del reply

    def _limit(self, hospital: str, names: set[str], own: float) -> float:
        others = self._others(hospital, names)
        if len(others) < 2:
            others.append(own / self.factor)
        return min(self.factor * _upper_median(others), self._planned.get(hospital, math.inf))

    def _others(self, hospital: str, names: set[str]) -> list[float]:
        return [size for name, size in self.norms.items() if name != hospital and name in names]

    def _held_to(self, limit: float, reply: Reply, size: float) -> Reply:
        self.norms[reply.hospital] = min(size, limit)
        if size <= limit:
            return reply
        self.cut.append({"hospital": reply.hospital, "norm": size, "bound": limit})
        # In two steps: the quotient alone can be too small for float32.
        shorter = {n: v / size * limit for n, v in (reply.update or {}).items()}
        return replace(reply, update=shorter)


class _Waiting:
    """Replies that wait, first in first out, with their updates on the disk."""

    def __init__(self, folder: Path | None) -> None:
        self._parent, self._folder = folder, ""
        self._replies: list[tuple[Reply, list[str], Path]] = []

    def __len__(self) -> int:
        return len(self._replies)

    def put(self, reply: Reply) -> None:
        """Keep a reply; its update goes to the disk where there is a folder for it."""
        arrays = reply.update or {}
        path = Path()
        if self._parent is not None:
            if not self._folder:
                self._folder = tempfile.mkdtemp(dir=self._parent, prefix=WAITING)
            path = Path(self._folder) / str(len(self._replies))
            save_arrays(path, arrays)
            reply = replace(reply, update=None)
        self._replies.append((reply, list(arrays), path))

    def take(self) -> Reply:
        """The one that has waited longest; its arrays may be pages of its file."""
        reply, order, path = self._replies.pop(0)
        if self._parent is None:
            return reply
        with safe_open(path, "pt") as opened:
            return replace(reply, update={name: opened.get_tensor(name) for name in order})

    def close(self) -> None:
        """Remove what is on the disk."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def planned_bounds(
    settings: Settings, plans: Mapping[str, Plan], parameters: int
) -> dict[str, float]:
    """L2 norms that updates have at most by each hospital's own plan, where it says so.

    ``parameters`` is how many numbers are trained. Under ``local-update`` an update is one of norm
    C at most and noise of deviation s, so that it is longer than C + s (sqrt(d) + t) with
    probability :data:`MISSED`. Under DP-SGD with plain or momentum SGD, a step moves the model by
    its gradient and those before it, together lr / (1 - momentum) times each: over T steps of
    batches of B, at most N C / B for N sampled units and noise of deviation z C sqrt(T) / B.
    """
    bounds = {}
    for name, plan in plans.items():
        update, gradient = part(plan, UpdatePlan), part(plan, GradientPlan)
        if update is not None and update.placement == "hospital":
            length = update.clipping_norm + _noise(update.noise_standard_deviation, parameters)
        elif gradient is not None and _plain(settings):
            steps, batch = gradient.steps_per_round, gradient.expected_batch
            units = most_units(steps * batch)
            deviation = gradient.noise_standard_deviation * math.sqrt(steps)
            length = gradient.clipping_norm * units + _noise(deviation, parameters)
            train = settings.train
            length *= train.learning_rate / (1 - train.momentum) / batch
        else:
            continue
        bounds[name] = length * _ROUNDED
    return bounds


def most_units(expected: float) -> float:
    """Units that Poisson samples of so many declared ones hold at most, but for :data:`MISSED`.

    P(Poisson(m) >= m + x) <= exp(-x^2 / (2 (m + x / 3))), for twice as many units as declared.
    """
    mean = _HONEST * expected
    return mean + _TAIL * math.sqrt(mean) + _TAIL**2 / 3


def largest_number(plan: SummedPlan, units: float, grid: Grid) -> int:
    """What a coordinate of one hospital's rounded sum can hold, in steps of the grid.

    Each of its units adds the clipping norm at most. No whole number in a sum is moved further
    than another by a cut at it, so that the sensitivity stays as it is, whatever is sent.
    """
    most = min(most_units(plan.rate * units), _HONEST * units)
    length = most * plan.clipping_norm * _ROUNDED
    return min(grid.limit, math.ceil(length / grid.step))


def _plain(settings: Settings) -> bool:
    """Whether nothing but gradients moves the model, and those in proportion."""
    train = settings.train
    return train.optimizer == "sgd" and not train.weight_decay and not train.proximal


def _noise(deviation: float, parameters: int) -> float:
    return deviation * (math.sqrt(parameters) + _TAIL)


def believed(sizes: Mapping[str, int], factor: float) -> dict[str, float]:
    """Declared sizes, each at most ``factor`` times the (upper) median of the others'."""
    limits = {}
    for name, size in sizes.items():
        others = [other for known, other in sizes.items() if known != name]
        limits[name] = min(float(size), factor * _upper_median(others)) if others else float(size)
    return limits


def _upper_median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def capped(sizes: Mapping[str, int], share: float) -> dict[str, float]:
    """Sizes as weights, the largest cut so that none is more than ``share`` of their sum.

    All are equal where there are too few for that (``share`` times their number at most 1).
    """
    if share * len(sizes) <= 1:
        return dict.fromkeys(sizes, 1.0)
    falling: Sequence[int] = sorted(sizes.values(), reverse=True)
    limit, cut = share * sum(falling), 0
    while falling[cut] > limit * (1 + 1e-9):
        cut += 1  # the largest ones are c each: c = share (cut c + the rest)
        limit = share * sum(falling[cut:]) / (1 - share * cut)
    return {name: min(float(size), limit) for name, size in sizes.items()}
