"""Arms against a baseline on the same test images: what each changes, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from fedmed.base.errors import UserError
from fedmed.evaluation import fairness
from fedmed.evaluation.comparison import correlations
from fedmed.evaluation.comparison.alone import against_alone
from fedmed.evaluation.comparison.endpoint import Endpoint, judged
from fedmed.evaluation.comparison.items import GROUP_METRICS, Item, items
from fedmed.evaluation.comparison.joining import joining
from fedmed.evaluation.comparison.places import Noised, between_places
from fedmed.evaluation.comparison.splitting import split
from fedmed.evaluation.group_gaps import GAPS
from fedmed.evaluation.intervals.delong import covariances, delong
from fedmed.evaluation.intervals.estimates import (
    cut_difference,
    difference,
    estimate,
    estimate_change,
    estimate_gap,
    estimate_share,
    estimate_unsure,
    null_difference,
    p_change,
    p_value,
)
from fedmed.evaluation.intervals.intervals import (
    LEVEL,
    detectable,
    holm,
    p_both,
    standard_error,
    training_error,
)
from fedmed.evaluation.intervals.resampling import Progress
from fedmed.evaluation.measuring.measures import RESAMPLES, SEED
from fedmed.evaluation.measuring.panel import MacroPanel, Panel, SinglePanel, paired_targets, panels
from fedmed.evaluation.metrics import METRICS, Place, shown
from fedmed.evaluation.tables.pairing import Paired, Tables, pair

Json = dict[str, Any]


def compare(
    tables: Tables,
    baseline: str,
    epsilons: Mapping[str, float | None],
    *,
    units: Mapping[str, str] | None = None,
    schemes: Mapping[str, str] | None = None,
    noised: Mapping[str, Noised] | None = None,
    between: Mapping[str, Sequence[str]] | None = None,
    primary: Endpoint | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    redraw_threshold: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Json:
    """Compare the runs of several arms on one set of test images, ready for JSON.

    `tables` holds a predictions table per arm and seed. Every run keeps the threshold of its own
    validation rows, or with `redraw_threshold` chooses it anew in every resample; all see the same
    resamples of patients. `epsilons` by arm (None: no guarantee) and `units` (whose data an epsilon
    protects) serve the correlation with gaps, within a unit. `schemes` by arm says which arms are
    compared within hospitals (:func:`_headlines`) and which with a hospital alone, `noised` where
    each adds noise, `between` which split an arm's cost, `primary` which change was named
    beforehand. The result does not depend on `threads` (None: all cores).

    Raises UserError for an unknown baseline, bad tables, and runs whose test images differ.
    """
    if baseline not in tables:
        raise UserError(f"no arm '{baseline}' to compare with; use one of {', '.join(tables)}")
    paired = pair(tables)
    by_target = panels(
        paired.tests,
        paired.redrawn(resamples, seed) if redraw_threshold else paired.columns,
        resamples=resamples,
        seed=seed,
        threads=threads,
        progress=progress,
    )
    panel = _panel(by_target, paired)
    headlines = _headlines(panel, paired, baseline, schemes or {}, between or {})
    by_arm, found = _estimated(panel, paired, baseline, headlines)
    notes = [*paired.notes, *_put_labels(found, by_arm, paired, baseline, by_target)]
    return {
        "baseline": baseline,
        "arms": list(paired.runs),
        **_method(resamples, redrawn=redraw_threshold),
        **_counted(by_target),
        "by_arm": by_arm,
        "differences": found,
        "family": _adjusted(found),
        "primary": judged(primary, found),
        "splits": split(panel, paired, baseline, between or {}, headlines),
        "alone": against_alone(panel, paired, schemes or {}, epsilons),
        "joining": joining(panel, paired, schemes or {}, epsilons, units or {}),
        "places": between_places(panel, paired, noised or {}),
        "correlations": correlations.by_target(by_target, paired.runs, baseline)
        + correlations.epsilon_and_gap(by_arm, epsilons, units or {}),
        "notes": [*notes, *_left_out(panel)],
    }


def _put_labels(
    found: list[Json],
    by_arm: Mapping[str, Json],
    paired: Paired,
    baseline: str,
    by_target: Mapping[str, SinglePanel],
) -> list[str]:
    """Put what one label has (DeLong's p) or several have (each one's AUROC); returns notes."""
    notes = _common_seeds(paired, baseline)
    if len(by_target) == 1:
        return notes + _put_delong(found, paired, baseline, next(iter(by_target.values())))
    _put_targets(by_arm, paired, by_target)
    return notes


def _method(resamples: int, *, redrawn: bool) -> Json:
    """How the intervals were made."""
    return {
        "level": LEVEL,
        "resamples": resamples,
        "method": "bca",
        "unit": "patient",
        "threshold": "redrawn" if redrawn else "fixed",
    }


def _counted(by_target: Mapping[str, SinglePanel]) -> Json:
    """Test images, patients, and those with the disease where that is one label."""
    first = next(iter(by_target.values()))
    return {
        "images": len(first.labels),
        "patients": len(set(first.patients.tolist())),
        "positives": int(first.labels.sum()) if len(by_target) == 1 else None,
    }


def _panel(by_target: Mapping[str, SinglePanel], paired: Paired) -> Panel:
    if len(by_target) == 1:
        return next(iter(by_target.values()))
    return MacroPanel(by_target, paired_targets(paired.tests))


def _headlines(
    panel: Panel,
    paired: Paired,
    baseline: str,
    schemes: Mapping[str, str],
    between: Mapping[str, Sequence[str]],
) -> dict[str, Place | None]:
    """Which metrics' differences are an arm's headline: those between schemes or within one.

    Pooled scores of several models, as hospitals that train alone make them, are no ranking.
    Without a hospital that has numbers all are compared as within one scheme. Arms that only split
    another one's cost have none: they would make every other p-value larger.
    """
    known = all(
        np.isfinite(panel.quantity(name).values).all() for name in shown("headline between schemes")
    )
    splitting_arms = {name for names in between.values() for name in names}
    return {
        arm: None
        if arm in splitting_arms
        else "headline between schemes"
        if known and schemes.get(arm) != schemes.get(baseline)
        else "headline"
        for arm in paired.runs
    }


def _estimated(
    panel: Panel, paired: Paired, baseline: str, headlines: Mapping[str, Place | None]
) -> tuple[dict[str, Json], list[Json]]:
    """Every arm's estimates, and every change from the baseline in the order of the arms."""
    by_arm = {arm: _empty(panel, list(runs)) for arm, runs in paired.runs.items()}
    found: list[Json] = []
    for item in items(panel):  # one at a time: their resamples are large
        for arm, runs in paired.runs.items():
            _place(by_arm[arm], item, list(runs.values()))
            if arm != baseline:
                found.append(_change(item, arm, paired, baseline, headlines[arm]))
    found.sort(key=lambda row: list(by_arm).index(row["arm"]))
    return by_arm, found


def _adjusted(found: list[Json]) -> Json:
    """Put Holm's p values and what can be detected beside the differences; returns the family."""
    headline = [row for row in found if row["headline"]]
    for row, adjusted in zip(headline, holm([row["p"] for row in headline]), strict=True):
        row["p_holm"] = adjusted
    size = sum(row["p"] is not None for row in headline)
    # Who looks for one of many differences must find it at the level that Holm leaves the first.
    shared = 1.0 - (1.0 - LEVEL) / max(1, size)
    for row in found:
        level = shared if row["headline"] else LEVEL
        row["minimum_detectable"] = row["minimum_detectable"](level=level)
    return {
        "method": "Holm",
        "size": size,
        "members": "the headline differences",
        "level_of_detectable": shared,
    }


def _empty(panel: Panel, seeds: list[int]) -> Json:
    """An arm before anything is estimated: its counts."""
    return {
        "seeds": seeds,
        "metrics": {},
        "groups": {
            attribute: {
                count.group: {
                    "n": count.n,
                    "positives": count.positives,
                    "negatives": count.negatives,
                    "note": count.note,
                    **dict.fromkeys(GROUP_METRICS),
                }
                for count in counts
            }
            for attribute, counts in panel.counts.items()
        },
        "gaps": {attribute: dict.fromkeys(GAPS) for attribute in panel.counts},
    }


def _place(told: Json, item: Item, names: list[str]) -> None:
    """Put an arm's estimate of an item where it belongs."""
    place: Json = told["metrics"]
    if item.attribute is not None and item.group is not None:
        place = told["groups"][item.attribute][item.group]
    elif item.attribute is not None:
        place = told["gaps"][item.attribute]
    if item.gap is None:
        own = item.quantity.select(names)
        if item.kind == "gap":
            place[item.name] = estimate(own)
        elif METRICS[item.name].interval:
            place[item.name] = estimate_share(own)
        else:
            place[item.name] = estimate_unsure(own)
    else:
        place[item.name] = estimate_gap(item.gap.select(names))


def _change(item: Item, arm: str, paired: Paired, baseline: str, headlines: Place | None) -> Json:
    """An item of an arm minus the baseline's; what needs the other differences comes later."""
    ours, theirs = paired.runs[arm], paired.runs[baseline]
    change, (value, base) = difference(item.quantity, ours, theirs)
    error = standard_error(change.mean())
    if item.gap is not None and item.largest:
        null = null_difference(item.gap, ours, theirs)
        told, p_test = estimate_change(change, null), p_change(change, null)
        if told["low"] is not None:
            error = (told["high"] - told["low"]) / (2.0 * float(ndtri(0.5 + LEVEL / 2.0)))
    else:
        told, p_test = estimate(change), p_value(change)
    p = p_test
    if told["both_low"] is not None:  # several seeds: training is tested against, too
        p = p_both(change, told["low"], told["high"])
    return {
        "arm": arm,
        "baseline": baseline,
        "kind": item.kind,
        "attribute": item.attribute,
        "group": item.group,
        "quantity": item.name,
        "baseline_value": base,
        "value": value,
        "difference": cut_difference(told, 1.0 if item.gap is None else item.gap.most),
        "p": p,
        "p_test": p_test,
        "p_holm": None,
        "delong_p": None,
        "headline": item.headline(headlines),
        "minimum_detectable": partial(  # the level is known when all differences are
            detectable, error, training=training_error(change), seeds=change.values.size
        ),
    }


def _common_seeds(paired: Paired, baseline: str) -> list[str]:
    """Notes on arms that do not have the baseline's seeds."""
    theirs = paired.runs[baseline]
    notes = []
    for arm, runs in paired.runs.items():
        common = [seed for seed in runs if seed in theirs]
        if not common:
            notes.append(f"{arm} and {baseline} have no seed in common: means are subtracted")
        elif set(runs) != set(theirs):
            listed = ", ".join(str(seed) for seed in common)
            notes.append(f"differences of {arm} and {baseline} are over common seeds ({listed})")
    return notes


def _put_targets(
    by_arm: Mapping[str, Json], paired: Paired, by_target: Mapping[str, SinglePanel]
) -> None:
    for arm, runs in paired.runs.items():
        by_arm[arm]["targets"] = {
            target: {"auroc": estimate_share(single.quantity("auroc").select(list(runs.values())))}
            for target, single in by_target.items()
        }


def _put_delong(found: list[Json], paired: Paired, baseline: str, panel: SinglePanel) -> list[str]:
    """Put DeLong's p-values beside the differences of AUROC; returns why there are none."""
    notes = []
    for row in found:
        if row["kind"] == "metric" and row["quantity"] == "auroc":
            tested = _delong(paired, paired.runs[row["arm"]], paired.runs[baseline], panel)
            if isinstance(tested, str):
                notes.append(f"no DeLong test: {tested}")
            else:
                row["delong_p"] = tested
    return list(dict.fromkeys(notes))


def _delong(
    paired: Paired, runs: Mapping[int, str], theirs: Mapping[int, str], panel: SinglePanel
) -> float | str | None:
    """DeLong's p-value of equal mean AUROC over common seeds, or why there is none.

    A contrast of correlated AUROCs (DeLong et al. 1988, section 3). None where they do not differ.
    """
    common = [seed for seed in runs if seed in theirs]
    if not common:
        return "the arms have no seed in common"
    scores = {column.name: column.scores for column in next(iter(paired.columns.values()))}
    names = [side[seed] for side in (runs, theirs) for seed in common]
    refused = delong(panel.labels, scores[names[0]], panel.patients)
    if isinstance(refused, str):
        return refused
    areas, covariance = covariances(panel.labels, np.array([scores[name] for name in names]))
    weights = np.repeat([1.0, -1.0], len(common)) / len(common)
    variance = float(weights @ covariance @ weights)
    if variance <= 1e-14 * float(np.trace(covariance)):  # equal rankings, up to rounding
        return None
    return 2.0 * float(ndtr(-abs(float(weights @ areas)) / math.sqrt(variance)))


def _left_out(panel: Panel) -> list[str]:
    return [
        f"{attribute}: {note}"
        for attribute, counts in panel.counts.items()
        for note in fairness.left_out(counts)
    ]
