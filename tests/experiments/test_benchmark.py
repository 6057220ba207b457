"""The speed benchmark runs with torch alone and prints what it says it prints."""

import argparse
import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import goes_red

from fedmed.privacy.gradients.forms import gram_product

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "engine",
    "images_per_second",
    "step_seconds",
    "step_seconds_best",
    "step_seconds_quartiles",
    "private_step_seconds",
    "throughput_ratio",
    "private_step_ratio",
    "peak_memory_bytes",
    "memory_ratio",
    "max_relative_error",
    "max_relative_error_float64",
}


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command as a user gives it, or (``code``) python with it."""
    command = ["-c", code] if code else ["-m", "experiments.benchmarks.dpsgd", *arguments]
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_json_holds_every_figure() -> None:
    small = ["--size", "16", "--batch", "4", "--rounds", "2", "--threads", "1", "--stem", "small"]
    done = run(*small, "--engines", "sgd,fedmed", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["size"], result["batch"], result["rounds"]) == (16, 4, 2)
    assert [entry["engine"] for entry in result["engines"]] == ["sgd", "fedmed"]
    for entry in result["engines"]:
        assert set(entry) == KEYS
        assert entry["images_per_second"] == pytest.approx(4 / entry["step_seconds"])
        assert entry["peak_memory_bytes"] > 1e8
        assert entry["private_step_seconds"] >= entry["step_seconds"]
    plain, private = result["engines"]
    assert plain["throughput_ratio"] == plain["memory_ratio"] == 1
    assert plain["max_relative_error"] is None
    assert private["throughput_ratio"] > 0
    assert 0 < private["max_relative_error"] < 1e-3
    assert 0 < private["max_relative_error_float64"] < 1e-5


def test_it_needs_torch_and_what_makes_noise_alone() -> None:
    """Every other package of the project is out of reach."""
    hidden = ["flwr", "ray", "opacus", "pydantic", "pandas", "safetensors", "matplotlib"]
    done = run(
        code=(
            "import sys\n"
            f"for name in {hidden}: sys.modules[name] = None\n"
            "from experiments.benchmarks import dpsgd\n"
            "a = dpsgd.parse(['--size', '16', '--batch', '2', '--rounds', '1'])\n"
            "print(len(dpsgd.time_engines(['sgd', 'fedmed', 'loop'], a)[0]))\n"
        )
    )
    assert done.stdout.strip() == "3", done.stderr[-500:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engines", "sgd,quick"], "'quick' is not known; use sgd, fedmed, opacus, opacus-ghost"),
        (["--engines", ""], "name at least one"),
        (["--size", "4"], "--size is at least 8"),
        (["--batch", "0"], "--batch at least 1"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def load() -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        from experiments.benchmarks import dpsgd
    finally:
        sys.path.remove(str(ROOT))
    return dpsgd


def test_every_round_times_every_engine() -> None:
    """Interleaved: a busy moment of the machine falls on all of them."""
    dpsgd = load()
    order: list[str] = []

    def noted(name: str, _: argparse.Namespace) -> Any:
        return dpsgd.Bench(lambda: order.append(name) or {}, lambda _: None)

    def check(time_engines: Callable[..., Any]) -> None:
        order.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dpsgd, "make", noted)
            time_engines(["sgd", "fedmed"], dpsgd.parse(["--rounds", "3"]))
        assert order[-6:] == ["sgd", "fedmed"] * 3

    def check_paired(ratio: Callable[..., float]) -> None:
        """Twice as slow in every round, and a round that the machine disturbed."""
        plain = {0: (1.0, 1.0), 1: (8.0, 8.0), 2: (1.2, 1.2), 3: (1.0, 1.0)}
        other = {0: (2.0, 2.0), 1: (2.0, 2.0), 2: (2.4, 2.4)}
        assert ratio(plain, other, 0) == pytest.approx(0.5)

    check(dpsgd.time_engines)
    check_paired(dpsgd.ratio)
    goes_red(check_paired, lambda plain, other, _: sum(plain[n][0] / other[n][0] for n in other))

    def one_after_the_other(names: list[str], arguments: argparse.Namespace) -> None:
        for name in names:
            for _ in range(3):
                dpsgd.make(name, arguments).gradient()

    goes_red(check, one_after_the_other)


def test_the_error_is_not_that_of_another_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    dpsgd = load()
    arguments = dpsgd.parse(["--size", "16", "--stem", "small"])

    def check() -> None:
        assert dpsgd.largest_error("fedmed", arguments, torch.float64) < 1e-8

    check()
    monkeypatch.setattr("fedmed.privacy.gradients.bookkeeping.check_against_loop", lambda *_: None)
    monkeypatch.setattr(
        "fedmed.privacy.gradients.rules.linear.gram_product",
        lambda a, g: dataclasses.replace(gram_product(a, g), squares=a.sum((1, 2)) ** 2),
    )
    goes_red(check)


def test_opacus_ghost_clips_the_same_gradients() -> None:
    """In two physical batches; it divides by the norm + 1e-6, so float64 shows about that much."""
    dpsgd = load()
    arguments = dpsgd.parse(["--size", "16", "--stem", "small"])
    model, images, labels = dpsgd.build(argparse.Namespace(**{**vars(arguments), "batch": 5}))
    expected = dpsgd.make_engine("loop", model, 5).clipped_sum(images, labels, 0.5)

    def check(physical: int, norm: float) -> None:
        engine = dpsgd.clipper("opacus-ghost", copy.deepcopy(model), physical, dpsgd.Options())
        found = engine.clipped_sum(images, labels, norm)
        engine.close()
        assert found.clipped == expected.clipped > 0
        for name, value in expected.gradients.items():
            assert float((found.gradients[name] - value).norm() / value.norm()) < 1e-3

    check(5, 0.5)
    check(2, 0.5)
    goes_red(check, 5, 0.4)
