"""Tables of many images: their resamples are those of the rows drawn again and again."""

import threading

import numpy as np
import pytest

from fedmed.evaluation.calibration import recalibrate
from fedmed.evaluation.intervals.resampling import Design
from fedmed.evaluation.measuring import large
from fedmed.evaluation.measuring.measures import METRICS, Column, Measured, measure
from fedmed.evaluation.metrics import AT_SPECIFICITY
from fedmed.evaluation.metrics import METRICS as TABLE

ROWS, RESAMPLES = 20_000, 6


def cohort(decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels, scores, patients (up to a few images each) and groups."""
    generator = np.random.default_rng(decimals)
    patients = np.concatenate([np.arange(8000), generator.integers(0, 8000, ROWS - 8000)])
    labels = (generator.random(ROWS) < 0.2).astype(np.int64)
    scores = np.round(1 / (1 + np.exp(1 - labels - generator.normal(size=ROWS))), decimals)
    sex = generator.choice(["F", "M", "unknown"], 8000)[patients]
    age = generator.choice(["30-59", "60-69"], ROWS)  # of the image, not of the patient
    return labels, scores, patients, {"sex": sex, "age": age}


def measured(decimals: int, progress: list[float] | None = None) -> Measured:
    labels, scores, patients, groups = cohort(decimals)
    column = Column(name="a", scores=scores, threshold=0.4, specificity_threshold=0.6)
    return measure(
        [column],
        labels,
        patients,
        groups,
        resamples=RESAMPLES,
        seed=5,
        progress=None if progress is None else progress.append,
    )


def drawn_rows(found: Measured, chosen: np.ndarray) -> list[np.ndarray]:
    """The chosen rows of each resample, written out as often as their patient was drawn."""
    (block,) = np.random.SeedSequence(5).spawn(1)
    counts = found.design.counts(RESAMPLES, np.random.default_rng(block))
    return [
        np.repeat(chosen, counts[found.design.patient[chosen], k].astype(int)) for k in range(6)
    ]


@pytest.mark.parametrize("decimals", [3, 16])
def test_weights_give_what_drawing_the_rows_gives(
    decimals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "FROM", ROWS)
    found = measured(decimals)
    labels, scores, _, groups = cohort(decimals)
    parts = (
        (None, None, False, np.ones(ROWS, dtype=bool)),
        ("sex", "F", False, groups["sex"] == "F"),
        ("sex", "F", True, groups["sex"] == "M"),
        ("age", "60-69", False, groups["age"] == "60-69"),
    )
    for attribute, group, others, inside in parts:
        rows = drawn_rows(found, np.flatnonzero(inside))
        assert len({row.size for row in rows}) > 1  # they are different draws
        for metric in METRICS:
            if metric.startswith("calibration") or (others and metric == "auprc"):
                continue  # the first is a step from the fit of all rows, see below
            threshold = 0.6 if metric.endswith(AT_SPECIFICITY) else 0.4
            of = TABLE[metric.removesuffix(AT_SPECIFICITY)].of
            wanted = [of(labels[row], scores[row], threshold) for row in rows]
            told = found.quantity(metric, attribute, group, others=others).samples[:, 0]
            assert told == pytest.approx(wanted, abs=1e-12, rel=0), (metric, attribute, others)


def test_the_form_of_the_weights_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = measured(2)
    monkeypatch.setattr(large, "FROM", ROWS)
    whole = measured(2)
    for attribute, statistics in blocks.statistics.items():
        assert whole.statistics[attribute] == pytest.approx(
            statistics, abs=1e-12, rel=1e-12, nan_ok=True
        )
    area = [each.quantity("auroc", "sex", "F", others=True).samples for each in (blocks, whole)]
    assert np.array_equal(*area)
    labels, scores, _, _ = cohort(2)
    fit = recalibrate(labels, scores)
    assert whole.quantity("calibration_slope").values[0] == pytest.approx(fit.slope, abs=1e-12)


def test_both_forms_of_counts_are_the_same_draws() -> None:
    labels, _, patients, _ = cohort(2)
    design = Design.of(patients, labels)
    counts = design.counts(5, np.random.default_rng(1)).copy()
    whole = design.whole_counts(5, np.random.default_rng(1))
    assert whole.dtype == np.uint8
    assert np.array_equal(whole.T, counts)


def test_progress_rises_to_one_in_the_thread_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, patients, _ = cohort(2)
    told: list[tuple[float, bool]] = []
    monkeypatch.setattr("fedmed.evaluation.measuring.measures.FEATURES", 1)  # a column at a time
    measure(
        [Column(name=name, scores=scores, threshold=0.4) for name in "ab"],
        labels,
        patients,
        resamples=40,
        metrics=["fnr"],
        progress=lambda share: told.append(
            (share, threading.current_thread() is threading.main_thread())
        ),
    )
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 0.5 in shares  # the first column
    assert all(here for _, here in told)
