"""The recorded simulation of federated evaluation: it runs, and the guide shows what it found."""

import json
from pathlib import Path

import pytest

from experiments import histograms

ROOT = Path(__file__).resolve().parents[2]


def test_one_case_is_what_it_says() -> None:
    """20 replications; a bias of six standard errors has a chance below 1e-8."""
    found = histograms.simulate(400, 8.0, 16, 1, 20)
    assert abs(found.bias) < 6 * found.standard_error / 20**0.5 + 0.003
    assert found.coverage_widened >= found.coverage >= 0.5
    assert found.deviation == pytest.approx(2.08, abs=0.01)
    twice = histograms.simulate(400, 8.0, 16, 2, 2)
    assert twice.deviation == pytest.approx(2 * found.deviation)


def test_the_record_covers_and_the_guide_shows_it() -> None:
    text = (ROOT / "experiments" / "results" / "histograms.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["replications"] >= 2000
    assert len(record["cases"]) == len(histograms.CASES)
    guide = (ROOT / "docs" / "federated-evaluation.md").read_text(encoding="utf-8")
    for case in record["cases"]:
        assert 0.93 <= case["coverage"] <= 0.97, case
        assert case["coverage_widened"] >= case["coverage"]
    shown = [line for line in guide.splitlines() if line.startswith(("| 1,000 |", "| 4,000 |"))]
    assert len(shown) == len(record["cases"]) - 2
    for line in shown:
        images, epsilon, bins, films, *_, coverage, _ = line.strip("| ").split(" | ")
        (case,) = [
            c
            for c in record["cases"]
            if (c["images"], c["bins"], c["films"])
            == (int(images.replace(",", "")), int(bins), int(films))
            and f"{c['epsilon']:g}" == epsilon.replace("exact", "0")
        ]
        assert coverage == f"{case['coverage']:.3f}"
