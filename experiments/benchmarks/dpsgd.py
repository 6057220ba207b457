"""How fast is a DP-SGD step beside a plain SGD step? Same model, batch and threads, interleaved.

    python -m experiments.benchmarks.dpsgd --size 64 --batch 32 --engines sgd,fedmed,opacus --json

Needs torch, torchvision and what makes noise (opacus where its engine is asked for), on a CPU or
one GPU. Data are noise: the time of a step does not depend on them.
"""

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.models.resnet import resnet18
from fedmed.privacy.gradients import Engine, Options, make_engine
from fedmed.privacy.gradients.memory import keep_freed_memory
from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.noise import NoiseSource

CLIPPING_NORM, NOISE_MULTIPLIER = 1.0, 1.0
ENGINES = ("sgd", "fedmed", "opacus", "opacus-ghost", "loop")
_ENOUGH = 5  # undisturbed rounds below which the disturbed ones count too
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass
class Bench:
    """One engine with a model, a batch and an optimiser of its own."""

    gradient: Callable[[], dict[str, Tensor]]
    finish: Callable[[dict[str, Tensor]], None]  # noise (where there is any) and optimiser step


def build(arguments: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18 with GroupNorm, grey images of noise and labels, on the device."""
    small = arguments.stem == "small"
    model = resnet18(0, stem="small" if small else "imagenet", channels=1)
    made = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 1, arguments.size, arguments.size, generator=made)
    labels = (torch.arange(arguments.batch) % 2).float()
    model, images = model.to(arguments.device), images.to(arguments.device)
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    return model, images, labels.to(arguments.device)


def make(name: str, arguments: argparse.Namespace) -> Bench:
    """The engine ``name``, ready to be timed."""
    model, images, labels = build(arguments)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3, momentum=0.9, foreach=True)
    autocast = PRECISIONS[arguments.precision]

    def step(gradients: dict[str, Tensor]) -> None:
        for parameter_name, parameter in parameters.items():
            parameter.grad = gradients[parameter_name]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if name == "sgd":

        def plain() -> dict[str, Tensor]:
            with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
                logits = model(images)
            loss = binary_cross_entropy_with_logits(logits.float().squeeze(1), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            return {n: p.grad for n, p in parameters.items() if p.grad is not None}

        return Bench(plain, step)
    engine = clipper(name, model, arguments.physical or arguments.batch, options(arguments))
    noise = SumNoise(NoiseSource().normals())

    def clipped() -> dict[str, Tensor]:
        return engine.clipped_sum(images, labels, CLIPPING_NORM).gradients

    def private(gradients: dict[str, Tensor]) -> None:
        step(noise.noised_mean(gradients, NOISE_MULTIPLIER * CLIPPING_NORM, arguments.batch))

    return Bench(clipped, private)


def clipper(name: str, model: nn.Module, physical: int, given: Options) -> Engine:
    """The project's engine of that name, or Opacus' ghost clipping, which only the benchmark has.

    It is no engine of the project: it takes a second backward pass, and clips to a little less
    than the norm.
    """
    if name != "opacus-ghost":
        return make_engine(name, model, physical, given)
    from experiments.benchmarks.ghost import OpacusGhost

    return OpacusGhost(model, physical, given.autocast)


def options(arguments: argparse.Namespace) -> Options:
    """Engine options for the precision that is measured."""
    return Options(autocast=PRECISIONS[arguments.precision])


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Result and seconds, the device's queue included."""
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return result, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Rounds = dict[int, tuple[float, float]]  # seconds of (gradient, gradient + noise + step)


def time_engines(names: list[str], arguments: argparse.Namespace) -> tuple[dict[str, Rounds], int]:
    """Seconds per engine and round, and how many rounds were left out.

    Every round runs the engines one after the other, so that a busy moment of the machine falls on
    all of them; one that is far slower than the fastest takes part in every fourth round. On Linux
    a round is left out where other processes took more than a twentieth of the machine's time,
    unless there are no others.
    """
    benches = {name: make(name, arguments) for name in names}

    def once(name: str) -> tuple[float, float]:
        bench = benches[name]
        gradients, first = timed(bench.gradient, arguments.device)
        _, second = timed(lambda: bench.finish(gradients), arguments.device)
        return first, first + second

    for name in names:
        once(name)
    warm = {name: min(once(name)[1] for _ in range(2)) for name in names}
    slow = {name for name in names if warm[name] > 4 * min(warm.values())}
    quiet: dict[str, Rounds] = {name: {} for name in names}
    disturbed: dict[str, Rounds] = {name: {} for name in names}
    start, number = time.perf_counter(), 0
    while number < arguments.rounds or (
        not arguments.rounds and time.perf_counter() - start < arguments.seconds
    ):
        for turn in (False, True):  # the slow ones apart, so that they spoil no round of the others
            taking = [n for n in names if (n in slow) == turn or (turn and n == "sgd")]
            if turn and (not slow or number % 4):
                continue
            before, own = _machine_seconds(), time.process_time()
            begun = time.perf_counter()
            seconds = {name: once(name) for name in taking}
            machine = (time.perf_counter() - begun) * (os.cpu_count() or 1)
            others = _machine_seconds() - before - (time.process_time() - own)
            kept = quiet if others <= max(0.02, machine / 20) else disturbed
            for name, pair in seconds.items():
                kept[name][2 * number + turn] = pair
        number += 1
    for name in names:
        if len(quiet[name]) < _ENOUGH:
            return {n: quiet[n] | disturbed[n] for n in names}, 0
    return quiet, sum(map(len, disturbed.values()))


def _machine_seconds() -> float:
    """Processor seconds that all processes of this machine have used; 0 where it is not told."""
    if not os.path.exists("/proc/stat"):
        return time.process_time()
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _, _, *interrupts = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def ratio(plain: Rounds, other: Rounds, column: int) -> float:
    """Median over rounds of plain seconds by the other's: what a busy machine disturbs least."""
    return statistics.median(plain[n][column] / other[n][column] for n in other if n in plain)


def peak_memory(name: str, arguments: argparse.Namespace) -> int:
    """Bytes at the peak of three full steps, in a process of its own: resident, or on the GPU."""
    command = [sys.executable, "-m", "experiments.benchmarks.dpsgd", "--peak-of", name]
    for key in ("size", "batch", "stem", "precision", "threads", "physical", "allocator"):
        command += [f"--{key}", str(getattr(arguments, key))]
    command += ["--device", arguments.device.type]
    command += ["--channels-last"] if arguments.channels_last else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: its peak could not be measured:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def own_peak(arguments: argparse.Namespace) -> int:
    """What :func:`peak_memory` runs in the other process."""
    bench = make(arguments.peak_of, arguments)
    for _ in range(3):
        bench.finish(bench.gradient())
    if arguments.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(arguments.device))
    if os.path.exists("/proc/self/status"):  # getrusage starts from the parent's peak on Linux
        with open("/proc/self/status", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def largest_error(name: str, arguments: argparse.Namespace, dtype: torch.dtype) -> float:
    """Largest relative error, in L2 norm, of a parameter's clipped sum against ``loop``.

    On four samples. ReLU has two gradients at 0, and in float32 an activation within rounding of 0
    may take either, by chance: so SiLU stands in for it there. In float64 the network is the one
    that was timed.
    """
    model, images, labels = build(argparse.Namespace(**{**vars(arguments), "batch": 4}))
    model, images, labels = model.to(dtype), images.to(dtype), labels.to(dtype)
    given = Options()
    if dtype == torch.float32:
        given = options(arguments)
        for module in list(model.modules()):
            for child_name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, child_name, nn.SiLU())
    loop = make_engine("loop", copy.deepcopy(model), 4)
    expected = loop.clipped_sum(images, labels, CLIPPING_NORM).gradients
    engine = clipper(name, model, 4, given)
    sums = engine.clipped_sum(images, labels, CLIPPING_NORM).gradients
    engine.close()
    return max(float((sums[key] - value).norm() / value.norm()) for key, value in expected.items())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything the command prints."""
    names: list[str] = arguments.engines
    seconds, left_out = time_engines(names, arguments)
    median = {
        name: [statistics.median(column) for column in zip(*rows.values(), strict=True)]
        for name, rows in seconds.items()
    }
    peaks = {name: peak_memory(name, arguments) for name in names}
    engines = []
    for name in names:
        gradient = sorted(first for first, _ in seconds[name].values())
        entry = {
            "engine": name,
            "images_per_second": arguments.batch / median[name][0],
            "step_seconds": median[name][0],
            "step_seconds_best": gradient[0],
            "step_seconds_quartiles": [
                gradient[len(gradient) // 4],
                gradient[(3 * len(gradient)) // 4],
            ],
            "private_step_seconds": median[name][1],
            "throughput_ratio": None,
            "private_step_ratio": None,
            "peak_memory_bytes": peaks[name],
            "memory_ratio": None,
            "max_relative_error": None,
            "max_relative_error_float64": None,
        }
        if "sgd" in names:
            entry["throughput_ratio"] = ratio(seconds["sgd"], seconds[name], 0)
            entry["private_step_ratio"] = ratio(seconds["sgd"], seconds[name], 1)
            entry["memory_ratio"] = peaks[name] / peaks["sgd"]
        if name != "sgd":
            entry["max_relative_error"] = largest_error(name, arguments, torch.float32)
            entry["max_relative_error_float64"] = largest_error(name, arguments, torch.float64)
        engines.append(entry)
    return {
        "model": f"ResNet-18, GroupNorm(32), {arguments.stem} stem, grey images",
        "size": arguments.size,
        "batch": arguments.batch,
        "physical_batch": arguments.physical or arguments.batch,
        "precision": arguments.precision,
        "channels_last": arguments.channels_last,
        "device": _device_name(arguments.device),
        "threads": torch.get_num_threads(),
        "allocator": arguments.allocator,
        "rounds": max(map(len, seconds.values())),
        "rounds_left_out": left_out,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "engines": engines,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name}, {os.cpu_count()} cores"


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = [
        f"{result['model']}; {result['size']} px, batch {result['batch']}, {result['precision']}, "
        f"{result['device']}, {result['threads']} threads, {result['rounds']} rounds",
        f"{'engine':12} {'images/s':>9} {'step ms':>9} {'quartiles':>15} {'ratio':>6} "
        f"{'private':>8} {'peak MB':>8} {'ratio':>6} {'error':>8} {'in f64':>8}",
    ]
    for entry in result["engines"]:
        low, high = (1e3 * value for value in entry["step_seconds_quartiles"])
        numbers = [
            f"{entry[key]:{form}}" if entry[key] is not None else "-"
            for key, form in (
                ("throughput_ratio", ".2f"),
                ("private_step_ratio", ".2f"),
                ("memory_ratio", ".2f"),
                ("max_relative_error", ".0e"),
                ("max_relative_error_float64", ".0e"),
            )
        ]
        lines.append(
            f"{entry['engine']:12} {entry['images_per_second']:9.1f} "
            f"{1e3 * entry['step_seconds']:9.1f} {f'{low:.1f}-{high:.1f}':>15} {numbers[0]:>6} "
            f"{numbers[1]:>8} {entry['peak_memory_bytes'] / 1e6:8.0f} {numbers[2]:>6} "
            f"{numbers[3]:>8} {numbers[4]:>8}"
        )
    return "\n".join(lines)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a message for what is wrong in it."""
    parser = argparse.ArgumentParser(prog="experiments.benchmarks.dpsgd", description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels, square")
    parser.add_argument("--batch", type=int, default=32, help="samples in a step")
    parser.add_argument("--physical", type=int, default=0, help="samples at a time; 0: the batch")
    parser.add_argument("--engines", default="sgd,fedmed", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--stem", choices=("imagenet", "small"), default="imagenet")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--seconds", type=float, default=30.0, help="time to spend on rounds")
    parser.add_argument("--rounds", type=int, default=0, help="0: as many as fit the seconds")
    parser.add_argument(
        "--allocator",
        choices=("keep", "default"),
        default="keep",
        help="keep: freed memory stays with the process, for every engine, as in fedmed's training",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--peak-of", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.size < 8 or arguments.batch < 1 or min(arguments.physical, arguments.rounds) < 0:
        parser.error("--size is at least 8, --batch at least 1, the others not negative")
    arguments.engines = [name for name in arguments.engines.split(",") if name]
    for name in arguments.engines:
        if name not in ENGINES:
            parser.error(f"--engines: '{name}' is not known; use {', '.join(ENGINES)}")
    if not arguments.engines:
        parser.error(f"--engines: name at least one of {', '.join(ENGINES)}")
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.device = torch.device(arguments.device)
    return arguments


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.allocator == "keep":
        keep_freed_memory()
    if arguments.peak_of:
        print(own_peak(arguments))
        return
    result = measure(arguments)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


if __name__ == "__main__":
    main()
