"""What the tables and lists of the report hold, section by section."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from fedmed.evaluation.group_gaps import GAPS, HEADLINE
from fedmed.evaluation.metrics import METRICS, Metric, shown
from fedmed.report import groups, people, words
from fedmed.report.arms import Arm
from fedmed.report.evidence import Estimate, Evidence, estimate
from fedmed.report.load import Comparison, Run
from fedmed.report.palette import arm_colour, arm_shape
from fedmed.report.reading import Json, dig, mean, number, rows, table, texts

_SCHEMES: Final = {
    "federated": "trained together",
    "pooled": "all data in one place",
    "local-only": "each hospital alone",
}


def facts(comparison: Comparison, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The size of the comparison, as label and value."""
    first = table(arms[0].results[0], "metrics") if arms else {}
    prevalence = number(first.get("prevalence"))
    seeds = sorted({run.seed for run in comparison.runs})
    facts = [
        ("Cohort", comparison.cohort),
        ("Test images", plain(first.get("n_test"))),
        ("Test patients", plain(first.get("patients_test"))),
        ("With disease", f"{prevalence:.0%}" if prevalence is not None else ""),
        ("Arms", str(len(comparison.arms))),
        ("Seeds", _counted(seeds)),
    ]
    return [(name, value) for name, value in facts if value and value != words.ABSENT]


def _counted(seeds: Sequence[int]) -> str:
    """How many seeds, and which: "0" alone reads as none."""
    if not seeds:
        return ""
    numbers = words.listed([str(seed) for seed in seeds])
    return f"{len(seeds)} (number{'s' if len(seeds) > 1 else ''} {numbers})"


def row(arm: Arm, arms: Sequence[Arm], base: Arm | None) -> dict[str, Any]:
    """A row of the table of arms; `strip` holds percentages along the AUROC axis drawn in it."""
    lows = [value for a in arms for value in (a.low, a.auroc) if value is not None]
    start = min([0.5, *lows])
    start = int(start * 20) / 20

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / (1.0 - start), 2)

    change, changed = Estimate(), ""
    if base is not None and arm is not base and arm.auroc is not None and base.auroc is not None:
        change = Estimate(value=arm.auroc - base.auroc)
        compared = arm.evidence.headline(arm.name) if arm.evidence else None
        if compared is not None:
            change = compared.change
            changed = "" if compared.quantity == "auroc" else METRICS[compared.quantity].title
    return {
        "arm": arm,
        "mark": legend([arm])[0],
        "scheme": _SCHEMES.get(arm.scheme, arm.scheme),
        "guarantee": words.guarantee(arm),
        "per_pixel": arm.statement.get("epsilon_per_pixel"),
        "neighbouring": arm.statement.get("neighbouring"),
        "replaced": arm.replaced
        if arm.epsilon is not None and arm.replaced != arm.epsilon
        else None,
        "change": change,
        "changed": changed,
        "measures": [arm.measure(metric.name) for metric in _beside()],
        "under": [(metric.title, arm.measure(metric.name)) for metric in _under()],
        "strip": (
            place(arm.low),
            place(arm.auroc),
            place(arm.high),
            place(base.auroc if base else None),
        ),
        "axis_start": start,
    }


def splits(evidence: Evidence | None) -> list[Json]:
    """What each private arm loses, by its recipe, its clipping and its noise: a row per step."""
    told = []
    for split in evidence.splits if evidence else []:
        steps = [*rows(split, "steps"), {"step": "together", **table(split, "total")}]
        metric = METRICS.get(str(split.get("quantity")))
        told.append(
            {
                "arm": str(split.get("arm")),
                "title": metric.title if metric else "AUROC",
                "steps": [
                    {
                        "step": str(step.get("step")),
                        "between": f"{step.get('from')} to {step.get('to')}",
                        "before": number(step.get("before")),
                        "after": number(step.get("after")),
                        "change": estimate(table(step, "difference")),
                        "p": number(step.get("p")),
                    }
                    for step in steps
                ],
            }
        )
    return told


def _beside() -> list[Metric]:
    """The metrics with a column of their own in the table of arms."""
    return [metric for metric in shown("summary").values() if metric.thresholds]


def _under() -> list[Metric]:
    """The other ones of the summary, which stand below the AUROC."""
    return [metric for metric in shown("summary").values() if not metric.thresholds]


def headings() -> dict[str, Any]:
    """Titles of the metrics in the table of arms, and the gaps in the tables of gaps."""
    beside = _beside()
    taken = words.listed([metric.title for metric in beside])
    return {
        "beside": [metric.heading for metric in beside],
        "taken": taken[0].upper() + taken[1:],
        "gap_rows": list(HEADLINE.values()),
    }


def measures(arms: Sequence[Arm]) -> Json:
    """Every measure that an arm has, with its interval: titles, and a row per arm."""
    estimates = {title: [arm.measure(*way) for arm in arms] for title, way in _ways().items()}
    estimates = {
        title: measured
        for title, measured in estimates.items()
        if any(one.value is not None for one in measured)
    }
    return {
        "titles": list(estimates),
        "rows": [
            (arm.name, [measured[place] for measured in estimates.values()])
            for place, arm in enumerate(arms)
        ],
    }


def _ways() -> dict[str, tuple[str, ...]]:
    """Where each measure beside AUROC lies in the metrics, by its title."""
    overall = {name: metric for name, metric in shown("result").items() if name != "auroc"}
    return {metric.heading: (name,) for name, metric in overall.items()} | {
        f"{metric.heading} at fixed specificity": ("at_specificity", name)
        for name, metric in shown("report at fixed specificity").items()
    }


def targets(arms: Sequence[Arm]) -> Json:
    """AUROC by target and arm where a table had several labels; no names where it had one."""
    names = list(
        dict.fromkeys(
            name
            for arm in arms
            for result in arm.results
            for name in table(result, "metrics", "targets")
        )
    )
    return {
        "names": names,
        "arms": [arm.name for arm in arms],
        "rows": [(name, [arm.metric("targets", name, "auroc") for arm in arms]) for name in names],
    }


def progress(run: Run) -> tuple[str, str]:
    """An unfinished run and how far it has come."""
    done = max((int(entry["round"]) for entry in run.history), default=None)
    failed = next((entry for entry in run.history if entry.get("failed")), None)
    if failed is not None:
        codes = ", ".join(f"{f.get('hospital')}: {f.get('code')}" for f in rows(failed, "failures"))
        return f"{run.arm}, seed {run.seed}", f"failed in round {failed['round']} ({codes})"
    state = "not finished" if done is None else f"not finished, round {done} done"
    return f"{run.arm}, seed {run.seed}", state


def gap_tables(arms: Sequence[Arm], base: Arm | None) -> list[dict[str, Any]]:
    """Per attribute a table of gaps, one row per arm, and what was not compared."""
    tables = []
    for attribute in groups.attributes(arms):
        gap_rows, notes = [], []
        for arm in arms:
            gaps = [table(result, "metrics", "fairness", attribute) for result in arm.results]
            gaps = [gap for gap in gaps if gap]
            if not gaps:
                continue
            notes += [people.note(note, attribute) for gap in gaps for note in texts(gap, "notes")]
            gap_rows.append(_gap_row(arm, base, attribute, gaps))
        if gap_rows:
            tables.append(
                {
                    "attribute": attribute,
                    "title": groups.words(attribute),
                    "rows": gap_rows,
                    "measured": any(
                        isinstance(value, Estimate) and value.value is not None
                        for row in gap_rows
                        for value in row.values()
                    ),
                    "notes": list(dict.fromkeys(notes)),
                    "first": groups.first(attribute),
                }
            )
    return tables


def _gap_row(arm: Arm, base: Arm | None, attribute: str, gaps: Sequence[Json]) -> dict[str, Any]:
    known = [
        (group.metrics["auroc"].value, people.named(attribute, group.name))
        for group in arm.groups(attribute)
        if "auroc" in group.metrics and group.name != "unknown"
    ]
    change = groups.change(arm, base, attribute, "auroc_gap") if base and arm is not base else None
    return {
        "arm": arm.name,
        "quiet": arm.blind or arm.weak,
        "why": "not shown to be better than chance"
        if arm.blind
        else "no meaningful protection"
        if arm.weak
        else "",
        "worst": min(known, key=lambda one: one[0] or 0.0) if known else None,
        "change": change.change if change else Estimate(),
        "pearson": arm.metric("fairness", attribute, "pearson_size_auroc"),
        "calibration": arm.gap(attribute, "calibration_gap"),
        **{key: arm.gap(attribute, key) for key in HEADLINE},
        **_accuracy_gap(arm, attribute, gaps),
    }


def _accuracy_gap(arm: Arm, attribute: str, by_seed: Sequence[Json]) -> Json:
    """The accuracy gap, and of other attributes than sex the group that is furthest from the rest.

    That group is the one whose signed gap is largest in size after averaging over seeds.
    """
    names = dict.fromkeys(name for gaps in by_seed for name in table(gaps, "accuracy_gaps"))
    means = {name: mean(dig(gaps, "accuracy_gaps", name) for gaps in by_seed) for name in names}
    largest = max(means, key=lambda name: abs(means[name] or 0.0), default=None)
    group = None
    if largest is not None and attribute != "sex":
        side = "below" if (means[largest] or 0.0) < 0.0 else "above"
        group = f"{people.named(attribute, largest)} {side} the others"
    return {"accuracy_gap": arm.gap(attribute, "accuracy_gap"), "accuracy_gap_group": group}


def legend(arms: Sequence[Arm]) -> list[dict[str, str]]:
    """Every arm with the colour and the shape that it has in all figures."""
    return [
        {"name": arm.name, "colour": arm_colour(arm.number), "shape": arm_shape(arm.number)}
        for arm in arms
    ]


def correlations(comparison: Comparison) -> Json:
    """Pearson's r of what may go with a loss: `rows`, and in one line those without a number."""
    records = comparison.evidence.correlations if comparison.evidence else []
    kept = [
        {
            "name": _correlation(row),
            "arm": str(row.get("arm") or "all with an epsilon"),
            "unit": str(row.get("unit") or words.ABSENT),
            "r": number(row.get("r")),
            "interval": words.interval(number(row.get("low")), number(row.get("high")), sign=True),
            "n": number(row.get("n")),
        }
        for row in records
        if number(row.get("r")) is not None
    ]
    where: dict[tuple[str, str], list[str]] = {}
    for row in records:
        if number(row.get("r")) is None:
            why = _not_computed(row)
            of = row.get("arm") or (f"ε per {row['unit']}" if row.get("unit") else "")
            where.setdefault((_correlation(row), why), []).append(str(of))
    alike: dict[tuple[str, str], list[str]] = {}
    for (name, why), of in where.items():
        alike.setdefault((why, ", ".join(filter(None, of))), []).append(name)
    told = [
        f"{words.listed(names)} ({f'{of}: ' if of else ''}{why})"
        for (why, of), names in alike.items()
    ]
    return {"rows": kept, "left_out": "; ".join(told)}


def _not_computed(row: Json) -> str:
    """Why a correlation has no number, from its note."""
    note, points = str(row.get("note") or ""), int(number(row.get("n")) or 0)
    if not note.startswith("too few"):
        return "one side does not vary"
    needed = re.search(r"(\d+) needed", note)
    told = f"{points} point{'' if points == 1 else 's'}"
    return f"{told}, {needed[1]} are needed" if needed else f"{told}, too few"


def _correlation(row: Json) -> str:
    gap = GAPS.get(str(row.get("quantity")))
    return str(row.get("name") or "") + ("" if gap is None else f", {gap.title}")


def changes(comparison: Comparison, arms: Sequence[Arm]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Per arm the settings that are not those of the experiment's base."""
    return [
        (
            arm.name,
            [
                (key, value)
                for key, value in sorted(arm.runs[0].config.items())
                if comparison.base.get(key) != value and key not in ("run.seed", "run.out")
            ],
        )
        for arm in arms
    ]


def merged(results: Sequence[Json], key: str) -> list[tuple[str, str]]:
    """Values of a table over all results; several values of one name are listed."""
    values: dict[str, list[str]] = {}
    for result in results:
        for name, value in table(result, key).items():
            if str(value) not in values.setdefault(str(name), []):
                values[str(name)].append(str(value))
    return [(name, ", ".join(distinct)) for name, distinct in values.items()]


def machines(results: Sequence[Json]) -> list[str]:
    """The machines that the runs were made on, in words."""
    machines = []
    for result in results:
        machine = table(result, "machine")
        parts = [
            str(machine.get("cpu") or ""),
            f"{machine['cores']} cores" if machine.get("cores") else "",
            str(machine.get("gpu") or "no GPU") if machine else "",
            str(machine.get("system") or ""),
        ]
        machines.append(", ".join(part for part in parts if part))
    return [machine for machine in dict.fromkeys(machines) if machine]


def notes(arms: Sequence[Arm]) -> list[str]:
    """What the evaluation could not measure; arms with the same note share a line."""
    arms_by_note: dict[str, list[str]] = {}
    for arm in arms:
        for note in arm.notes():
            arms_by_note.setdefault(note, []).append(arm.name)
    every = len(arms) > 1
    return [
        f"{'every arm' if every and len(names) == len(arms) else ', '.join(names)}: {note}"
        for note, names in arms_by_note.items()
    ]


def plain(value: Any) -> str:
    """A count or a setting as text; a dash for None."""
    if value is None:
        return words.ABSENT
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and value < 1e15):
        return f"{int(value):,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
