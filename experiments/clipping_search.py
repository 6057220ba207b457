"""Can any weights, activations and labels make one sample count for more than C? A search.

    python -m experiments.clipping_search --tries 120000 --seed 1 --out clipping_search.json

Layers of every rule (and small networks) get hostile inputs, output gradients and weights: large
constants, sums that cancel to the last bit, magnitudes from 1e-30 to 1e30. What one sample adds to
the clipped sum is measured in float64, alone and by difference from a batch without it, and divided
by C. Half of the tries are drawn, half are mutations of the worst found so far. Beside it stands
the rule that this search was written against: a ghost norm taken as computed, cut at 0 from below.
"""

import argparse
import itertools
import json
import logging
import math
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedmed.models.resnet import StandardisedWeight
from fedmed.privacy.gradients import Clipping, Engine, Loss, Options, bookkeeping, make_engine
from fedmed.privacy.gradients.bounds import Bound

TOLERANCE = 1e-4  # what the ratio may exceed 1 by
_KEPT = 4  # worst attempts of a configuration that are mutated


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 2, height, width) to the same."""
        result: Tensor = self.layer(self.layer(x))
        return result


class Frozen(nn.Sequential):
    """Stays in evaluation mode."""

    def train(self, mode: bool = True) -> "Frozen":
        """``mode`` is not followed."""
        return super().train(False)


def standardised(layer: nn.Module) -> nn.Module:
    """``layer`` with standardised weights."""
    parametrize.register_parametrization(layer, "weight", StandardisedWeight())
    return layer


def network() -> nn.Module:
    """Two convolutions with norms between them, and a head."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 1, stride=2, bias=False),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 1),
    )


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, Case] = {
    "linear": (lambda: nn.Linear(6, 3), (6,)),
    "linear, 16 positions": (lambda: nn.Linear(5, 4), (16, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 12)),
    "conv1d, stride, dilation": (
        lambda: nn.Conv1d(2, 3, 4, stride=3, padding=2, dilation=2),
        (2, 15),
    ),
    "conv2d 1x1": (lambda: nn.Conv2d(4, 3, 1, bias=False), (4, 4, 4)),
    "conv2d 3x3": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 5, 5)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 4, 4)),
    "conv2d, depthwise, stride": (lambda: nn.Conv2d(4, 4, 3, stride=2, groups=4), (4, 7, 7)),
    "conv2d, circular": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
        (2, 4, 4),
    ),
    "conv2d, reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 4, 4)),
    "conv2d, one position": (lambda: nn.Conv2d(4, 3, 3, padding=1), (4, 1, 1)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 4, 3, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 4, 4)),
    "layer norm": (lambda: nn.LayerNorm(6), (5, 6)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
    "frozen batch norm": (lambda: Frozen(nn.BatchNorm2d(3)), (3, 4, 4)),
    "embedding": (lambda: nn.Embedding(6, 3), (8,)),
    "weight standardisation": (
        lambda: standardised(nn.Conv2d(3, 4, 3, padding=1, bias=False)),
        (3, 4, 4),
    ),
    "shared": (Shared, (2, 4, 4)),
    "network": (network, (1, 8, 8)),
}
Configuration = tuple[str, str, int, str, str]  # case, engine, views, precision, clipping
ENGINES = ("fedmed", "fedmed ghost", "fedmed direct", "loop", "opacus")


@dataclass(frozen=True)
class Attempt:
    """Hostile numbers: ``inputs`` and ``slopes`` (output gradients) for each row, and C."""

    inputs: Tensor
    slopes: Tensor
    weights: list[Tensor]
    bound: float


def slope(outputs: Tensor, slopes: Tensor) -> Tensor:
    """A loss whose gradient at the output is what the labels say."""
    return (outputs.float().flatten(1) * slopes).sum()


def drawn(shape: tuple[int, ...], made: torch.Generator, kind: int | None = None) -> Tensor:
    """A hostile array (rows, ...): one of several shapes of numbers, at any magnitude."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=made))

    values = torch.randn(shape, generator=made)
    kind = pick(6) if kind is None else kind
    exponent = float(torch.rand((), generator=made) * 2 - 1)
    if kind == 1:  # nearly constant
        values = 1 + values * 10.0 ** -(pick(8))
    elif kind == 2 and len(shape) > 2:  # sums over some of the axes cancel
        values = values - values.mean(list(range(1 + pick(2), len(shape) - pick(2))), keepdim=True)
    elif kind == 3 and shape[-1] > 1:  # pairs that cancel exactly
        half = shape[-1] // 2
        values[..., half : 2 * half] = -values[..., :half]
    elif kind == 4:  # magnitudes apart
        values = values * 10.0 ** (torch.rand(shape, generator=made) * 40 - 20)
    elif kind == 5:  # few that are not zero
        values = values * (torch.rand(shape, generator=made) < 0.2)
    return (values * 10.0 ** (exponent * (pick(4) * 10 + 2))).clamp(-3e38, 3e38)


def mutated(values: Tensor, made: torch.Generator) -> Tensor:
    """``values`` a little or a lot changed."""
    pick = int(torch.randint(4, (), generator=made))
    noise = torch.randn(values.shape, generator=made)
    if pick == 0:
        return values * 10.0 ** float(torch.randn((), generator=made))
    if pick == 1:
        return values * (1 + noise * 10.0 ** -float(torch.rand((), generator=made) * 7))
    if pick == 2:
        return values + noise * values.abs().mean()
    return values


class Target:
    """One layer or network under one engine."""

    def __init__(self, case: str, engine: str, options: Options, views: int) -> None:
        make, shape = CASES[case]
        torch.manual_seed(0)
        self.case, self.views, self.shape = case, views, shape
        self.model = make()
        self.model.train()
        self.whole_numbers = case == "embedding"
        with torch.no_grad():
            self.width = self.model(self._inputs(torch.zeros(1, *shape))).numel()
        self.engine: Engine
        if engine.startswith("fedmed"):
            form: Any = engine.partition(" ")[2] or None
            self.engine = bookkeeping.BookkeepingEngine(self.model, 8, options, form)
        else:
            self.engine = make_engine(engine, self.model, 8, options)
        rows = 2 * views  # the check before the first step, on honest weights
        self.engine.clipped_sum(
            self._inputs(torch.ones(rows, *shape)), torch.ones(rows, self.width), 1.0, views
        )

    def _inputs(self, values: Tensor) -> Tensor:
        return values.abs().log1p().long() % 6 if self.whole_numbers else values

    def attempt(self, samples: int, made: torch.Generator) -> Attempt:
        """A drawn one of that many samples."""
        rows = samples * self.views
        # In half of them large constants meet sums of zero, where a ghost norm cancels.
        kinds = (1, 2) if torch.rand((), generator=made) < 0.5 else (None, None)
        slopes = drawn((rows, *self._outputs()), made, kinds[1]).flatten(1)
        weights = [
            drawn(tuple(p.shape), made) if torch.rand((), generator=made) < 0.5 else p.detach()
            for p in self.model.parameters()
        ]
        bound = 10.0 ** float(torch.rand((), generator=made) * 8 - 5)
        return Attempt(drawn((rows, *self.shape), made, kinds[0]), slopes, weights, bound)

    def _outputs(self) -> tuple[int, ...]:
        with torch.no_grad():
            return tuple(self.model(self._inputs(torch.zeros(1, *self.shape))).shape[1:])

    def sum(self, attempt: Attempt, rows: list[int]) -> Tensor:
        """The clipped sum of some rows, all parameters in one array, float64."""
        clipped = self.engine.clipped_sum(
            self._inputs(attempt.inputs[rows]), attempt.slopes[rows], attempt.bound, self.views
        )
        return torch.cat([value.double().flatten() for value in clipped.gradients.values()])

    def ratios(self, attempt: Attempt) -> tuple[float, float]:
        """Contribution / C of the first sample: alone, and by difference."""
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), attempt.weights, strict=True):
                parameter.copy_(value)
        rows = list(range(len(attempt.inputs)))
        alone = self.sum(attempt, rows[: self.views])
        ratio = float(alone.norm()) / attempt.bound
        if len(rows) == self.views:
            return ratio, ratio
        moved = self.sum(attempt, rows) - self.sum(attempt, rows[self.views :])
        return ratio, float(moved.norm()) / attempt.bound


class Failures(logging.Handler):
    """Counts sums that the engine itself found to be above their bound, and silences them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One more, where it is an error: a warning says that samples are computed one by one."""
        self.count += record.levelno >= logging.ERROR


@contextmanager
def as_computed() -> Iterator[None]:
    """The rule that was: norms as computed, cut at 0 from below, and nothing looked at again."""
    norms, loose, holds = Bound.norms, Bound.loose, bookkeeping.holds
    try:
        bookkeeping.holds = lambda *_: True  # type: ignore[assignment]
        Bound.norms = lambda self: self.squares.clamp(min=0).sqrt()  # type: ignore[method-assign]
        Bound.loose = lambda self, _: self.squares.isnan()  # type: ignore[method-assign]
        yield
    finally:
        Bound.norms, Bound.loose = norms, loose  # type: ignore[method-assign]
        bookkeeping.holds = holds


def worst_of(target: Target, tries: int, made: torch.Generator) -> dict[str, float]:
    """Largest ratios over ``tries`` attempts, half of them mutations of the worst."""
    best: list[tuple[float, int, Attempt]] = []
    ratios = {"alone": 0.0, "difference": 0.0, "as_computed": 0.0}
    for number in range(tries):
        samples = (1, 3)[number % 8 == 0]
        if number % 2 and best:
            origin = best[int(torch.randint(len(best), (), generator=made))][2]
            attempt = replace(
                origin,
                inputs=mutated(origin.inputs, made).clamp(-3e38, 3e38),
                slopes=mutated(origin.slopes, made).clamp(-3e38, 3e38),
                weights=[mutated(value, made).clamp(-3e38, 3e38) for value in origin.weights],
            )
        else:
            attempt = target.attempt(samples, made)
        alone, moved = target.ratios(attempt)
        before = 0.0
        if number % 8 in (0, 3):
            with as_computed():
                before = target.ratios(attempt)[0]
        for name, value in (("alone", alone), ("difference", moved), ("as_computed", before)):
            ratios[name] = max(ratios[name], value if math.isfinite(value) else math.inf)
        # The old rule's ratio shows how far rounding went; the new one's is flat at 1.
        best.append((max(moved, before), number, attempt))
        best.sort(key=lambda entry: entry[:2], reverse=True)
        del best[_KEPT:]
    return ratios


def configurations() -> list[Configuration]:
    """What is searched."""
    combinations = []
    for case, engine in itertools.product(CASES, ENGINES):
        for views, precision, kind in (
            (1, "float32", "flat"),
            (2, "float32", "automatic"),
            (1, "bfloat16", "flat"),
        ):
            if engine == "opacus" and (
                precision != "float32"
                or case in ("frozen batch norm", "weight standardisation", "shared")
                or "circular" in case
                or "reflect" in case
            ):
                continue  # no bfloat16, no buffers, no parametrisation; other paddings are its own
            combinations.append((case, engine, views, precision, kind))
    return combinations


def searched(number: int, wanted: Configuration, tries: int, seed: int) -> dict[str, Any]:
    """One configuration."""
    case, engine, views, precision, kind = wanted
    torch.set_num_threads(1)
    failures, log = Failures(), logging.getLogger("fedmed.privacy")
    log.addHandler(failures)
    autocast = torch.bfloat16 if precision == "bfloat16" else None
    options = Options(Loss(slope), Clipping(kind), autocast)  # type: ignore[arg-type]
    target = Target(case, engine, options, views)
    ratios = worst_of(target, tries, torch.Generator().manual_seed(seed * 10_000 + number))
    target.engine.close()
    log.removeHandler(failures)
    return {
        "case": case,
        "engine": engine,
        "views": views,
        "precision": precision,
        "clipping": kind,
        "tries": tries,
        "sums_found_above_their_bound": failures.count,
        **ratios,
    }


def search(tries: int, seed: int, workers: int = 1) -> dict[str, Any]:
    """All configurations, ``tries`` attempts in all (or a few more), in ``workers`` processes."""
    started, wanted = time.monotonic(), configurations()
    each = -(-tries // len(wanted))
    count = len(wanted)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(searched, range(count), wanted, [each] * count, [seed] * count))
    return {
        "tries": each * count,
        "seed": seed,
        "largest_ratio": max(max(row["alone"], row["difference"]) for row in rows),
        "largest_ratio_as_computed": max(row["as_computed"] for row in rows),
        "sums_found_above_their_bound": sum(row["sums_found_above_their_bound"] for row in rows),
        "tolerance": TOLERANCE,
        "seconds": round(time.monotonic() - started, 1),
        "workers": workers,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "configurations": rows,
    }


def main(given: list[str] | None = None) -> None:
    """Search, print the largest ratios, write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    result = search(arguments.tries, arguments.seed, arguments.workers)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['tries']} tries in {result['seconds']} s, seed {result['seed']}")
    print(f"largest contribution / C: {result['largest_ratio']:.8f}")
    print(f"sums that the engine found above their bound: {result['sums_found_above_their_bound']}")
    print(f"norms as computed would allow: {result['largest_ratio_as_computed']:.3g}")


if __name__ == "__main__":
    main()
