"""Can a hostile server tell from a guard's answers whether one patient is there?

    python -m experiments.distinguish --out experiments/results/distinguish.json

Two guards whose sites differ by one patient are asked the same. **Pairs**: whatever is asked, the
answers may differ in numbers under noise alone: kind, code, names, sizes and forms are the same.
**Trials**: for each arm that protects, 2 x ``trials`` fresh requests under weights that make the
patient's film overflow (``trap``), or that turn all the film does in one direction (``aligned``).
On one half the best statistic and threshold is chosen, on the other a lower bound of epsilon is
computed from Clopper-Pearson intervals at 95 % together; it may not pass the claim.
"""

import argparse
import logging
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from experiments import guard_pairs as pairs
from experiments.guard_broken import BROKEN
from experiments.guard_pairs import SIZE, TARGETS, VARIANTS, Site, Variant, form
from fedmed.base import files, machine
from fedmed.base.errors import RunError
from fedmed.config import Scalar, from_flat
from fedmed.privacy.gradients import preflight
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.updates import GaussianNoise, clip
from fedmed.privacy.plans import UpdatePlan, part
from fedmed.privacy.plans.making import make_plan
from fedmed.site.requests import Request, write_request

EPSILON: Final = 1.0
DELTA: Final = 1e-3
BATCH: Final = 50  # requests that a pair of guards is asked before a new one takes its place
RECORDED: Final = 500  # pairs after which the record is written again
UNSCORED: Final = (2e-4, 0.3)
Attack = Literal["trap", "aligned"]
ATTACKS: Final[tuple[Attack, ...]] = ("trap", "aligned")
RELEASES: Final = (*pairs.ARMS, "evaluation")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """What the pairs showed: how many answers were alike, by kind and code, and those not alike."""

    requests: int
    answered: int
    codes: dict[str, int]
    different: list[str]

    def __add__(self, other: "Compared") -> "Compared":
        codes = Counter(self.codes) + Counter(other.codes)
        return Compared(
            self.requests + other.requests,
            self.answered + other.answered,
            dict(sorted(codes.items())),
            self.different + other.different,
        )


@dataclass(frozen=True)
class Bound:
    """What the trials of one arm and attack showed; ``rates`` are (with, without) on one half."""

    arm: str
    attack: str
    trials: int
    claim: float
    lower_bound: float
    statistic: str
    rates: tuple[float, float]


def compare(
    requests: int, seed: int, folder: Path, variants: tuple[Variant, ...], first: int = 0
) -> Compared:
    """Ask ``requests`` hostile requests of pairs of guards, from the ``first`` of a seed on.

    The engine's check draws its own images, which no data change: both guards of a pair are given
    the same ones, so that what it refuses by chance it refuses to both.
    """
    codes: Counter[str] = Counter()
    different: list[str] = []
    answered = 0
    for start in range(first, first + requests, BATCH):
        variant = variants[start // BATCH % len(variants)]
        rng = random.Random(f"{seed}:{start}")
        asked = [pairs.hostile_request(rng) for _ in range(min(BATCH, first + requests - start))]
        with tempfile.TemporaryDirectory(dir=folder) as name:
            forms = [_forms(Site(Path(name) / kind, kind), asked) for kind in ("whole", variant)]
        for request, ours, theirs in zip(asked, *forms, strict=True):
            codes[f"{request.kind} {ours.get('error', 'answered')}"] += 1
            answered += "error" not in ours
            if ours != theirs:
                changed = {k: v for k, v in request.config.items() if pairs.CONFIG.get(k) != v}
                different.append(f"{variant}: {request.kind} {changed}: {ours} and {theirs}")
    return Compared(requests, answered, dict(sorted(codes.items())), different)


def _forms(site: Site, asked: list[Request]) -> list[dict[str, Any]]:
    forms = []
    for number, request in enumerate(asked):
        draws = SimpleNamespace(randbits=random.Random(number).getrandbits)
        with mock.patch.object(preflight, "secrets", draws):
            forms.append(form(*site.answer(*write_request(request))))
    return forms


def bound(arm: str, attack: Attack, trials: int, folder: Path) -> Bound:
    """A lower bound of epsilon from 2 x ``trials`` requests of one arm."""
    plot = _Plot(arm, attack)
    present, absent = (
        np.array(list(plot.statistics(variant, trials, folder)))
        for variant in ("whole", plot.without)
    )
    half = trials // 2
    best, rates, name = 0.0, (0.0, 0.0), ""
    chosen = _choose(present[:half], absent[:half])
    if chosen is not None:
        column, threshold, sign = chosen
        counts = [
            int((sign * values[half:, column] >= sign * threshold).sum())
            for values in (present, absent)
        ]
        left = trials - half
        rates = (counts[0] / left, counts[1] / left)
        best, name = lower_bound(counts[0], counts[1], left), plot.names[column]
    return Bound(arm, attack, trials, plot.claim, best, name, rates)


def lower_bound(first: int, second: int, trials: int, delta: float = DELTA) -> float:
    """Epsilon that (epsilon, delta) must at least be where an event came so often of ``trials``.

    Both intervals hold together with 95 % (97.5 % each side that counts); the event and its
    complement are read from the same two intervals, in both directions.
    """
    low = [_limit(count, trials, upper=False) for count in (first, second)]
    high = [_limit(count, trials, upper=True) for count in (first, second)]
    epsilon = 0.0
    for p_low, q_high in (
        (low[0], high[1]),
        (low[1], high[0]),
        (1 - high[0], 1 - low[1]),
        (1 - high[1], 1 - low[0]),
    ):
        if p_low > delta and q_high > 0:
            epsilon = max(epsilon, math.log((p_low - delta) / q_high))
    return epsilon


def _limit(count: int, trials: int, *, upper: bool) -> float:
    """One limit of a Clopper-Pearson interval; four limits of 1.25 % each hold with 95 %."""
    if upper:
        return 1.0 if count == trials else float(beta.ppf(0.9875, count + 1, trials - count))
    return 0.0 if count == 0 else float(beta.ppf(0.0125, count, trials - count + 1))


def _choose(present: Array, absent: Array) -> tuple[int, float, int] | None:
    """The column, threshold and direction with the largest bound on these trials."""
    best: tuple[float, tuple[int, float, int]] | None = None
    for column in range(present.shape[1]):
        values = np.concatenate([present[:, column], absent[:, column]])
        for threshold in np.unique(np.quantile(values, np.linspace(0, 1, 101))):
            for sign in (1, -1):
                counts = [
                    int((sign * side[:, column] >= sign * threshold).sum())
                    for side in (present, absent)
                ]
                epsilon = lower_bound(counts[0], counts[1], len(present))
                if best is None or epsilon > best[0]:
                    best = epsilon, (column, float(threshold), sign)
    return None if best is None or best[0] == 0 else best[1]


class _Plot:
    """One attack on one arm: what is asked, and what is read from the answers."""

    names: Final = ("code", "projection", "norm", "largest", "zeros")

    def __init__(self, arm: str, attack: Attack) -> None:
        self.arm, self.attack, self.claim = arm, attack, EPSILON
        self.kind = "evaluate" if arm == "evaluation" else "train"
        images = arm in ("pixel-laplace", "dp-pix")
        # Image noise protects pixels, not that an image is there.
        self.without: Variant = "film" if images else "absent"
        if arm == "evaluation":
            self.without = "test-absent"
        self.fresh = images  # noise is drawn once for an image, unless what was drawn is gone
        self.config = self._config()
        self.model = aligned()
        if attack == "trap":
            self.model = trap(*UNSCORED) if self.kind == "evaluate" else trap()
        settings = from_flat({**pairs.CONFIG, **self.config, "data.source": "phantom"})
        self.plan = make_plan(settings, 16, "st-mary", 16)
        self.direction = self._direction()

    def _config(self) -> dict[str, Scalar]:
        arm = "dp-sgd" if self.arm == "evaluation" else self.arm
        settings: dict[str, Scalar] = {
            "privacy.arm": arm,
            "privacy.epsilon": EPSILON,
            "privacy.delta": DELTA,
            "train.rounds": 1,
            "train.batch-size": 16,  # everybody in the one step: no sampling helps
            "train.learning-rate": 10.0 if self.attack == "trap" else 1.0,
        }
        if arm == "dp-pix":
            settings |= {"privacy.cell": 8, "privacy.neighbourhood": SIZE * SIZE}
        return settings

    def statistics(self, variant: Variant, trials: int, folder: Path) -> Iterator[list[float]]:
        """Of each of ``trials`` answers of guards of a site, one row."""
        for start in range(0, trials, BATCH):
            with tempfile.TemporaryDirectory(dir=folder) as name:
                site = Site(Path(name) / "site", variant)
                for number in range(start, min(start + BATCH, trials)):
                    if self.fresh:
                        site.draw_again()
                    changes: dict[str, Any] = {"model": self.model}
                    if self.kind == "evaluate":
                        changes["edges"] = (0.2, 0.4, 0.6, 0.8)
                    asked = pairs.request(self.kind, f"run-{number}", self.config, **changes)
                    header, arrays = site.answer(*write_request(asked))
                    yield self._read(header, arrays)

    def _read(self, header: dict[str, Any], arrays: dict[str, Tensor]) -> list[float]:
        if "error" in header:
            return [1.0, 0.0, 0.0, 0.0, 0.0]
        if self.kind == "train" and self.arm.startswith("central-"):
            arrays = self._served(arrays)
        row = _flat(arrays)
        size = float(row.norm())
        scale = size if self.direction is None else float(row @ self.direction)
        return [0.0, scale, size, float(row.abs().max()), float((row == 0).double().mean())]

    def _served(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is released of an update under a central arm: the server's noise is on it."""
        plan = part(self.plan, UpdatePlan)
        if plan is None:
            raise RunError(f"{self.arm} has no noise of the server's")
        noise = GaussianNoise(plan.noise_standard_deviation)
        return noise.add(clip(arrays, plan.clipping_norm), NoiseSource().normals("server"))

    def _direction(self) -> Tensor | None:
        """Unit vector in which the patient moves an answer most, as far as a server can know."""
        if self.kind == "evaluate":
            return _cells(self.model)
        network = pairs.small_network()
        network.load_state_dict(self.model)
        film, label, _ = pairs.films("whole")[TARGETS[0]]
        given = ((torch.from_numpy(film).float() / 255 - 0.5) / 0.25)[None, None]
        loss = binary_cross_entropy_with_logits(network(given)[0], torch.tensor([float(label)]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        row = -_flat({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
        return row / row.norm() if bool(torch.isfinite(row).all()) and row.norm() > 0 else None


def _cells(model: dict[str, Tensor]) -> Tensor:
    """The cells in which the test's target is counted: everybody's, unknown sex, unknown age."""
    network = pairs.small_network()
    network.load_state_dict(model)
    film, label, _ = pairs.films("whole")[TARGETS[1]]
    given = ((torch.from_numpy(film).float() / 255 - 0.5) / 0.25)[None, None]
    with torch.no_grad():
        logit = float(network(given)[0])
    score = 1 / (1 + math.exp(-max(min(logit, 50.0), -50.0))) if math.isfinite(logit) else 0.5
    column = int(np.searchsorted((0.2, 0.4, 0.6, 0.8), score, side="right"))
    rows = []
    for groups in (1, 3, 6):
        cells = torch.zeros(2, groups, 2, 5, dtype=torch.float64)
        cells[1, groups - 1, label, column] = 1
        rows.append(cells.flatten())
    return torch.cat(rows)


def aligned() -> dict[str, Tensor]:
    """Weights under which the target's film alone excites the last layer."""
    model = pairs.model()
    chequers = torch.from_numpy(np.where(np.indices((3, 3)).sum(0) % 2, 1.0, -1.0)).float()
    model["0.weight"] = torch.zeros(4, 1, 3, 3)
    model["0.weight"][::2, 0] = chequers * 1e-4  # the norm's epsilon keeps weak films weak
    model["0.bias"] = torch.zeros(4)
    model["1.weight"], model["1.bias"] = torch.full((4,), 10.0), torch.zeros(4)
    model["4.weight"], model["4.bias"] = torch.zeros_like(model["4.weight"]), torch.zeros(1)
    return model


def trap(kernel: float = 1e-4, cut: float = 0.4) -> dict[str, Tensor]:
    """The same, but what is below the target's contrast is cut off, and the target overflows.

    The first layer answers the target with 0.5 behind its norm, other films with 0.15 at most and
    noise, such as the made-up images of the engine's own check, with a standard deviation of 0.095.
    Only what is above ``cut`` passes the ReLU, times 8.5e18: of the target the gradient is no
    number of float32, of all else it is finite. ``UNSCORED`` is for evaluation, where no noise has
    to be cut off: there the target's logit is infinite. Norms stay in the range of float32.
    """
    model = aligned()
    model["0.weight"][1::2] = -model["0.weight"][::2]  # the mean of each group of the norm is 0
    model["0.weight"] *= kernel / 1e-4
    model["1.weight"] = torch.tensor([8.5e18, 0.0, 8.5e18, 0.0])
    model["1.bias"] = torch.full((4,), -cut * 8.5e18)
    last = torch.zeros(1, 4, SIZE // 2, SIZE // 2)
    last[:, ::2, 1:, 1:] = 1.7e18
    model["4.weight"] = last.flatten(1)
    return model


def _flat(arrays: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in arrays.values()])


def check(compared: Compared | None, bounds: list[Bound]) -> list[str]:
    """What is wrong, in words; empty where nothing is."""
    wrong = [f"another form: {text}" for text in compared.different] if compared else []
    return wrong + [
        f"{b.arm}, {b.attack}: at least epsilon {b.lower_bound:.2f} where {b.claim:g} is claimed"
        for b in bounds
        if b.lower_bound > b.claim
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Tell a patient from a guard's answers.")
    parser.add_argument("--requests", type=int, default=10_000, help="of pairs; 0 = none")
    parser.add_argument("--trials", type=int, default=1_000, help="each way; 0 = none")
    parser.add_argument("--arms", default=",".join(RELEASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="a fast disk for the sites")
    parser.add_argument("--out", type=Path, default=None, help="a record to write or to add to")
    parser.add_argument("--broken", choices=BROKEN, help="a guard that must be found out")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    wrong: list[str] = []
    with pairs.small_models(), BROKEN[given.broken]() if given.broken else nullcontext():
        if given.requests:
            start = time.monotonic()
            compared = Compared(0, 0, {}, [])
            for first in range(0, given.requests, RECORDED):
                asked = min(RECORDED, given.requests - first)
                compared += compare(asked, given.seed, given.folder, VARIANTS, first)
                print(f"{compared.requests} pairs, {len(compared.different)} differ", flush=True)
                _record(given.out, "pairs", given.seed, start, asdict(compared))
            wrong += check(compared, [])
        for arm in filter(None, given.arms.split(",") if given.trials else []):
            for attack in attacks_on(arm):
                start = time.monotonic()
                epsilon_bound = bound(arm, attack, given.trials, given.folder)
                print(
                    f"{arm}, {attack}: epsilon at least {epsilon_bound.lower_bound:.2f}", flush=True
                )
                wrong += check(None, [epsilon_bound])
                _record(
                    given.out,
                    " ".join(filter(None, (arm, attack, given.broken))),
                    given.seed,
                    start,
                    asdict(epsilon_bound),
                )
    for text in wrong[:20]:
        print(f"error: {text}")
    raise SystemExit(bool(wrong))


def attacks_on(arm: str) -> tuple[Attack, ...]:
    """Under noise on images every film looks alike to a trap."""
    return ("aligned",) if arm in ("pixel-laplace", "dp-pix") else ATTACKS


def _record(out: Path | None, what: str, seed: int, start: float, figures: dict[str, Any]) -> None:
    """Add what was found to the record, with machine and time, and leave the rest of it."""
    if out is None:
        return
    record = files.read_json(out) if out.exists() else {}
    about = {"seed": seed, "seconds": round(time.monotonic() - start)}
    record |= {"machine": machine.describe(), "versions": machine.versions()}
    record[what] = about | figures
    files.write_json(out, record)


if __name__ == "__main__":
    main()
