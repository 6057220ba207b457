"""Where federated evaluation goes wrong: each mistake's test, and the broken code that fails it."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import goes_red, make, use_tiny_models

from fedmed.config import ARMS
from fedmed.data.network import evaluation_shard
from fedmed.evaluation.pooled.histograms import Spec, equal_width
from fedmed.federation import messages
from fedmed.federation.messages import Histograms
from fedmed.hospital import histograms as module
from fedmed.hospital import hospital as hospital_module
from fedmed.hospital.hospital import Hospital
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import NoPrivacy
from fedmed.privacy.plans.evaluation import evaluation_plan

EDGES = equal_width(8)
# feature-laplace needs the server's images, where the server scores them.
PRIVATE = [arm.name for arm in ARMS.values() if arm.protects and arm.plan != "features"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_tiny_models(monkeypatch)
    hospital_module._model.cache_clear()
    yield
    hospital_module._model.cache_clear()


def release(arm: str, folder: Path, run: str = "a run") -> Histograms:
    settings = make(
        data={"patients": 60, "hospitals": 2},
        privacy={"arm": arm, "epsilon": 5.0, "delta": 1e-3},
        evaluation={"where": "hospitals"},
    )
    shard = evaluation_shard(settings.data, "hospital-1")
    ledger = Ledger(folder / f"{arm}.sqlite")
    one = Hospital("hospital-1", settings, shard, NoPrivacy(), ledger, NoiseSource())
    network = hospital_module.models.build(settings.model, settings.data.image_size, 0)
    return module.evaluate(one, run, messages.parameters_of(network), {}, EDGES)


def check_noised(arm: str, folder: Path) -> None:
    """Every cell moved, by the planned amount, differently in another run, and it was paid for.

    The sum of squares of 192 or more Gaussians is within half and twice its mean: the false alarm
    is below 1e-6.
    """
    first, second = release(arm, folder), release(arm, folder, "another run")
    assert first.counts is not None
    assert second.counts is not None
    plan = evaluation_plan(
        make(privacy={"arm": arm, "epsilon": 5.0, "delta": 1e-3}, evaluation={"where": "both"})
    )
    assert plan is not None
    deviation = plan.deviation(Spec(edges=EDGES, cap=1))
    moved = np.concatenate([(first.counts[f] - second.counts[f]).ravel() for f in first.counts])
    assert np.abs(moved).min() > 0
    assert 0.5 < float((moved**2).mean()) / (2 * deviation**2) < 2
    rows = Ledger(folder / f"{arm}.sqlite").rows()
    assert [row.kind for row in rows] == ["plan", "reserve", "commit"] * 2


@pytest.mark.parametrize("arm", PRIVATE)
def test_histograms_are_noised_under_a_private_arm(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact counts beside a noised update are a release that bypasses it."""
    check_noised(arm, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(module, "noised", lambda counts, *_: counts)
        goes_red(check_noised, arm, tmp_path / "no noise")
    real = module.noised
    with monkeypatch.context() as patch:
        patch.setattr(module, "noised", lambda c, deviation, g: real(c, deviation / 3, g))
        goes_red(check_noised, arm, tmp_path / "too little")
    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluation_plan", lambda settings: None)
        goes_red(check_noised, arm, tmp_path / "taken for unprotected")


def largest_move(spec: Spec) -> float:
    """L2 distance that a patient with three films of one kind makes in what is counted."""

    def counted(patients: int) -> dict[str, Any]:
        rows = 3 * patients
        return module.count(
            spec,
            splits=["test"] * rows,
            labels=[1] * rows,
            scores=[0.5] * rows,
            images=[f"film-{n}" for n in range(rows)],
            patients=[f"p{n // 3}" for n in range(rows)],
            groups={name: ["unknown"] * rows for name in spec.attributes},
        )

    ours, theirs = counted(2), counted(1)
    return math.sqrt(sum(float(((ours[f] - theirs[f]) ** 2).sum()) for f in ours))


def check_sensitivity(spec: Spec, sensitivity: Callable[[Spec], float]) -> None:
    assert largest_move(spec) <= sensitivity(spec) + 1e-12


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_sensitivity_counts_overlapping_histograms(
    cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image is in the histogram of everybody, of its sex and of its age: it moves all three."""
    spec = Spec(edges=EDGES, attributes=("sex", "age"), cap=cap)
    check_sensitivity(spec, lambda s: s.sensitivity)
    goes_red(check_sensitivity, spec, lambda s: float(s.cap))  # each histogram on its own
    if cap > 1:  # images as if each were another patient's
        goes_red(check_sensitivity, spec, lambda s: math.sqrt(s.cap * 3))
    if cap < 3:
        # A cap that is only declared: the patient's third film counts as well.
        with monkeypatch.context() as patch:
            patch.setattr(
                "fedmed.evaluation.pooled.histograms.chosen",
                lambda images, patients, cap: np.ones(len(images), dtype=bool),
            )
            goes_red(check_sensitivity, spec, lambda s: s.sensitivity)
