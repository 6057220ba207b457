"""The table of metrics, that everything which lists metrics is made from it, and its facts."""

import ast
import dataclasses
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.tables import images, scored

from fedmed.cli.evaluate import WORDS, show
from fedmed.evaluation.comparison.compare import compare
from fedmed.evaluation.group_gaps import GAPS, HEADLINE, RANGES
from fedmed.evaluation.measuring.measures import Column, measure
from fedmed.evaluation.metrics import METRICS, SHARES, Counts, shown
from fedmed.evaluation.summary import evaluate

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "evaluation.md"
TABLES = ("fedmed/evaluation/metrics.py", "fedmed/evaluation/group_gaps.py")


@pytest.fixture(scope="module")
def result() -> dict:
    return evaluate(scored(images(), 2.0, 1), resamples=200)


@pytest.fixture(scope="module")
def comparison() -> dict:
    first, second = scored(images(), 2.0, 1), scored(images(), 1.0, 2)
    return compare({"plain": {0: first}, "noised": {0: second}}, "plain", {}, resamples=200)


def test_every_metric_is_a_number_of_a_result(result: dict) -> None:
    row = result["groups"]["sex"][0]
    for name, metric in METRICS.items():
        found = [result[name]] if "result" in metric.shown else []
        found += [row[metric.group_key]] if "groups" in metric.shown else []
        assert found, f"{name} is shown nowhere"
        assert all(metric.least <= value <= metric.most for value in found), name


def test_a_result_has_the_metrics_of_each_place_and_no_others(result: dict) -> None:
    row = result["groups"]["sex"][0]
    assert list(result["intervals"]) == [n for n, m in shown("result").items() if m.interval]
    assert None not in result["intervals"].values()
    assert list(result["at_specificity"]["intervals"]) == [*shown("result at fixed specificity")]
    assert list(row["intervals"]) == [m.group_key for m in shown("intervals of groups").values()]
    assert list(row["minimum_detectable_gap"]) == list(shown("detectable in groups"))
    keys = [metric.group_key for metric in shown("groups").values()]
    assert [key for key in row if key in keys] == keys
    assert [key for key in row if key in METRICS and key not in keys] == []


def test_a_comparison_has_the_metrics_of_its_places(comparison: dict) -> None:
    told = comparison["by_arm"]["noised"]
    assert list(told["metrics"]) == list(shown("comparison"))
    row = told["groups"]["sex"]["F"]
    assert [name for name in row if name in METRICS] == list(shown("comparison of groups"))
    assert list(told["gaps"]["sex"]) == list(GAPS)
    gaps = {r["quantity"] for r in comparison["differences"] if r["kind"] == "gap"}
    headline = {r["quantity"] for r in comparison["differences"] if r["headline"]}
    assert gaps == set(GAPS)
    assert headline == {"auroc", *HEADLINE}


def test_what_one_place_shows_another_holds() -> None:
    """A table of groups cannot show what the groups' rows do not have."""
    for place in ("intervals of groups", "detectable in groups", "comparison of groups"):
        assert set(shown(place)) <= set(shown("groups"))  # type: ignore[arg-type]  # a place
    assert set(shown("figures of groups")) <= set(shown("detectable in groups"))
    for place in ("comparison", "summary", "result at fixed specificity"):
        assert set(shown(place)) <= set(shown("result"))  # type: ignore[arg-type]  # a place
    assert set(shown("terminal")) <= set(shown("comparison"))
    assert set(shown("report at fixed specificity")) <= set(shown("result at fixed specificity"))
    assert {METRICS[name].name for name in RANGES.values()} <= set(shown("groups"))


def test_only_calls_need_a_threshold_and_nothing_else_is_there_without(result: dict) -> None:
    without = evaluate(scored(images(), 2.0, 1).assign(split="test"), resamples=0)
    for name, metric in shown("result").items():
        assert (without[name] is None) == bool(metric.thresholds), name
    assert METRICS["ppv"].thresholds == ("youden", "at specificity")
    assert set(shown("result at fixed specificity")) <= set(SHARES)


def scores_of(strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the true chances of disease, where the signal has this strength."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, 4000)
    logit = strength * (labels - 0.5) * strength + strength * draw.normal(size=labels.size)
    return labels, 1.0 / (1.0 + np.exp(-logit))


@pytest.mark.parametrize("name", list(METRICS))
def test_a_better_model_is_better_by_every_metric_that_has_a_direction(name: str) -> None:
    """Sabotage: a row whose ideal is the other end of its range."""
    metric = METRICS[name]
    good, bad = (metric.of(*scores_of(strength, 3), 0.5) for strength in (2.5, 0.5))
    if metric.direction == "target":  # a model is right, and another one too sure of itself
        labels, right = scores_of(1.5, 3)
        odds = np.log(right / (1 - right)) + 0.7 * (name == "calibration_intercept")
        sure = 1 / (1 + np.exp(-3 * odds))
        assert metric.ideal is not None
        good, bad = (-abs(metric.of(labels, s) - metric.ideal) for s in (right, sure))
        assert good > -0.15
    elif name == "ece":  # not worse for knowing less, but for saying too much
        labels, right = scores_of(1.5, 3)
        good, bad = metric.of(labels, right), metric.of(labels, np.round(right))
    if metric.direction == "neither":
        assert name == "selection_rate"
    elif metric.direction == "lower":
        assert good < bad
    else:
        assert good > bad


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.ideal is not None])
def test_the_ideal_is_what_a_perfect_model_reaches(name: str) -> None:
    metric = METRICS[name]
    labels = np.array([0, 0, 1, 1, 1])
    if metric.direction == "target":
        labels, right = scores_of(1.5, 5)
        assert metric.of(labels, right) == pytest.approx(metric.ideal, abs=0.15)
    else:
        assert metric.of(labels, labels.astype(float), 0.5) == metric.ideal


def test_directions_are_told_by_the_ideal() -> None:
    told = {name: metric.direction for name, metric in METRICS.items()}
    assert told["auroc"] == told["ppv"] == "higher"
    assert told["fnr"] == told["brier"] == told["ece"] == "lower"
    assert told["calibration_slope"] == told["calibration_intercept"] == "target"
    assert told["selection_rate"] == "neither"


@pytest.mark.parametrize("name", list(SHARES))
def test_parts_of_all_images_are_the_sums_of_each_ones(name: str) -> None:
    """Derivatives by an image's weight rest on it. Sabotage: a product of two counts."""
    draw = np.random.default_rng(0)
    truth, called = (draw.integers(0, 2, 50).astype(float) for _ in range(2))
    each = Counts(np.ones(50), truth, 1 - truth, called * truth, called * (1 - truth))
    sums = Counts(*(getattr(each, field.name).sum() for field in dataclasses.fields(each)))
    for part, whole in zip(SHARES[name](each), SHARES[name](sums), strict=True):
        assert part.sum() == whole


@pytest.mark.parametrize("name", list(METRICS))
def test_the_plain_value_is_the_measured_one(name: str) -> None:
    """Of a mean of groups: that of one group."""
    labels, scores = scores_of(0.8, 7)
    column = Column(name="a", scores=scores, threshold=0.4)
    measured = measure([column], labels, np.arange(labels.size), resamples=0)
    found = METRICS[name].of(labels, scores, 0.4)
    assert found == pytest.approx(
        float(measured.quantity(METRICS[name].mean_of or name).values[0]), abs=1e-9
    )


def test_without_a_threshold_or_images_there_is_no_number() -> None:
    for name, metric in METRICS.items():
        assert math.isnan(metric.of([], [], 0.5)), name
        assert math.isnan(metric.of([0, 1], [0.1, 0.9])) == (
            metric.kind == "calls" or name.startswith("calibration")
        ), name


def named(node: ast.AST) -> list[str]:
    """Metrics and gaps that are written out side by side in a tuple, list, set or dict."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        written: list[ast.expr | None] = list(node.elts)
    elif isinstance(node, ast.Dict):
        written = list(node.keys)
    else:
        return []
    texts = [one.value for one in written if isinstance(one, ast.Constant)]
    return [text for text in texts if text in METRICS or text in GAPS]


def test_nothing_else_lists_metrics_by_hand() -> None:
    """Sabotage: a page that has its own list, and so leaves the next metric out."""
    for path in sorted((ROOT / "fedmed").rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place in TABLES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert len(named(node)) < 3, f"{place}:{getattr(node, 'lineno', 0)} lists {named(node)}"
    assert len(named(ast.parse('("auroc", "fnr", "ece")').body[0].value)) == 3  # type: ignore[attr-defined]  # an expression


def test_titles_are_told_apart_and_the_terminal_has_a_word_for_each(
    result: dict, comparison: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*METRICS.values(), *GAPS.values()]
    assert len({row.title for row in rows}) == len({row.word for row in rows}) == len(rows)
    assert set(WORDS) == {row.name for row in rows}
    show(result, "one")
    show(comparison, "two")
    printed = capsys.readouterr().out
    wanted = [m for m in shown("result").values() if m.interval]
    wanted += [*shown("comparison of groups").values(), *shown("terminal").values()]
    for row in (*wanted, *GAPS.values()):
        assert row.word in printed


def test_the_guide_explains_every_metric_and_every_gap() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    for name in (*METRICS, *GAPS):
        assert f"`{name}`" in text, f"write into docs/evaluation.md what {name} is"


F1 = """    Metric(
        name="f1",
        title="F1 score",
        kind="calls",
        ideal=1.0,
        meaning="2 TP / (2 TP + FP + FN)",
        share=lambda c: (2.0 * c.tp, 2.0 * c.tp + c.fp + c.fn),
        shown=(
            *("result", "result at fixed specificity", "groups", "intervals of groups"),
            *("detectable in groups", "figures of groups", "comparison", "comparison of groups"),
            *("summary", "terminal"),
        ),
    ),
    Metric(
        name="brier","""

TRIED = """
import sys
from pathlib import Path
from sklearn.metrics import f1_score
from support.tables import images, scored, write_run
from fedmed.cli.evaluate import show
from fedmed.evaluation.summary import evaluate
from fedmed.evaluation.comparison.compare import compare, from_directory
from fedmed.report.arms import summarise
from fedmed.report.groups import metric_figure
from fedmed.report.load import load, summary_table
from fedmed.report.sections import headings, measures

rows = scored(images(), 2.0, 1)
found = evaluate(rows, resamples=200)
test = rows[rows["split"] == "test"]
wanted = f1_score(test["label"], test["score"] >= found["threshold"])
assert abs(found["f1"] - wanted) < 1e-12, (found["f1"], wanted)
low, high = found["intervals"]["f1"]
assert low < found["f1"] < high
assert found["at_specificity"]["intervals"]["f1"]
women = found["groups"]["sex"][0]
assert women["intervals"]["f1"][0] < women["f1"] < women["intervals"]["f1"][1]
assert women["minimum_detectable_gap"]["f1"] > 0
out = Path(sys.argv[1])
write_run(out, "plain", 0, rows, metrics=found)
compared = from_directory(out, resamples=200)
assert compared["by_arm"]["plain"]["metrics"]["f1"]["low"] < found["f1"]
assert compared["by_arm"]["plain"]["groups"]["sex"]["F"]["f1"]["value"] == women["f1"]
arms = summarise(load(out))
assert "F1 score" in measures(arms)["titles"]
assert "F1 score" in headings()["beside"]
assert summary_table(out)["f1"].tolist() == [found["f1"]]
figure = metric_figure("sex", "f1", arms)
assert figure.title == "F1 score by sex" and figure.caption.startswith("More is better.")
show(found, "one")
show(compared, "two")
"""


def test_a_new_row_is_all_that_a_new_metric_of_calls_needs(tmp_path: Path) -> None:
    """The dry run of docs/architecture.md: F1 in a copy, of which one file is changed."""
    shutil.copytree(
        ROOT / "fedmed", tmp_path / "fedmed", ignore=shutil.ignore_patterns("__pycache__")
    )
    table = tmp_path / TABLES[0]
    text = table.read_text(encoding="utf-8")
    old = F1[F1.rindex("    Metric(") :]
    assert text.count(old) == 1
    table.write_text(text.replace(old, F1), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", TRIED, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'tests'}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("F1 score") > 4
