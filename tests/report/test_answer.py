"""The answer's sentences: computed, and honest where an interval holds zero."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed.evaluation.metrics import shown
from fedmed.report.answer import answer, cautions
from fedmed.report.arms import summarise
from fedmed.report.load import load

SPACE = "\N{NO-BREAK SPACE}"


def told(
    make_runs: ModuleType, folder: Path, changes: dict[str, dict[str, Any]], arm: str = "dp-sgd"
) -> list[str]:
    """The answer for one private arm whose differences have these entries; others are zero."""
    for name in ("none", arm):
        make_runs.write_arm(folder, name, 0)
    given = make_runs.write_comparison(folder)
    for row in given["differences"]:
        row["difference"] = {"value": 0.0, "low": -0.02, "high": 0.02, "seeds": 1}
        row |= {"p": 0.9, "p_holm": 1.0, "minimum_detectable": None, "value": 0.1}
        row["baseline_value"] = 0.1
        name = f"{row['attribute']} {row['quantity']}" if row["attribute"] else row["quantity"]
        row |= changes.get(name, {})
    make_runs.write(folder / "comparison.json", given)
    return answer(summarise(load(folder)))


def difference(size: float, low: float, high: float, **others: Any) -> dict[str, Any]:
    return {"difference": {"value": size, "low": low, "high": high, "seeds": 1}, **others}


def test_four_sentences_with_a_clear_loss_and_a_clear_widening(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    sentences = told(
        make_runs,
        tmp_path,
        {
            "auroc": difference(-0.1, -0.14, -0.06, p=0.0004, p_holm=0.004),
            "age auroc_gap": difference(
                0.08, 0.03, 0.13, p=0.001, p_holm=0.02, baseline_value=0.05, value=0.13
            ),
        },
    )
    assert len(sentences) == 4
    assert "find 0.841 under none" in sentences[3]
    assert f"(−0.100, 95{SPACE}% interval −0.140 to −0.060)" in sentences[1]
    assert sentences[2].endswith(
        ". Privacy widens the AUROC gap between age bands most clearly under dp-sgd: 0.050 without "
        f"privacy, 0.130 with it (+0.080, 95{SPACE}% interval +0.030 to +0.130, p 0.02 after Holm "
        f"over 11 comparisons)."
    )


def test_an_interval_with_zero_is_no_finding(make_runs: ModuleType, tmp_path: Path) -> None:
    sentences = told(
        make_runs,
        tmp_path,
        {
            "auroc": difference(-0.01, -0.03, 0.01, p=0.3, p_holm=0.9, minimum_detectable=0.04),
            "sex fnr_gap": difference(0.03, -0.02, 0.08, p_holm=0.6, minimum_detectable=0.07),
        },
    )
    assert (
        "not distinguishable from no change; a change under 0.040 could not be seen"
        in (sentences[1])
    )
    assert "Of 4 changes of gaps between the sexes and age bands that were tested" in sentences[2]
    assert "none is a widening that can be told from chance; the largest, of the" in sentences[2]
    assert "of the false negative gap between the sexes under dp-sgd, is +0.030" in sentences[2]
    assert "a change under 0.070 could not be seen with these patients" in sentences[2]
    assert "Privacy widens" not in sentences[2]


def test_holm_decides_where_p_alone_would_not(make_runs: ModuleType, tmp_path: Path) -> None:
    sentences = told(
        make_runs,
        tmp_path,
        {"sex auroc_gap": difference(0.05, 0.001, 0.1, p=0.04, p_holm=0.4)},
    )
    assert "none is a widening that stands once all comparisons are counted;" in sentences[2]
    assert "p 0.40 after Holm over 11 comparisons" in sentences[2]


def test_an_interval_without_zero_is_never_called_no_change(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    """Holm's no is told as what it is, beside the interval that looks at one arm alone."""
    loss = difference(-0.03, -0.058, -0.002, p=0.03, p_holm=0.3, minimum_detectable=0.04)
    (_, costs, *_) = told(make_runs, tmp_path, {"auroc": loss})
    assert (
        f"(−0.030, 95{SPACE}% interval −0.058 to −0.002, p 0.30 after Holm over 11 "
        "comparisons, 0.03 alone: not shown once all comparisons are counted)" in costs
    )
    assert "distinguishable" not in costs


def test_a_significant_p_beside_an_interval_with_zero_is_told(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    loss = difference(-0.03, -0.061, 0.001, p=0.001, p_holm=0.01)
    assert "p 0.01 after Holm" in told(make_runs, tmp_path, {"auroc": loss})[1]


def without_groups(metrics: dict[str, Any], note: str | None) -> dict[str, Any]:
    """Metrics whose groups by sex and age have a note instead of numbers, or are unknown."""
    for attribute in ("sex", "age"):
        rows = metrics["groups"][attribute]
        if note is None:
            rows[:] = [{**rows[0], "group": "unknown"}]
        for row in rows:
            row |= dict.fromkeys(metric.group_key for metric in shown("groups").values())
            row |= {"note": note, "intervals": {}}
        metrics["fairness"][attribute] = {"notes": []}
    return metrics


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("too few", "no two groups have enough images with and without disease (too few)"),
        (None, "the test images do not say to which group their patients belong"),
    ],
)
def test_gaps_that_cannot_be_measured_are_said_with_the_reason(
    make_runs: ModuleType, tmp_path: Path, note: str | None, why: str
) -> None:
    for name in ("none", "dp-sgd"):
        metrics = make_runs.enrich(make_runs.evaluate(make_runs.table(2.0, 0)))
        make_runs.write_arm(tmp_path, name, 0, metrics=without_groups(metrics, note))
    sentences = answer(summarise(load(tmp_path)))
    assert len(sentences) == 4
    assert sentences[2] == f"Gaps between sexes or age bands could not be compared: {why}."


def test_models_that_know_nothing_have_no_gap_and_the_answer_says_so(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_arm(tmp_path, "none", 0)
    blind = make_runs.enrich(make_runs.evaluate(make_runs.table(0.02, 0)))
    make_runs.write_arm(tmp_path, "dp-sgd", 0, metrics=blind)
    last = answer(summarise(load(tmp_path)))[2]
    assert "not known: no arm with privacy is shown to be better than chance" in last


def test_without_an_arm_without_privacy_nothing_is_said_of_its_price(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    for name in ("dp-sgd", "central-fixed"):  # 20.4 per hospital is no meaningful protection
        make_runs.write_arm(tmp_path, name, 0)
    assert "there is no arm without privacy" in answer(summarise(load(tmp_path)))[-2]
    make_runs.write_comparison(tmp_path, baseline="dp-sgd")
    first, *_, last, _ = answer(summarise(load(tmp_path)))
    assert first.startswith("No arm is without privacy: the others are compared with dp-sgd (ε")
    assert "there is no arm without privacy" in last


def test_arms_without_privacy_can_be_no_better_than_chance_too(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    known = make_runs.ARMS
    changed = {
        name: (*known[name][:5], 0.02, known[name][6]) for name in ("none", "pooled", "dp-sgd")
    }
    before = {name: known[name] for name in changed}
    known.update(changed)
    try:
        for name in changed:
            make_runs.write_arm(tmp_path, name, 0)
    finally:
        known.update(before)
    arms = summarise(load(tmp_path))
    assert cautions(arms)[0].startswith("Not shown to be better than chance (0.5): ")
    assert {"none", "pooled", "dp-sgd"} == {
        arm.name for arm in arms if arm.name in cautions(arms)[0]
    }
    assert "none, without privacy, is not shown to be better than chance" in answer(arms)[2]


def test_a_narrower_gap_is_no_widening(make_runs: ModuleType, tmp_path: Path) -> None:
    changes = {
        f"{attribute} {quantity}": difference(-0.05, -0.08, -0.02, p=0.001, p_holm=0.01)
        for attribute in ("sex", "age")
        for quantity in ("auroc_gap", "fnr_gap")
    }
    sentences = told(make_runs, tmp_path, changes)
    assert "none is a widening that can be told from chance; the largest" in sentences[2]
    assert "−0.050" in sentences[2]


def test_without_a_comparison_it_says_so(make_runs: ModuleType, tmp_path: Path) -> None:
    for name in ("none", "dp-sgd", "local-update"):
        make_runs.write_arm(tmp_path, name, 0)
    arms = summarise(load(tmp_path))
    assert "Whether privacy changes gaps between groups was not tested" in answer(arms)[2]
    assert cautions(arms)[0] == "Not shown to be better than chance (0.5): local-update."
    assert "comparison.json is absent" in cautions(arms)[-1]


@pytest.mark.parametrize("arm", ["none", "pooled"])
def test_one_arm_alone_has_an_answer(make_runs: ModuleType, tmp_path: Path, arm: str) -> None:
    make_runs.write_arm(tmp_path, arm, 0)
    arms = summarise(load(tmp_path))
    assert len(answer(arms)) == 1
    assert arm in answer(arms)[0]
    assert cautions(arms) == ["Each arm was trained once: no interval holds the luck of training."]
