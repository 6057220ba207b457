"""Where a step's time goes, beside plain SGD, and the floor below which this design cannot go.

    python -m experiments.benchmarks.profile --size 64 --batch 32

Every clipped step must run the forward pass, the gradients of activations, the gradients of weights
and, in deep layers, inner products for the norms. The first three are plain SGD's step; in early
layers per-sample gradients take the place of the weight gradients. So the floor is SGD's step plus
the matrix products of the ghost norms.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from experiments.benchmarks import dpsgd
from fedmed.privacy.gradients import bookkeeping, correlation
from fedmed.privacy.gradients.memory import keep_freed_memory
from fedmed.privacy.gradients.tape import Tape


def profile(arguments: argparse.Namespace, rounds: int) -> dict[str, dict[str, float]]:
    """Fewest milliseconds of each part, for plain SGD and for fedmed, interleaved.

    The fewest, because other processes only ever add.
    """
    model, images, labels = dpsgd.build(arguments)
    engine = bookkeeping.BookkeepingEngine(model, arguments.batch)
    spent: dict[str, float] = defaultdict(float)
    started: list[float] = []

    def clocked(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            start = time.perf_counter()
            result = work(*given)
            spent[part] += 1e3 * (time.perf_counter() - start)
            return result

        return run

    def sgd() -> None:
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        loss = binary_cross_entropy_with_logits(model(images).squeeze(1), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        spent["step"] = 1e3 * (time.perf_counter() - start)

    def clipped() -> None:
        start = time.perf_counter()
        engine.clipped_sum(images, labels, dpsgd.CLIPPING_NORM)
        spent["step"] = 1e3 * (time.perf_counter() - start)

    model.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
    model.register_forward_hook(
        lambda *_: spent.update(forward=1e3 * (time.perf_counter() - started.pop()))
    )
    Tape.caught = clocked("caught", Tape.caught)  # type: ignore[method-assign]  # timed in place
    Tape.norms = clocked("norms", Tape.norms)  # type: ignore[method-assign]  # timed in place
    Tape.weighted_sum = clocked("sums", Tape.weighted_sum)  # type: ignore[method-assign]  # timed in place
    correlation._gram = clocked("products", correlation._gram)
    torch.Tensor.backward = clocked("backward", torch.Tensor.backward)  # type: ignore[method-assign]  # timed in place
    timings: dict[str, list[dict[str, float]]] = {"sgd": [], "fedmed": []}
    for number in range(rounds + 2):
        for name, work in (("sgd", sgd), ("fedmed", clipped)):
            spent.clear()
            work()
            if number > 1:
                timings[name].append(dict(spent))
    return {
        name: {
            part: min(row.get(part, 0.0) for row in rows)
            for part in dict.fromkeys(key for row in rows for key in row)
        }
        for name, rows in timings.items()
    }


def report(timings: dict[str, dict[str, float]]) -> str:
    """The parts and the floor as a table."""
    plain, ours = timings["sgd"], timings["fedmed"]
    step = plain["step"]
    activations = ours["backward"] - ours["caught"]
    floor = step + ours["products"]
    lines = [
        ("forward", plain["forward"], ours["forward"]),
        ("gradients of activations", activations, activations),
        ("gradients of weights", plain["backward"] - activations, ours["sums"]),
        ("norms, per-sample gradients", 0.0, ours["caught"] + ours["norms"]),
        ("  of that, ghost products", 0.0, ours["products"]),
        ("step", step, ours["step"]),
        ("floor: SGD + ghost products", step, floor),
        ("share of SGD's throughput", 1.0, step / ours["step"]),
        ("the most this design can reach", 1.0, step / floor),
    ]
    head = f"{'':32} {'sgd':>8} {'fedmed':>8}   milliseconds"
    return "\n".join([head, *(f"{name:32} {a:8.2f} {b:8.2f}" for name, a, b in lines)])


def main() -> None:
    """Measure on the CPU and print."""
    parser = argparse.ArgumentParser(prog="experiments.benchmarks.profile", description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels, square")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    keep_freed_memory()
    arguments = dpsgd.parse(["--size", str(given.size), "--batch", str(given.batch)])
    arguments.device = torch.device("cpu")
    print(report(profile(arguments, given.rounds)))


if __name__ == "__main__":
    main()
