"""Metrics of columns and groups against scikit-learn, in full samples and in resamples."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import sklearn
from sklearn import metrics as reference
from support import refuses

from fedmed.evaluation.calibration import recalibrate
from fedmed.evaluation.measuring import large, measures
from fedmed.evaluation.measuring.measures import METRICS, OTHERS_METRICS, Column, Measured, measure

SHAPES = ("ties", "distinct", "constant", "two values", "few positives", "only positives", "one")


def cohort(
    shape: str, seed: int = 0, n: int = 60
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels, scores of two models and groups, with what `shape` says; one group has one class."""
    generator = np.random.default_rng(seed)
    n = 1 if shape == "one" else n
    labels = generator.integers(0, 2, n)
    if shape == "few positives":
        labels[:] = 0
        labels[[3, 40]] = 1
    elif shape == "only positives":
        labels[:] = 1
    scores = 1 / (1 + np.exp(-(labels - 0.5 + generator.normal(size=(2, n)))))
    decimals = {"ties": 1, "two values": 0}.get(shape, 16)
    scores = np.round(scores, decimals)
    if shape == "constant":
        scores[:] = 0.3
    sex = generator.choice(["F", "M", "unknown"], n, p=[0.5, 0.4, 0.1])
    age = np.where(labels == 1, generator.choice(["young", "old"], n), "old")  # young: positives
    return labels, scores, {"sex": sex, "age": age}


def columns(scores: np.ndarray) -> list[Column]:
    first, second = (float(np.quantile(row, 0.6)) for row in scores)
    return [
        Column(name="a", scores=scores[0], threshold=first, specificity_threshold=0.7),
        Column(name="b", scores=scores[1], threshold=second),
    ]


def expected(labels: np.ndarray, column: Column, weights: np.ndarray) -> dict[str, float]:
    """Metrics from scikit-learn with sample weights; NaN where they are not defined."""
    there = weights > 0
    labels, weights = labels[there], weights[there]
    scores = np.asarray(column.scores)[there]
    found = dict.fromkeys((name for name in METRICS if "calibration" not in name), math.nan)
    if not labels.size:
        return found
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        if len(set(labels.tolist())) == 2:
            found["auroc"] = reference.roc_auc_score(labels, scores, sample_weight=weights)
            found["auprc"] = reference.average_precision_score(
                labels, scores, sample_weight=weights
            )
        found["brier"] = reference.brier_score_loss(labels, scores, sample_weight=weights)
        for threshold, suffix in (
            (column.threshold, ""),
            (column.specificity_threshold, "_at_specificity"),
        ):
            if threshold is None:
                continue
            (tn, fp), (fn, tp) = reference.confusion_matrix(
                labels, scores >= threshold, labels=[0, 1], sample_weight=weights
            )
            for name, top, bottom in (
                ("sensitivity", tp, tp + fn),
                ("specificity", tn, tn + fp),
                ("fnr", fn, tp + fn),
                ("fpr", fp, tn + fp),
                ("accuracy", tp + tn, tp + tn + fp + fn),
                ("ppv", tp, tp + fp),
                ("npv", tn, tn + fn),
                ("selection_rate", tp + fp, tp + tn + fp + fn),
            ):
                found[name + suffix] = float(top / bottom) if bottom else math.nan
    bin_of = np.searchsorted(np.arange(1, 10) / 10, scores, side="right")
    residuals = [abs(float(weights @ ((labels - scores) * (bin_of == k)))) for k in range(10)]
    found["ece"] = sum(residuals) / float(weights.sum())
    return found


def parts(measured: Measured) -> Iterator[tuple[str | None, str | None, bool]]:
    """All images, each group, and all others than each group."""
    yield None, None, False
    for attribute, groups in measured.groups.items():
        for group in groups:
            yield attribute, group, False
            yield attribute, group, True


def members(
    groups: dict[str, np.ndarray], attribute: str | None, group: str | None, others: bool, n: int
) -> np.ndarray:
    if attribute is None:
        return np.ones(n, dtype=bool)
    codes = groups[attribute]
    return (codes != group) & (codes != "unknown") if others else codes == group


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_metric_equals_scikit_learn_in_the_sample_and_in_resamples(
    shape: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if whole:
        monkeypatch.setattr(large, "FROM", 0)
    labels, scores, groups = cohort(shape)
    patients = np.arange(labels.size) // 2 * 7  # codes need not be consecutive
    models = columns(scores)
    measured = measure(models, labels, patients, groups, resamples=3, seed=1)
    counts = measured.design.patient
    drawn = [np.ones(labels.size), *resampled(measured, 3, 1)]
    assert counts.size == labels.size
    checked = 0
    for attribute, group, others in parts(measured):
        chosen = members(groups, attribute, group, others, labels.size)
        wanted = [[expected(labels, model, w * chosen) for model in models] for w in drawn]
        for metric in set(wanted[0][0]) & set(OTHERS_METRICS if others else METRICS):
            found = measured.quantity(metric, attribute, group, others=others)
            values = np.vstack([found.values, found.samples])
            right = np.array([[each[metric] for each in row] for row in wanted])
            where = (metric, attribute, group, others)
            assert values == pytest.approx(right, abs=1e-9, nan_ok=True), where
            checked += int(np.isfinite(right).sum())
    assert checked > (3 if shape == "one" else 300)


def resampled(measured: Measured, resamples: int, seed: int) -> list[np.ndarray]:
    """Weights of images in each resample, as `measure` draws them."""
    kept = np.zeros((resamples, measured.images))

    def keep(where: slice, weights: np.ndarray) -> None:
        kept[where] = weights[measured.design.patient].T

    measures.for_each_block(measured.design, resamples, seed, keep)
    return list(kept)


@pytest.mark.parametrize("shape", ["ties", "distinct"])
def test_recalibration_of_a_resample_is_near_the_refit(shape: str) -> None:
    """A single Newton step is off by half a standard deviation in the tail."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 800)
    logits = 0.5 + 2.0 * (labels - 0.5) + generator.normal(size=800)
    scores = np.round(1 / (1 + np.exp(-logits)), 2 if shape == "ties" else 16)
    sex = generator.choice(["F", "M"], 800)
    model = Column(name="a", scores=scores)
    measured = measure([model], labels, np.arange(800), {"sex": sex}, resamples=20, seed=3)
    parts = ((None, None, sex != "", 0.06), ("sex", "F", sex == "F", 0.25))
    for attribute, group, chosen, error in parts:
        slope = measured.quantity("calibration_slope", attribute, group)
        intercept = measured.quantity("calibration_intercept", attribute, group)
        fit = recalibrate(labels[chosen], scores[chosen])
        assert slope.values[0] == pytest.approx(fit.slope, abs=1e-12)
        assert intercept.values[0] == pytest.approx(fit.intercept, abs=1e-12)
        refits = []
        for weights in resampled(measured, 20, 3):
            rows = np.repeat(np.flatnonzero(chosen), weights[chosen].astype(int))
            refits.append(recalibrate(labels[rows], scores[rows]).slope)
        moved = np.std(refits)
        assert moved > 0.05
        assert slope.samples[:, 0] == pytest.approx(np.array(refits), abs=error * moved)


def test_influence_is_the_derivative_by_a_patients_weight() -> None:
    """Against a central difference: the patient counted 1 + h and 1 - h times."""
    labels, scores, groups = cohort("ties", seed=4, n=36)
    patients = np.arange(labels.size) // 3
    models = columns(scores)
    measured = measure(models, labels, patients, groups, resamples=0)
    h = 1e-5
    for attribute, group, others in [(None, None, False), ("sex", "F", False), ("sex", "F", True)]:
        chosen = members(groups, attribute, group, others, labels.size)
        moved = [
            [
                expected(labels, model, chosen * (1.0 + step * (patients == patient)))
                for model in models
                for step in (h, -h)
            ]
            for patient in range(patients.max() + 1)
        ]
        for metric in set(moved[0][0]) & set(OTHERS_METRICS if others else METRICS):
            values = np.array([[each[metric] for each in row] for row in moved])
            derivative = (values[:, 0::2] - values[:, 1::2]) / (2 * h)
            for stratum in measured.design.strata:
                derivative[stratum] -= derivative[stratum].mean(axis=0)
            found = measured.quantity(metric, attribute, group, others=others).influence
            assert found == pytest.approx(derivative, abs=1e-7, nan_ok=True), metric


def test_influence_of_recalibration_is_the_derivative_of_the_refit() -> None:
    """Against leaving an image out or counting it twice, whose mean is exact to second order."""
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, 400)
    scores = 1 / (1 + np.exp(-(labels - 0.5 + generator.normal(size=400))))
    measured = measure(
        [Column(name="a", scores=scores)], labels, np.arange(400), resamples=0, by_label=False
    )
    for metric, field in (("calibration_slope", "slope"), ("calibration_intercept", "intercept")):
        influence = measured.quantity(metric).influence[:, 0]
        for image in range(0, 400, 37):
            once = np.delete(np.arange(400), image)
            twice = np.append(np.arange(400), image)
            low, high = (getattr(recalibrate(labels[i], scores[i]), field) for i in (once, twice))
            assert influence[image] == pytest.approx((high - low) / 2.0, abs=2e-5)
        assert np.abs(influence).max() > 1e-3


def test_both_groups_of_a_pair_are_each_others_others() -> None:
    labels, scores, groups = cohort("ties")
    sex = np.where(groups["sex"] == "unknown", "M", groups["sex"])
    measured = measure(columns(scores), labels, np.arange(60), {"sex": sex}, resamples=30)
    for metric in OTHERS_METRICS:
        direct = measured.quantity(metric, "sex", "M")
        other = measured.quantity(metric, "sex", "F", others=True)
        assert other.samples == pytest.approx(direct.samples, abs=1e-12, nan_ok=True)
        assert other.influence == pytest.approx(direct.influence, abs=1e-12, nan_ok=True)


def test_arms_are_paired() -> None:
    """Two arms with the same scores differ by nothing in every resample, and close ones by little.

    Arms resampled apart would make the difference vary by the root of two of each.
    """
    labels, scores, _ = cohort("distinct")
    near = np.clip(scores[0] + 0.01 * np.random.default_rng(5).normal(size=60), 0, 1)
    models = [
        Column(name="plain", scores=scores[0]),
        Column(name="same", scores=scores[0]),
        Column(name="near", scores=near),
    ]
    area = measure(models, labels, np.arange(60), resamples=200).quantity("auroc")
    same = area.select(["same"]) - area.select(["plain"])
    assert (same.samples == 0).all()
    change = area.select(["near"]) - area.select(["plain"])
    assert 0 < change.samples.std() < 0.25 * area.samples[:, 0].std()


def test_batches_of_columns_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, groups = cohort("ties")
    models = columns(scores)
    whole = measure(models, labels, np.arange(60) // 2, groups, resamples=70)
    monkeypatch.setattr(measures, "FEATURES", 1)
    apart = measure(models, labels, np.arange(60) // 2, groups, resamples=70)
    for attribute, store in whole.statistics.items():
        assert apart.statistics[attribute] == pytest.approx(store, abs=1e-12, nan_ok=True)


def test_what_is_not_asked_for_is_not_defined() -> None:
    labels, scores, groups = cohort("ties")
    measured = measure(
        columns(scores), labels, np.arange(60), groups, resamples=5, metrics=["auroc"]
    )
    assert np.isfinite(measured.quantity("auroc", "sex", "F").samples).all()
    assert np.isnan(measured.quantity("auprc").values).all()
    assert np.isnan(measured.quantity("fnr").values).all()


def test_no_images_and_no_groups_measure_nothing() -> None:
    empty = np.array([], dtype=float)
    measured = measure([Column(name="a", scores=empty)], empty, empty, resamples=3)
    assert measured.patients == 0
    for metric in METRICS:
        assert np.isnan(measured.quantity(metric).values).all()


def test_unusable_input_is_refused_with_the_place() -> None:
    good = Column(name="a", scores=[0.1, 0.9])
    refuses(lambda: measure([], [0, 1], [0, 1]), "at least one column")
    refuses(lambda: measure([good, good], [0, 1], [0, 1]), "'a'", "twice")
    refuses(lambda: measure([good], [0, 2], [0, 1]), "other than 0 and 1")
    refuses(lambda: measure([good], [0, 1], [0]), "patients", "2 images")
    refuses(lambda: measure([good], [0, 1], [0, 1], {"sex": ["F"]}), "sex", "2 images")
    for bad, word in ((math.nan, "nan"), (math.inf, "inf"), (1.5, "outside 0 to 1")):
        column = Column(name="dp", scores=[0.1, bad])
        refuses(lambda column=column: measure([good, column], [0, 1], [0, 1]), "score 2", word)
    measured = measure([good], [0, 1], [0, 1], {"sex": ["F", "M"]}, resamples=0)
    for call in (
        lambda: measured.quantity("auc"),
        lambda: measured.quantity("auroc", "sex", "X"),
        lambda: measured.quantity("auroc", "view", "PA"),
        lambda: measured.quantity("auprc", "sex", "F", others=True),
        lambda: measured.quantity("auroc", others=True),
        lambda: measured.quantity("auroc").select(["dp"]),
    ):
        with pytest.raises(KeyError):
            call()
