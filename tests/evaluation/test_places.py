"""Differences between places of noise: which arms are compared, paired, and how p is adjusted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support.tables import images, scored, write_run

from fedmed.evaluation.comparison import compare as directory
from fedmed.evaluation.comparison import places
from fedmed.evaluation.comparison.comparison import compare
from fedmed.evaluation.comparison.places import Noised, noised
from fedmed.evaluation.intervals.intervals import LEVEL, detectable
from fedmed.report.answer import answer
from fedmed.report.arms import summarise
from fedmed.report.load import load

BASE = images(600)
STRENGTHS = {"none": 2.4, "local": 1.0, "distributed": 1.6, "central": 1.9}
PATIENT = {"unit": "patient", "epsilon": 8.0, "delta": 1e-5}
KINDS = {"local": "dp-sgd", "distributed": "distributed-dp-sgd", "central": "central-dp-sgd"}


def tables(*seeds: int, **strengths: float) -> dict[str, dict[int, pd.DataFrame]]:
    return {
        arm: {seed: scored(BASE, strength, 100 * place + seed) for seed in seeds or (0, 1, 2)}
        for place, (arm, strength) in enumerate({**STRENGTHS, **strengths}.items())
    }


def at(place: str, **changes: Any) -> Noised:
    return Noised(place=place, **{**PATIENT, **changes})


def run(arms: dict[str, Noised], **options: Any) -> list[dict[str, Any]]:
    scores = options.pop("scores", None) or tables()
    told = compare(scores, "none", {}, noised=arms, resamples=300, **options)["places"]
    json.dumps(told, allow_nan=False)
    result: list[dict[str, Any]] = told
    return result


THREE = {place: at(place) for place in KINDS}


def auroc(table: pd.DataFrame) -> float:
    test = table[table["split"] == "test"]
    return float(roc_auc_score(test["label"], test["score"]))


def pairs(level: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["from"], row["to"]) for row in level["differences"]]


def test_a_difference_is_that_of_auroc_paired_by_seed() -> None:
    scores = tables(0, 1, 2)
    (level,) = run(THREE, scores=scores)
    assert (level["unit"], level["epsilon"], level["delta"]) == ("patient", 8.0, 1e-5)
    assert level["quantity"] == "auroc"
    assert pairs(level) == [
        ("central", "local"),
        ("local", "distributed"),
        ("central", "distributed"),
    ]
    for row in level["differences"]:
        one, other = (
            np.array([auroc(table) for table in scores[row[end]].values()])
            for end in ("from", "to")
        )
        assert row["before"] == pytest.approx(one.mean())
        assert row["after"] == pytest.approx(other.mean())
        change = row["difference"]
        assert change["value"] == pytest.approx((other - one).mean())
        assert change["training_sd"] == pytest.approx((other - one).std(ddof=1))
        assert change["both_low"] < change["low"] < change["value"]
    cost, back, left = (row["difference"]["value"] for row in level["differences"])
    assert cost < -0.05 < 0.0 < back
    assert cost + back == pytest.approx(left)


def test_p_is_adjusted_over_the_differences_of_all_guarantees_and_no_others() -> None:
    scores = tables(0, 1, 2)
    scores |= {
        f"{place}-3": by_seed for place, by_seed in tables(3, 4, 5).items() if place in KINDS
    }
    three = {f"{place}-3": at(place, epsilon=3.0) for place in KINDS}
    levels = run(THREE | three, scores=scores)
    assert [level["epsilon"] for level in levels] == [3.0, 8.0]
    rows = sorted((r for level in levels for r in level["differences"]), key=lambda r: r["p"])
    assert len(rows) == 6
    largest = 0.0
    for place, row in enumerate(rows):
        largest = max(largest, min(1.0, (6 - place) * row["p"]))
        assert row["p_holm"] == pytest.approx(largest)


def test_what_can_be_detected_is_at_the_level_that_holm_leaves_the_first() -> None:
    """One seed: the standard error is that of test patients alone, and so is the interval."""
    (level,) = run(THREE, scores=tables(0))
    shared = 1.0 - (1.0 - LEVEL) / 3.0
    for row in level["differences"]:
        change = row["difference"]
        assert change["both_low"] is None
        error = (change["high"] - change["low"]) / (2 * 1.96)
        wanted = detectable(error, level=shared)
        assert row["minimum_detectable"] == pytest.approx(wanted, rel=0.15)
        assert wanted is not None
        assert row["minimum_detectable"] > 1.08 * (detectable(error) or 0.0)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"unit": "image"}, [("local", "distributed")]),
        ({"epsilon": 8.2}, [("local", "distributed")]),
        ({"delta": 1e-6}, [("local", "distributed")]),
        ({"epsilon": 7.998}, list(places.CONTRASTS)),  # a plan stays a little below what is set
    ],
)
def test_arms_of_another_guarantee_are_not_compared(
    changes: dict[str, Any], wanted: list[tuple[str, str]]
) -> None:
    levels = run(THREE | {"central": at("central", **changes)})
    assert [pair for level in levels for pair in pairs(level)] == wanted


def test_the_larger_of_nearly_equal_epsilons_is_told() -> None:
    (level,) = run(THREE | {"local": at("local", epsilon=7.95)})
    assert level["epsilon"] == 8.0


def test_of_several_arms_at_one_place_the_first_counts_and_others_are_named() -> None:
    scores = {**tables(), "local-b": tables()["none"]}
    (level,) = run(THREE | {"local-b": at("local")}, scores=scores)
    assert level["arms"] == {"central": "central", "local": "local", "distributed": "distributed"}
    assert level["left_out"] == ["local-b"]


def test_arms_of_one_place_have_nothing_to_be_compared_with() -> None:
    assert run({"local": at("local"), "central": at("local", epsilon=1.0)}) == []
    assert run({}) == []


@pytest.mark.parametrize(
    ("told", "place"),
    [
        (("dp-sgd", "federated", "patient", 8.0, 1e-5), "local"),
        (("distributed-dp-sgd", "federated", "image", 8.0, 1e-5), "distributed"),
        (("central-dp-sgd", "federated", "patient", 8.0, 1e-5), "central"),
        (("dp-sgd", "pooled", "patient", 8.0, 1e-5), None),
        (("dp-sgd", "local-only", "patient", 8.0, 1e-5), None),
        (("dp-sgd", "federated", "patient", None, None), None),  # each hospital's own guarantee
        (("central-fixed", "federated", "hospital", 8.0, 1e-5), None),
        (("clipped-sgd", "federated", "patient", 8.0, 1e-5), None),
        (("pixel-laplace", "federated", "image", 8.0, 0.0), None),
        (("of a later version", "federated", "patient", 8.0, 1e-5), None),
    ],
)
def test_only_federated_dp_sgd_of_patients_or_images_has_a_place(
    told: tuple[str, str, str, float | None, float | None], place: str | None
) -> None:
    found = noised(*told)
    assert (None if found is None else found.place) == place


def folder(out: Path) -> Path:
    """A finished comparison with noise at each place, and pooled DP-SGD beside it."""
    runs = {place: {"arm": kind, **PATIENT} for place, kind in KINDS.items()}
    runs["none"] = {"arm": "none"}
    runs["pooled-8"] = {"arm": "dp-sgd", "scheme": "pooled", **PATIENT}
    runs["distributed"]["epsilon"] = 7.999
    order = ["none", "pooled-8", *KINDS]
    scores = tables(0, 1, 2)
    scores["pooled-8"] = scores["none"]
    for arm in order:
        for seed, table in scores[arm].items():
            metrics = {"source": "predictions", "auroc": auroc(table)}
            write_run(out, arm, seed, table, **runs[arm], metrics=metrics)
    (out / "experiment.json").write_text(json.dumps({"arms": order, "seeds": [0, 1, 2]}))
    return out


def test_a_run_directory_is_compared_and_the_report_says_what_is_in_the_file(
    tmp_path: Path,
) -> None:
    out = folder(tmp_path)
    path = directory.write(out, resamples=300)
    found = json.loads(path.read_text())
    (level,) = found["places"]
    assert level["arms"] == {"central": "central", "local": "local", "distributed": "distributed"}
    assert level["left_out"] == []
    (sentence,) = (s for s in answer(summarise(load(out))) if "noise at the server" in s)
    cost, back, _ = (row["difference"]["value"] for row in level["differences"])
    assert f"(local) costs {-cost:.3f} of AUROC against noise at the server (central)" in sentence
    assert f"gives back {back:.3f} of it" in sentence
    assert "pooled-8" not in sentence


def test_a_guarantee_that_changes_makes_the_comparison_anew(tmp_path: Path) -> None:
    out = folder(tmp_path)
    path = directory.write(out, resamples=50)
    assert len(json.loads(path.read_text())["places"][0]["differences"]) == 3
    for seed in (0, 1, 2):
        result = out / "central" / f"seed-{seed}" / "result.json"
        result.write_text(json.dumps({**json.loads(result.read_text()), "delta": 1e-6}))
    directory.write(out, resamples=50)
    assert len(json.loads(path.read_text())["places"][0]["differences"]) == 1
