import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from support import refuses
from support.tables import images, rates, scored

from fedmed.evaluation.comparison.comparison import compare
from fedmed.evaluation.discrimination import youden_threshold
from fedmed.evaluation.group_gaps import HEADLINE
from fedmed.evaluation.intervals.delong import paired

BASE = images(400)
Tables = dict[str, dict[int, pd.DataFrame]]


def arms(*strengths: float, seeds: int = 2, base: pd.DataFrame = BASE) -> Tables:
    return {
        f"arm-{number}": {s: scored(base, strength, 10 * number + s) for s in range(seeds)}
        for number, strength in enumerate(strengths)
    }


def run(tables: Tables, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"resamples": 200, "epsilons": {}} | options
    found = compare(tables, "arm-0", **settings)
    json.dumps(found, allow_nan=False)
    return found


def row(found: dict[str, Any], quantity: str, **keys: Any) -> dict[str, Any]:
    """The first difference of a quantity with these keys."""
    return next(
        r
        for r in found["differences"]
        if r["quantity"] == quantity and all(r[key] == value for key, value in keys.items())
    )


def held_out(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "test"]


def auc(table: pd.DataFrame) -> float:
    test = held_out(table)
    return float(roc_auc_score(test["label"], test["score"]))


def test_values_are_means_over_seeds_and_differences_are_arm_minus_baseline() -> None:
    tables = arms(2.5, 1.0)
    found = run(tables)
    each = {arm: [auc(t) for t in by_seed.values()] for arm, by_seed in tables.items()}
    told = found["by_arm"]["arm-1"]["metrics"]["auroc"]
    assert told["value"] == pytest.approx(np.mean(each["arm-1"]))
    assert told["low"] < told["value"] < told["high"]
    assert told["training_sd"] == pytest.approx(np.std(each["arm-1"], ddof=1))
    change = row(found, "auroc", kind="metric")
    by_seed = np.subtract(each["arm-1"], each["arm-0"])
    assert change["value"] == pytest.approx(np.mean(each["arm-1"]))
    assert change["baseline_value"] == pytest.approx(np.mean(each["arm-0"]))
    assert change["difference"]["value"] == pytest.approx(by_seed.mean())
    assert change["difference"]["training_sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert change["difference"]["high"] < 0
    assert change["difference"]["both_low"] <= change["difference"]["low"]
    assert (found["images"], found["patients"]) == (300, 300)
    assert found["positives"] == int(held_out(BASE)["label"].sum())


def test_tables_may_be_in_any_order_and_pair_by_image() -> None:
    tables = arms(2.0, 1.0, seeds=1)
    shuffled = {
        arm: {s: t.sample(frac=1, random_state=3 + s) for s, t in by_seed.items()}
        for arm, by_seed in tables.items()
    }
    assert run(shuffled) == run(tables)


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    """Two models that err on the same images: their difference is known better than either."""
    strong = scored(BASE, 1.5, 1)
    weak = strong.assign(score=0.9 * strong["score"] + 0.1 * scored(BASE, 0.0, 2)["score"])
    found = run({"arm-0": {0: strong}, "arm-1": {0: weak}})
    change = row(found, "auroc", kind="metric")["difference"]
    own = found["by_arm"]["arm-1"]["metrics"]["auroc"]
    assert (change["high"] - change["low"]) < 0.5 * (own["high"] - own["low"])


def test_the_same_model_differs_in_nothing() -> None:
    table = scored(BASE, 1.5, 1)
    found = run({"arm-0": {0: table}, "arm-1": {0: table}})
    for change in found["differences"]:
        assert change["difference"]["value"] == 0
        assert change["p"] is None  # nothing varies: there is no test
        assert change["delong_p"] is None
    assert found["family"]["size"] == 0


def test_every_run_keeps_the_threshold_of_its_own_validation_rows() -> None:
    tables = arms(2.0, 1.0, seeds=1)
    tables["arm-1"][0]["score"] **= 3  # another scale: a shared threshold would call few positive
    found = run(tables)
    table = tables["arm-1"][0]
    val, test = table[table["split"] == "val"], held_out(table)
    at = rates(test["label"], test["score"], youden_threshold(val["label"], val["score"]))
    told = found["by_arm"]["arm-1"]["metrics"]
    assert told["sensitivity"]["value"] == pytest.approx(at.sensitivity)
    assert told["accuracy"]["value"] == pytest.approx(at.accuracy)


def test_without_validation_rows_only_what_needs_no_threshold_is_compared() -> None:
    tables = arms(2.0, 1.0, seeds=1, base=BASE[BASE["split"] == "test"])
    found = run(tables)
    assert row(found, "auroc", kind="metric")["p"] is not None
    assert row(found, "sensitivity")["difference"]["value"] is None
    assert row(found, "fnr_gap", attribute="sex")["p_holm"] is None
    assert "arm-1/seed-0: no threshold: there are no validation rows" in " ".join(found["notes"])


def test_the_gap_of_a_model_that_is_worse_for_women_opens() -> None:
    base = images(4000, seed=1)
    tables = {
        "arm-0": {0: scored(base, 2.0, 1)},
        "arm-1": {0: scored(base, 2.0, 2, worse=0.3)},
    }
    found = run(tables)
    change = row(found, "auroc_gap", attribute="sex")
    assert change["headline"]
    assert change["difference"]["low"] > 0.1
    assert change["p"] < 1e-6  # a count of 200 resamples could not say so
    assert change["p_holm"] == pytest.approx(
        change["p"] * sum(r["headline"] and r["p"] >= change["p"] for r in found["differences"])
    )
    women = row(found, "accuracy", group="F", attribute="sex")
    assert women["difference"]["high"] < 0
    sex = row(found, "accuracy_gap", attribute="sex")
    men = row(found, "accuracy", group="M", attribute="sex")
    assert sex["value"] == pytest.approx(women["value"] - men["value"])


def test_p_values_are_adjusted_over_the_headline_family_only() -> None:
    found = run(arms(2.0, 1.4, 1.0))
    headline = [r for r in found["differences"] if r["headline"]]
    # One AUROC and the gaps of sex and age for each of two arms.
    assert len(headline) == 2 * (1 + 2 * len(HEADLINE))
    assert found["family"] == {
        "method": "Holm",
        "size": len(headline),
        "members": "the headline differences",
        "level_of_detectable": pytest.approx(1 - 0.05 / len(headline)),
    }
    assert all(r["p_holm"] >= r["p"] for r in headline)
    least = min(headline, key=lambda r: r["p"])
    assert least["p_holm"] == pytest.approx(min(1.0, least["p"] * len(headline)))
    assert {r["p_holm"] for r in found["differences"] if not r["headline"]} == {None}


def test_p_and_interval_agree() -> None:
    """A quantity whose 95 % interval leaves out zero has p below 0.05 and the other way round."""
    found = run(arms(2.0, 1.9, 1.7), resamples=1000)
    for kind, test in (("", "p_test"), ("both_", "p")):
        clear = 0
        for change in found["differences"]:
            low, high = (change["difference"][kind + end] for end in ("low", "high"))
            if low is not None and 0.0 not in (low, high):
                assert (low > 0 or high < 0) == (change[test] < 0.05), change
                clear += change[test] < 0.05
        assert clear > 0


def test_what_training_moves_as_much_as_privacy_is_no_finding() -> None:
    """Seeds of one arm far apart: the test patients are sure of these models, training is not."""
    base = images(4000, seed=3)
    strengths = {"arm-0": [2.0, 2.0], "arm-1": [1.9, 0.6]}
    tables = {
        arm: {s: scored(base, strength, 7 * n + s) for s, strength in enumerate(each)}
        for n, (arm, each) in enumerate(strengths.items())
    }
    change = row(run(tables), "auroc", kind="metric")
    assert change["p_test"] < 1e-6
    assert change["difference"]["both_low"] < 0 < change["difference"]["both_high"]
    assert change["p"] > 0.05
    assert change["p_holm"] >= change["p"]
    one = {arm: {0: by_seed[0]} for arm, by_seed in tables.items()}
    alone = row(run(one), "auroc", kind="metric")
    assert alone["p"] == alone["p_test"]
    # What two such seeds can show is more than what so many patients could.
    assert change["minimum_detectable"] > 10 * alone["minimum_detectable"]


def test_delongs_test_is_that_of_two_models() -> None:
    tables = arms(1.5, 1.2, seeds=1)
    change = row(run(tables, resamples=2000), "auroc", kind="metric")
    ours, theirs = (held_out(tables[f"arm-{n}"][0]).sort_values("image") for n in (1, 0))
    expected = paired(ours["label"].to_numpy(), ours["score"], theirs["score"])
    assert not isinstance(expected, str)
    assert change["delong_p"] == pytest.approx(expected.p, rel=1e-9)
    assert change["p"] == pytest.approx(expected.p, rel=0.35, abs=0.02)


def test_delongs_test_over_seeds_is_of_their_mean() -> None:
    tables = arms(1.5, 1.2, seeds=1)
    once = row(run(tables), "auroc", kind="metric")["delong_p"]
    copies = {arm: {0: by_seed[0], 1: by_seed[0]} for arm, by_seed in tables.items()}
    assert row(run(copies), "auroc", kind="metric")["delong_p"] == pytest.approx(once)
    # Independent noise averages out: two seeds see the same difference more clearly.
    assert row(run(arms(1.5, 1.0)), "auroc", kind="metric")["delong_p"] < 0.05


def test_no_delong_where_a_patient_has_several_images() -> None:
    found = run(arms(2.0, 1.0, seeds=1, base=images(400, films=2)))
    assert row(found, "auroc", kind="metric")["delong_p"] is None
    assert any(note.startswith("no DeLong test") for note in found["notes"])
    assert found["patients"] == 150


def test_one_seed_says_nothing_about_training() -> None:
    change = row(run(arms(2.0, 1.0, seeds=1)), "auroc", kind="metric")["difference"]
    assert change["seeds"] == 1
    for key in ("training_sd", "training_low", "training_high", "both_low", "both_high"):
        assert change[key] is None


def test_differences_are_over_common_seeds() -> None:
    tables = arms(2.0, 1.0, seeds=3)
    del tables["arm-1"][1]
    found = run(tables)
    change = row(found, "auroc", kind="metric")
    assert change["difference"]["seeds"] == 2
    assert change["baseline_value"] == pytest.approx(
        np.mean([auc(tables["arm-0"][s]) for s in (0, 2)])
    )
    assert "differences of arm-1 and arm-0 are over common seeds (0, 2)" in found["notes"]


def test_without_a_common_seed_means_are_subtracted() -> None:
    tables = arms(2.0, 1.0, seeds=2)
    tables["arm-1"] = {s + 5: t for s, t in tables["arm-1"].items()}
    found = run(tables)
    change = row(found, "auroc", kind="metric")
    means = [np.mean([auc(t) for t in tables[f"arm-{n}"].values()]) for n in (0, 1)]
    assert change["difference"]["value"] == pytest.approx(means[1] - means[0])
    assert change["difference"]["training_sd"] is None
    assert change["delong_p"] is None
    assert any("no seed in common" in note for note in found["notes"])


def test_a_group_with_too_few_says_so_and_no_gap_uses_it() -> None:
    base = images(600).assign(hospital="big")
    base.loc[base["image"].str[-1].isin(["1", "2", "3", "5"]), "hospital"] = "middle"
    base.loc[base.index[-20:], "hospital"] = "small"
    found = run(arms(2.0, 1.0, base=base))
    told = found["by_arm"]["arm-1"]["groups"]["hospital"]["small"]
    assert (told["note"], told["auroc"]) == ("too few", None)
    assert not [r for r in found["differences"] if r["group"] == "small"]
    values = [
        found["by_arm"]["arm-1"]["groups"]["hospital"][name]["auroc"]["value"]
        for name in ("big", "middle")
    ]
    assert row(found, "auroc_gap", attribute="hospital", arm="arm-1")["value"] < 0.2
    assert len(values) == 2
    assert any(
        note.startswith("hospital: small is not compared: too few") for note in found["notes"]
    )


def test_what_is_detectable_is_what_the_standard_error_allows() -> None:
    change = row(run(arms(1.5, 1.2, seeds=1), resamples=2000), "auroc", kind="metric")
    width = change["difference"]["high"] - change["difference"]["low"]
    # At 5 % divided by the 11 headline differences (AUROC, 5 gaps of sex and of age), 80 % power.
    errors = norm.ppf(1 - 0.025 / 11) + norm.ppf(0.8)
    assert change["minimum_detectable"] == pytest.approx(errors * width / (2 * 1.96), rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t[t["image"] != "i00005"],
            ["different test images", "only arm-0/seed-0", "'i00005'"],
        ),
        (
            lambda t: t.assign(image=t["image"].str.replace("i", "j")),
            ["arm-1/seed-0", "'i00001', 'i00002', 'i00003' and 297 more", "'j00001'"],
        ),
        (lambda t: t.assign(label=1 - t["label"]), ["label of image 'i00001'"]),
        (lambda t: t.assign(patient_id=t["patient_id"] + "x"), ["patient_id of image 'i00001'"]),
        (lambda t: t.drop(columns="image"), ["arm-1/seed-0", "'image' is missing", "paired"]),
        (lambda t: t.assign(target="x"), ["targets"]),
        (
            lambda t: t.assign(score=np.nan),
            ["arm-1/seed-0, row 1", "column 'score' is not a number"],
        ),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(change: Any, words: list[str]) -> None:
    tables = arms(2.0, 1.0, seeds=1)
    tables["arm-1"][0] = change(tables["arm-1"][0])
    refuses(lambda: run(tables), *words)


@pytest.mark.parametrize("first", [0, 1])
def test_demographics_that_one_table_lacks_come_from_the_other(first: int) -> None:
    """Groups do not depend on which of the two tables comes first."""
    tables = [scored(BASE, 2.0, 1), scored(BASE, 1.0, 2)]
    bare = tables[1].drop(columns=["sex", "hospital"]).assign(age=tables[1]["age"])
    bare.loc[::2, "age"] = np.nan
    bare["comorbidities"] = np.where(np.arange(len(BASE)) % 2, 1, 0)
    whole = run({"arm-0": {0: tables[0]}, "arm-1": {0: tables[1]}})
    given = {f"arm-{n}": {0: [tables[0], bare][(n + first) % 2]} for n in range(2)}
    found = run(given)
    groups = found["by_arm"]["arm-0"]["groups"]
    assert list(groups) == ["sex", "age", "sex_age", "hospital", "comorbidities"]
    for attribute in ("sex", "age", "hospital"):
        expected = whole["by_arm"]["arm-0"]["groups"][attribute]
        assert {name: told["n"] for name, told in groups[attribute].items()} == {
            name: told["n"] for name, told in expected.items()
        }
    assert any("of images that no table before it tells: from arm-1" in n for n in found["notes"])


@pytest.mark.parametrize(("column", "value"), [("sex", "M"), ("age", 7.0), ("hospital", "h")])
def test_tables_that_tell_of_another_patient_are_refused(column: str, value: Any) -> None:
    tables = arms(2.0, 1.0, seeds=1)
    women = tables["arm-1"][0]
    row = int(np.flatnonzero((women["split"] == "test") & (women["sex"] == "F"))[3])
    women.loc[women.index[row], column] = value
    name = women["image"].iloc[row]
    refuses(lambda: run(tables), f"arm-0/seed-0 and arm-1/seed-0 differ in the {column} of", name)
    women[column] = None  # unknown is no contradiction
    run(tables, resamples=0)
    # Two that differ from each other, and not from the first, which does not know.
    tables["arm-0"][0][column] = None
    known = scored(BASE, 1.0, 5)
    tables["arm-1"] = {0: known}
    tables["arm-2"] = {0: known.copy()}
    tables["arm-2"][0].loc[known.index[row], column] = value
    refuses(lambda: run(tables), f"arm-1/seed-0 and arm-2/seed-0 differ in the {column} of", name)


def test_an_age_that_a_format_rounded_is_the_same_age() -> None:
    tables = arms(2.0, 1.0, seeds=1)
    tables["arm-1"][0]["age"] = tables["arm-1"][0]["age"].astype("float32")
    run(tables, resamples=0)


def test_a_table_without_patients_beside_one_with_them_says_what_is_missing() -> None:
    tables = arms(2.0, 1.0, seeds=1)
    tables["arm-1"][0] = tables["arm-1"][0].drop(columns="patient_id")
    refuses(lambda: run(tables), "arm-1/seed-0 has no patient_id", "a patient of its own", "add")


def test_an_unknown_baseline_is_refused() -> None:
    tables = {"a": {0: scored(BASE, 1.0, 1)}}
    refuses(lambda: compare(tables, "none", {}), "no arm 'none'", "a")


def test_unknown_patients_are_paired_as_they_are() -> None:
    base = images(400)
    base.loc[base.index[::3], "patient_id"] = None
    found = run(arms(2.0, 1.0, seeds=1, base=base))
    assert found["patients"] == 300


def several_targets(*strengths: float) -> pd.DataFrame:
    """One model's table of several targets, each with its own labels on the same images."""
    parts = []
    for number, strength in enumerate(strengths):
        share = 0.2 + 0.08 * number
        label = (np.random.default_rng(50 + number).random(len(BASE)) < share).astype(int)
        parts.append(scored(BASE.assign(label=label), strength, number).assign(target=f"t{number}"))
    return pd.concat(parts)


def test_targets_are_averaged_and_harder_ones_correlate_with_what_is_lost() -> None:
    strengths = np.linspace(3.0, 1.0, 8)
    plain, private = several_targets(*strengths), several_targets(*(0.7 * strengths - 0.2))
    found = run({"arm-0": {0: plain}, "arm-1": {0: private}}, resamples=0)
    each = {
        name: [auc(part) for _, part in table.groupby("target")]
        for name, table in (("arm-0", plain), ("arm-1", private))
    }
    change = row(found, "auroc", kind="metric")
    assert change["value"] == pytest.approx(np.mean(each["arm-1"]))
    told = found["by_arm"]["arm-1"]["targets"]["t2"]["auroc"]
    assert told["value"] == pytest.approx(each["arm-1"][2])
    lost = np.subtract(each["arm-0"], each["arm-1"])
    by_name = {c["name"]: c for c in found["correlations"]}
    difficulty = by_name["label difficulty vs AUROC loss"]
    halfway = np.mean([each["arm-0"], each["arm-1"]], axis=0)  # Oldham: not either end alone
    assert difficulty["r"] == pytest.approx(np.corrcoef(halfway, lost)[0, 1])
    half = 1.959964 / np.sqrt(8 - 3)
    assert difficulty["low"] == pytest.approx(np.tanh(np.arctanh(difficulty["r"]) - half))
    assert difficulty["high"] == pytest.approx(np.tanh(np.arctanh(difficulty["r"]) + half))
    assert [label for _, _, label in difficulty["points"]] == [f"t{n}" for n in range(8)]
    test = held_out(plain)
    positives = test.groupby("target")["label"].sum()
    assert by_name["positives vs AUROC loss"]["r"] == pytest.approx(
        np.corrcoef(positives, lost)[0, 1]
    )


def test_epsilon_and_gap_correlate_within_a_unit() -> None:
    tables = {f"arm-{n}": {0: scored(images(1200), 2.0, n, worse=1.0 - 0.1 * n)} for n in range(9)}
    epsilons = {"arm-0": None} | {f"arm-{n}": 9.0 - n for n in range(1, 9)}
    units = dict.fromkeys(epsilons, "patient")
    found = run(tables, epsilons=epsilons, units=units, resamples=0)
    told = [c for c in found["correlations"] if c["name"] == "epsilon vs sex gap"]
    assert [c["quantity"] for c in told] == ["accuracy_gap", "auroc_gap"]
    gaps = [found["by_arm"][f"arm-{n}"]["gaps"]["sex"]["auroc_gap"]["value"] for n in range(1, 9)]
    assert told[1]["r"] == pytest.approx(np.corrcoef(range(8, 0, -1), gaps)[0, 1])
    mixed = run(tables, epsilons=epsilons, units={**units, "arm-8": "image"}, resamples=0)
    told = [c for c in mixed["correlations"] if c["name"] == "epsilon vs sex gap"]
    assert [c["r"] for c in told] == [None] * 4
    assert "too few arms with an epsilon (unit: patient) and a gap: 7, 8 needed" in told[0]["note"]


def test_one_target_has_no_correlation_over_targets() -> None:
    found = run(arms(2.0, 1.0, seeds=1))
    assert [(c["r"], c["n"]) for c in found["correlations"]] == [(None, 1), (None, 1)]
    assert "too few targets: 1, 8 needed" in found["correlations"][0]["note"]


def test_a_gap_of_slopes_keeps_limits_beyond_one() -> None:
    """Only differences of shares are cut to -1 and 1."""
    plain, private = scored(BASE, 2.0, 1), scored(BASE, 2.0, 2)
    women = private["sex"] == "F"
    logit = np.log(private["score"] / (1 - private["score"]))
    private["score"] = 1 / (1 + np.exp(-logit.where(~women, logit / 5)))
    change = row(run({"arm-0": {0: plain}, "arm-1": {0: private}}), "calibration_slope_gap")
    told = change["difference"]
    assert told["value"] > 1
    assert told["low"] < told["value"] < told["high"]
