"""Training images and noised test images: what is scored, and what it must never cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import goes_red, make, refuses, tiny_shard
from support.runs import tiny_text

from fedmed.base import files
from fedmed.cli.progress import Silent
from fedmed.coordinator.steps import extra_sets
from fedmed.data.released import released_shard
from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.hospital.refusals import Refusal
from fedmed.hospital.terms import Site, review
from fedmed.launch import run_inline
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource

TEXT = tiny_text(
    ["none", "brightness-shift", "pixel-laplace", "local-only"],
    """
[evaluation]
train-metrics = true
noised-test = true
curves = true
resamples = 200
[arm.brightness-shift.privacy]
laplace-scale = 1.0
clip-released = true
[arm.pixel-laplace.privacy]
laplace-scale = 1.0
""",
    patients=120,
    train="learning-rate = 0.05",
)

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


def results(tmp_path: Path, *, text: str = TEXT) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The experiment of this module, run in this process."""
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    path.write_text(text)
    found = run_experiment(load_experiment(path), out, run_inline, Silent())
    return out, {one["name"]: one for one in found}


def test_training_and_noised_test_images_are_scored_beside_the_clean_test(tmp_path: Path) -> None:
    out, found = results(tmp_path)
    none, shift = found["none"], found["brightness-shift"]
    assert "metrics_noised" not in none
    assert none["at_half"].keys() == {"test", "train"}
    assert shift["at_half"].keys() == {"test", "train", "noised"}
    tests = none["metrics"]["n_test"]
    assert none["metrics_train"]["n_test"] == none["at_half"]["train"]["images"] > tests
    assert none["metrics_train"]["auroc_interval"] is None
    assert shift["metrics_noised"]["n_test"] == tests
    assert shift["metrics_noised"]["auroc_interval"] is not None
    # One threshold, from the clean validation images, for all three.
    assert shift["metrics_noised"]["threshold"] == shift["metrics"]["threshold"]
    # Another AUROC would not do: on a few test images the same order is a matter of luck.
    assert shift["metrics_noised"]["brier"] != shift["metrics"]["brier"]
    assert found["local-only"]["metrics_train"]["n_test"] == none["metrics_train"]["n_test"]
    lines = (out / "brightness-shift/seed-0/history.jsonl").read_text().splitlines()
    curves = [json.loads(line)["curves"] for line in lines]
    # Before the first round no hospital has noised its images, and an evaluation never does.
    assert [set(one) for one in curves] == [
        {"test", "noised"},
        {"test", "noised", "train"},
        {"test", "noised", "train"},
    ]
    assert curves[-1] == shift["at_half"]


def test_an_evaluation_of_training_images_releases_nothing(tmp_path: Path) -> None:
    """More noise on a training image would be another release that nobody paid for."""
    settings = make(privacy={"arm": "pixel-laplace", "laplace-scale": 1.0})
    shard, mechanism = tiny_shard(seed=77), PixelLaplace(1.0, 256)

    def evaluated() -> None:
        with pytest.raises(extra_sets._NotReleased):
            extra_sets._released(shard, mechanism, settings)
        extra_sets.noised_copy(shard, mechanism)

    drawn_nothing(evaluated)
    goes_red(drawn_nothing, lambda: released_shard(shard, mechanism, NoiseSource()))
    # What the hospital has released is read again, the very same noise.
    read = extra_sets._released(shard, mechanism, settings)
    np.testing.assert_array_equal(
        read.images, released_shard(shard, mechanism, NoiseSource()).images
    )


def drawn_nothing(call: Any) -> None:
    """No release is assembled by ``call``."""
    before = sorted((files.home() / "cache").glob("released/*"))
    call()
    assert sorted((files.home() / "cache").glob("released/*")) == before


def test_every_arm_meets_the_same_noised_test_images() -> None:
    shard, mechanism = tiny_shard(), PixelLaplace(2.0, 256)
    first, again = (extra_sets.noised_copy(shard, mechanism) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, extra_sets.noised_copy(shard, PixelLaplace(1.0, 256)))
    # No two images share their noise, and clipping is that of the release.
    noise = first - shard.images / np.float32(255)
    assert abs(float(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1])) < 0.5
    clipped = extra_sets.noised_copy(shard, mechanism, clip=True)
    assert (clipped.min(), clipped.max()) == (0.0, 1.0)


def test_a_hospital_with_files_of_its_own_refuses_metrics_on_training_images(
    tmp_path: Path,
) -> None:
    """In a real federation no server reads a training image."""
    asked = make(
        data={"patients": 120}, run={"out": str(tmp_path)}, evaluation={"train-metrics": True}
    )
    site = Site(ledger=str(tmp_path / "ledger.jsonl"))

    def refused(settings: Any) -> None:
        refuses(lambda: review(settings, 0, 1, site), "plan", error=Refusal)

    refused(asked)
    goes_red(refused, asked.replaced({"evaluation.train-metrics": False}))
    assert review(asked, 0, 1).accepts  # a simulation


def test_the_statement_says_that_no_epsilon_covers_training_metrics(tmp_path: Path) -> None:
    text = TEXT.replace(
        'arms = ["none", "brightness-shift", "pixel-laplace", "local-only"]',
        'arms = ["pixel-laplace"]',
    ).replace("[arm.brightness-shift.privacy]\nlaplace-scale = 1.0\nclip-released = true\n", "")
    out, _ = results(tmp_path, text=text)
    told = json.loads((out / "pixel-laplace/seed-0/privacy.json").read_text())["not_covered"]
    assert any("evaluation.train-metrics" in one for one in told)
    rows = [
        json.loads(line)
        for path in (out / "ledgers").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert rows  # the hospitals' own releases, one each


def test_the_server_needs_images_for_extra_sets() -> None:
    refuses(
        lambda: make(evaluation={"where": "hospitals", "noised-test": True}),
        "evaluation.noised-test",
        "evaluation.where",
    )
