"""What the truth predicts of the phantom's gaps: formulas against draws, and the recorded run."""

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from support import goes_red

from experiments import phantom_effects, phantom_truth
from experiments.phantom_effects import NO_EFFECTS
from experiments.phantom_found import (
    Scored,
    beside,
    dealt_again,
    gaps_of_seeds,
    measured,
    missed_at,
)
from fedmed.config import Data
from fedmed.data.sources import phantom
from fedmed.data.sources.phantom import EFFECTS, Effects

HOSPITALS = 4


@cache
def drawn(patients: int) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """A phantom's table, and the true contrast of each film."""
    cohort = phantom.load(Data(patients=patients, hospitals=HOSPITALS, seed=5))
    return cohort.table, np.array([film.contrast for film in cohort.images.films])  # type: ignore[attr-defined]


@cache
def of_an_observer() -> Scored:
    """Scores of one who sees each film's contrast through noise, half of the films validation."""
    table, contrast = drawn(4000)
    noise = np.random.default_rng(8).normal(scale=0.12, size=len(table))
    validation = table["patient_id"].str[-6:].astype(int) % 2 == 0
    table = table.rename(columns={"site": "hospital"}).assign(
        split=np.where(validation, "val", "test")
    )
    return Scored(table, (ndtr(contrast + noise),))


def test_the_true_prevalences_and_contrasts_are_those_of_a_large_draw() -> None:
    """The seed is fixed; another would be off by more than 4 standard errors in 1 of 1,000."""
    table, contrast = drawn(20_000)
    of, ill = phantom_truth.ages(EFFECTS, HOSPITALS), phantom_truth.by_contrast(EFFECTS, HOSPITALS)
    assert of.share.sum() == pytest.approx(1)
    for band in phantom_truth.BANDS:
        rows = phantom_truth.within(table["age"].to_numpy(), band)
        assert table["label"][rows].mean() == pytest.approx(of.ill(band), abs=0.06)
        women = rows & (table["sex"] == "F").to_numpy() & (contrast > 0)
        chosen = ill.female & phantom_truth.within(ill.age, band)
        mean = np.average(ill.signal[chosen], weights=ill.weight[chosen])
        assert contrast[women].mean() == pytest.approx(mean, rel=0.06)
    by_view = table["label"].groupby(table["view"]).mean()
    expected = phantom_truth.view_difference(EFFECTS, of)
    assert by_view["AP"] - by_view["PA"] == pytest.approx(expected, abs=0.03)


def test_the_observer_is_fitted_to_what_was_found() -> None:
    ill = phantom_truth.by_contrast(EFFECTS, HOSPITALS)
    for auroc, fpr in ((0.97, 0.05), (0.6, 0.4)):
        observer = phantom_truth.fit(ill, auroc, fpr)
        assert (observer.auroc(ill), observer.fpr) == pytest.approx((auroc, fpr))


def test_without_effects_nothing_is_predicted_but_what_the_views_prevalences_cause() -> None:
    ill = phantom_truth.by_contrast(NO_EFFECTS, HOSPITALS)
    found = phantom_truth.predict(ill, NO_EFFECTS, HOSPITALS, 0.9, 0.2)
    apart = {n: v for n, v in found.items() if "minus" in n or "_gap" in n or "parity" in n}
    view = apart.pop("selection rate, AP minus PA")
    assert view == pytest.approx(
        phantom_truth.from_prevalence(NO_EFFECTS, HOSPITALS, 1 - found["FNR, 80+"], 0.2)[
            "selection rate, AP minus PA"
        ]
    )
    assert view > 0.05
    assert list(apart.values()) == pytest.approx([0] * len(apart), abs=1e-12)


def test_what_opacities_change_in_a_film_is_fainter_in_women_and_nothing_without_them() -> None:
    cohort = phantom.load(Data(patients=400, hospitals=1, seed=5))
    ill = phantom_truth.by_visible(cohort)
    assert len(ill.signal) == sum(film.contrast > 0 for film in cohort.images.films)  # type: ignore[attr-defined]
    assert ill.signal.min() > 0
    ratio = ill.signal[ill.female].mean() / ill.signal[~ill.female].mean()
    assert ratio == pytest.approx(EFFECTS.contrast_in_women, abs=0.15)


def test_of_the_observer_itself_the_evaluation_finds_what_is_predicted() -> None:
    """The seed is fixed; another would fail in about 1 of 10, one of the two intervals at 95 %.

    A truth in which women's films are as plain as men's is not what it finds.
    """
    by = measured(of_an_observer(), 200)

    def held(effects: Effects) -> None:
        signals = {"contrast": phantom_truth.by_contrast(effects, HOSPITALS)}
        result = beside(by, of_an_observer(), signals, effects, HOSPITALS)
        assert result["of"] == 32
        assert result["held"]["contrast"] >= result["of"] - 6
        for rows, names in (("rows", ["AUROC, F minus M"]), ("at one fpr", ["FNR, F minus M"])):
            held = {row["name"]: row["contrast held"] for row in result[rows]}
            assert all(held[name] for name in names), names

    held(EFFECTS)
    goes_red(held, replace(EFFECTS, contrast_in_women=1.0))


def test_at_one_false_positive_rate_a_group_has_a_threshold_of_its_own() -> None:
    scores = np.array([0.9, 0.5, 0.1, 0.95, 0.6, 0.3, 0.99])
    labels, rows = np.array([0, 0, 0, 1, 1, 1, 0]), np.arange(7) < 6
    weights = np.stack([np.ones(7), np.array([2.0, 1, 1, 1, 3, 1, 1])], axis=1)
    for fpr, missed in (((0.34, 0.51), (1 / 3, 1 / 5)), ((0, 0.49), (2 / 3, 4 / 5))):
        found = missed_at(scores, labels, rows, weights, np.array(fpr))
        assert found == pytest.approx(missed)


def test_the_gaps_of_each_seed_are_those_of_its_metrics() -> None:
    rows = gaps_of_seeds(of_an_observer(), 50)
    assert [(row["seed"], row["by"]) for row in rows] == [(0, "sex"), (0, "age")]
    value, low, high = rows[0]["fnr_gap"]
    assert 0 < low < value < high


def test_dealt_again_no_sex_and_no_age_is_worse_off() -> None:
    """The seed is fixed; another would leave 8 of 40 out in 1 of 1,000 where 95 % hold zero.

    In 1 of 25 where 90 % do, as the record has it for gaps with a small youngest band.
    """

    def rare(scored: Scored) -> None:
        each = pd.DataFrame(dealt_again(scored, 40, 100, seed=4))
        assert each.shape == (40, 12)
        assert (each.sum() >= 33).all()

    rare(of_an_observer())


def test_training_sets_share_no_patient_with_each_other_or_with_what_is_scored() -> None:
    changes = {**phantom_effects.COHORT, "data.patients": 60, "train.rounds": 1}
    settings = phantom_effects.arm("pooled", {**changes, "train.local-epochs": 0.2})
    cohort, images = phantom_effects.draw(settings, EFFECTS)
    assert images.shape == (len(cohort), 32, 32)
    first, second = phantom_effects.training_sets(settings, cohort, 2)
    patients = cohort.table["patient_id"]
    assert not set(patients[first]) & set(patients[second])
    scored = phantom_effects.run_arm(settings, cohort, images, [first])
    assert not set(patients[first | second]) & set(scored.table["patient_id"])
    assert len(scored.scores[0]) == len(scored.table) == len(cohort) - (first | second).sum()


def test_of_the_record_women_are_ranked_worse_where_that_is_true_and_the_page_has_it() -> None:
    record = json.loads(phantom_effects.RESULT.read_text(encoding="utf-8"))
    results = record["results"]
    assert record["effects"] == json.loads(json.dumps(asdict(EFFECTS)))
    assert record["cohort"] == phantom_effects.COHORT
    rows = {
        arm: {row["name"]: row for row in results[arm]["rows"]} for arm in ("effects", "control")
    }

    def worse(arm: str) -> None:
        row = rows[arm]["AUROC, F minus M"]
        assert row["found"] < 0
        assert row["high"] < 0

    worse("effects")
    goes_red(worse, "control")
    page = (Path(__file__).parents[2] / "experiments" / "README.md").read_text(encoding="utf-8")
    for name in ("AUROC, F minus M", "FNR, F minus M", "FPR, 80+", "auroc_gap, age"):
        found, control = (
            f"{row['found']:.3f} ({row['low']:.3f} to {row['high']:.3f})".replace("-0.000", "0.000")
            for row in (rows["effects"][name], rows["control"][name])
        )
        assert f"| {found} | {control} |" in page, name
    for arm in ("effects", "control"):
        held = results[arm]["dealt again"]["held"]
        for name in ("AUROC, F minus M", "auroc_gap, age"):
            assert f" {100 * held[name]:.1f} " in page, (arm, name)
