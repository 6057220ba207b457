"""Thresholds chosen anew in every resample: by the same rule, and in the intervals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from support import make, refuses
from support.tables import images, scored, write_run
from typer.testing import CliRunner

from fedmed import evaluate as public_evaluate
from fedmed.cli.commands import app
from fedmed.evaluation.comparison.compare import from_directory
from fedmed.evaluation.comparison.comparison import compare
from fedmed.evaluation.discrimination import specificity_threshold, youden_threshold
from fedmed.evaluation.intervals.intervals import interval, standard_error
from fedmed.evaluation.intervals.resampling import Design, clusters, for_each_block
from fedmed.evaluation.measuring import large, measures
from fedmed.evaluation.measuring.measures import Column, measure
from fedmed.evaluation.measuring.redrawing import redraw
from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.thresholds import choose

APART = 1.19  # of ill and healthy, in standard deviations: an AUROC of 0.80
BEST = norm.cdf(APART / 2)  # sensitivity, and specificity, at the best threshold of all patients


def cohort(val: int, test: int, seed: int = 0) -> pd.DataFrame:
    """Validation and test images of a score that is normal in the ill and in the healthy."""
    n = val + test
    draw = np.random.default_rng(seed)
    label = np.arange(n) % 2
    logit = draw.normal(size=n) + APART * (label - 0.5)
    return pd.DataFrame(
        {
            "image": [f"i{i:05d}" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
            "split": np.where(np.arange(n) < val, "val", "test"),
            "label": label,
            "score": 1.0 / (1.0 + np.exp(-logit)),
            "sex": np.where(np.arange(n) // 2 % 2, "F", "M"),
        }
    )


def width(found: dict[str, Any], name: str = "sensitivity") -> float:
    low, high = found["intervals"][name]
    return float(high - low)


def test_each_resample_has_the_threshold_that_its_images_would_have() -> None:
    """By the rule of one sample, on repeated rows. Sabotage: scores that were not drawn."""
    table = images(80, films=2, seed=4)
    val = scored(table, 1.0, 1).assign(split="val").round({"score": 1})  # with ties
    val = val.sort_values("image").reset_index(drop=True)
    found = redraw(val, choose(val, 0.8), resamples=40, seed=9)
    assert found.youden is not None
    assert found.at_specificity is not None
    design = Design.of(clusters(val["patient_id"]), val["label"].to_numpy())
    drawn = np.empty((design.patients, 40))

    def keep(where: slice, weights: np.ndarray) -> None:
        drawn[:, where] = weights

    for_each_block(design, 40, 10, keep)
    assert len(set(found.youden)) > 2
    for resample in range(40):
        rows = val.loc[val.index.repeat(drawn[design.patient, resample].astype(int))]
        labels, scores = rows["label"], rows["score"]
        assert found.youden[resample] == pytest.approx(youden_threshold(labels, scores))
        wanted = specificity_threshold(labels, scores, 0.8)
        assert found.at_specificity[resample] == pytest.approx(wanted, nan_ok=True)


def test_the_rates_of_a_resample_are_those_at_its_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Overall, by group and at both thresholds, also as many images are worked on."""
    table = cohort(40, 300)
    val, test = table.head(40), table.tail(300)
    again = redraw(val.reset_index(drop=True), choose(val), resamples=30)
    column = Column(
        name="a",
        scores=test["score"].to_numpy(),
        threshold=0.5,
        specificity_threshold=0.7,
        redrawn=again,
    )
    labels, patients = test["label"].to_numpy(), np.arange(300)
    seen = {}

    def at(metric: str, group: str | None = None) -> np.ndarray:
        found = measure([column], labels, patients, {"sex": test["sex"]}, resamples=30)
        seen["drawn"] = found
        return found.quantity(metric, group and "sex", group).samples[:, 0]

    small = [at("sensitivity"), at("specificity_at_specificity"), at("ppv", "F")]
    drawn = np.empty((300, 30))

    def keep(where: slice, weights: np.ndarray) -> None:
        drawn[:, where] = weights

    for_each_block(seen["drawn"].design, 30, measures.SEED, keep)
    assert again.youden is not None
    called = test["score"].to_numpy()[:, None] >= again.youden
    ill = (labels == 1)[:, None]
    wanted = (drawn * called * ill).sum(axis=0) / (drawn * ill).sum(axis=0)
    assert small[0] == pytest.approx(wanted)
    women = (test["sex"] == "F").to_numpy()[:, None] * drawn * called
    assert small[2] == pytest.approx((women * ill).sum(axis=0) / women.sum(axis=0))
    assert seen["drawn"].quantity("sensitivity").values[0] == pytest.approx(
        np.mean(test["score"][test["label"] == 1] >= 0.5)
    )
    monkeypatch.setattr(large, "FROM", 1)
    for before, metric in zip(small, ("sensitivity", "specificity_at_specificity"), strict=False):
        assert at(metric) == pytest.approx(before)


def test_few_validation_images_widen_what_rests_on_the_threshold_and_many_hardly() -> None:
    def wider(val: int) -> float:
        table = cohort(val, 600)
        fixed, anew = (evaluate(table, resamples=400, redraw_threshold=r) for r in (False, True))
        assert fixed["sensitivity"] == anew["sensitivity"]
        assert fixed["intervals"]["auroc"] == anew["intervals"]["auroc"]
        assert (fixed["resampling"]["threshold"], anew["resampling"]["threshold"]) == (
            "fixed",
            "redrawn",
        )
        gap = anew["fairness"]["sex"]["intervals"]["fnr_gap"]
        assert gap[1] >= anew["fairness"]["sex"]["fnr_gap"]
        return width(anew) / width(fixed)

    few, many = wider(40), wider(4000)
    assert few > 1.8
    assert few > many


def covered(replications: int, *, anew: bool) -> float:
    """Share of cohorts whose interval holds the sensitivity at the best threshold of all."""
    held = 0
    for seed in range(replications):
        table = cohort(60, 300, seed)
        val, test = table.head(60), table.tail(300)
        chosen = choose(val)
        column = Column(
            name="a",
            scores=test["score"].to_numpy(),
            threshold=chosen.youden,
            redrawn=redraw(val, chosen, resamples=200, threads=1) if anew else None,
        )
        found = measure(
            [column],
            test["label"].to_numpy(),
            np.arange(300),
            resamples=200,
            metrics=("sensitivity",),
            threads=1,
        )
        limits = interval(found.quantity("sensitivity"))
        assert limits.low is not None
        assert limits.high is not None
        held += limits.low <= BEST <= limits.high
    return held / replications


@pytest.mark.slow
def test_it_holds_the_rate_at_the_best_threshold_in_most_of_300_cohorts() -> None:
    def check(*, anew: bool) -> None:
        assert covered(300, anew=anew) >= 0.92

    check(anew=True)
    with pytest.raises(AssertionError):
        check(anew=False)


def test_its_standard_error_holds_the_choice_and_that_of_auroc_does_not_change() -> None:
    table = cohort(40, 400)
    val, test = table.head(40), table.tail(400)
    errors = []
    for again in (None, redraw(val, choose(val), resamples=400)):
        column = Column(
            name="a", scores=test["score"].to_numpy(), threshold=choose(val).youden, redrawn=again
        )
        found = measure([column], test["label"].to_numpy(), np.arange(400), resamples=400)
        errors.append([standard_error(found.quantity(m)) or 0.0 for m in ("fnr", "auroc")])
    assert errors[1][0] > 1.8 * errors[0][0]
    assert errors[1][1] == errors[0][1]


def test_a_comparison_draws_the_validation_patients_of_all_arms_alike(tmp_path: Path) -> None:
    """A model against itself differs in nothing, though its threshold varies."""
    table = cohort(40, 400).assign(hospital="h1", age=50.0, view=None)
    same = {"a": {0: table}, "b": {0: table.sample(frac=1.0, random_state=1)}}
    found = compare(same, "a", {}, resamples=200, redraw_threshold=True)
    change = next(r for r in found["differences"] if r["quantity"] == "sensitivity")
    assert (change["difference"]["low"], change["difference"]["high"]) == (0.0, 0.0)
    assert change["p"] is None
    for arm in same:
        write_run(tmp_path, arm, 0, table)
    base = {"evaluation.redraw-threshold": True}
    (tmp_path / "experiment.json").write_text(json.dumps({"base": base}), encoding="utf-8")
    told = from_directory(tmp_path, resamples=200)
    assert told["threshold"] == "redrawn"
    own = told["by_arm"]["a"]["metrics"]["sensitivity"]
    assert own == found["by_arm"]["a"]["metrics"]["sensitivity"]
    (tmp_path / "experiment.json").write_text("{}", encoding="utf-8")
    fixed = from_directory(tmp_path, resamples=200)
    assert fixed["threshold"] == "fixed"
    narrow = fixed["by_arm"]["a"]["metrics"]["sensitivity"]
    assert own["high"] - own["low"] > 1.5 * (narrow["high"] - narrow["low"])
    assert (
        from_directory(tmp_path, resamples=200, redraw_threshold=True)["by_arm"] == told["by_arm"]
    )


def test_the_command_and_the_library_take_it_and_hospitals_histograms_do_not(
    tmp_path: Path,
) -> None:
    table = cohort(40, 300)
    table.to_csv(tmp_path / "t.csv", index=False)
    wanted = evaluate(table, resamples=200, redraw_threshold=True)["intervals"]
    asked = ["evaluate", str(tmp_path / "t.csv"), "--json", "--resamples", "200"]
    told = [
        json.loads(CliRunner().invoke(app, [*asked, *more]).stdout)["intervals"]
        for more in (["--redraw-threshold"], [])
    ]
    assert told[0]["sensitivity"] == pytest.approx(wanted["sensitivity"])
    assert told[1]["sensitivity"] != pytest.approx(wanted["sensitivity"])
    again = public_evaluate(table, resamples=200, redraw_threshold=True).to_dict()
    assert again["intervals"] == wanted
    refuses(
        lambda: make(
            data={"sites": ""}, evaluation={"where": "hospitals", "redraw-threshold": True}
        ),
        "evaluation.redraw-threshold",
    )


def test_without_both_classes_nothing_is_redrawn() -> None:
    table = cohort(40, 300)
    table.loc[table["split"] == "val", "label"] = 1
    found = evaluate(table, resamples=100, redraw_threshold=True)
    assert (found["sensitivity"], found["intervals"]["sensitivity"]) == (None, None)
