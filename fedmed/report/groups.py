"""Figures of groups of patients: their numbers under each arm, and how gaps change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedmed.evaluation.group_gaps import HEADLINE
from fedmed.evaluation.metrics import shown
from fedmed.report import forest, people
from fedmed.report.arms import Arm, Group, reference
from fedmed.report.chart import Figure
from fedmed.report.evidence import Difference, Estimate
from fedmed.report.forest import Axis, Block, Row
from fedmed.report.words import ABSENT, fixed, interval, p_value, signed, thousands

ATTRIBUTES: Final = {
    "sex": "sex",
    "age": "age band",
    "sex_age": "sex and age band",
    "view": "view",
    "hospital": "hospital",
    "finding": "finding",
    "comorbidities": "number of co-morbidities",
}
METRICS: Final = shown("figures of groups")
_BETTER: Final = {
    "higher": "More is better.",
    "lower": "Less is better.",
    "target": "{ideal:g} is right.",
    "neither": "Neither more nor less is better.",
}
_FIRST: Final = ("sex", "age")  # shown at once; the others on request
_MOST: Final = 400  # rows of one figure; nobody reads a longer one


def attributes(arms: Sequence[Arm]) -> list[str]:
    """The attributes that have groups, people first."""
    grouped = dict.fromkeys(name for arm in arms for name in arm.attributes() if arm.groups(name))
    known = [name for name in ATTRIBUTES if name in grouped]
    return known + [name for name in grouped if name not in ATTRIBUTES]


def words(attribute: str) -> str:
    """An attribute as the report calls it."""
    return ATTRIBUTES.get(attribute, attribute.replace("_", " "))


def first(attribute: str) -> bool:
    """Whether its figures are shown without asking."""
    return attribute in _FIRST


def metric_figure(attribute: str, metric: str, arms: Sequence[Arm]) -> Figure | None:
    """A metric by group and arm; None where no group has a number, or there are too many."""
    tables = {arm.name: {group.name: group for group in arm.groups(attribute)} for arm in arms}
    names = list(dict.fromkeys(name for groups in tables.values() for name in groups))
    base = reference(list(arms))
    blocks = [_block(attribute, name, metric, arms, tables, base) for name in names]
    count = sum(len(block.rows) for block in blocks)
    if count == 0 or count > _MOST:
        return None
    about = METRICS[metric]
    title = about.title
    axis = _axis(metric, blocks)
    said = "; ".join(
        f"{block.heading}{f' ({block.beneath})' if block.beneath else ''}"
        f"{': ' if block.rows else ''}"
        + ", ".join(f"{row.arm.name} {row.beside or row.absent}" for row in block.rows)
        for block in blocks
    )
    return Figure(
        name=f"groups-{attribute}-{metric}",
        title=f"{about.heading} by {words(attribute)}",
        alternative=f"{title} by {words(attribute)}, a row per group and arm. {said}.",
        caption=_BETTER[about.direction].format(ideal=about.ideal)
        + (f" Grey line: {base.name} in the same group." if base is not None else ""),
        view=forest.view(blocks, axis, arms),
        columns=("Group", "Images", "With disease", "Arm", title, "95 % interval", "Detectable"),
        rows=[
            (
                people.named(attribute, name),
                thousands(group.images),
                thousands(group.positives),
                arm.name,
                fixed(_of(group, metric).value, group.note or ABSENT),
                interval(_of(group, metric).low, _of(group, metric).high),
                fixed(group.detectable.get(metric)),
            )
            for name in names
            for arm in arms
            if (group := tables[arm.name].get(name)) is not None
        ],
        data=pd.DataFrame(
            [
                _record(attribute, metric, arm, group)
                for name in names
                for arm in arms
                if (group := tables[arm.name].get(name)) is not None
            ]
        ),
    )


def change_figure(attribute: str, arms: Sequence[Arm]) -> Figure | None:
    """Gap under each arm minus the gap without privacy; None where nothing was compared."""
    base = reference(list(arms))
    if base is None:
        return None
    changes = [
        (gap.heading, arm, one)
        for quantity, gap in HEADLINE.items()
        for arm in arms
        if arm is not base
        and (one := change(arm, base, attribute, quantity)) is not None
        and one.change.value is not None
    ]
    blocks = [
        Block(
            heading=title, rows=[_change_row(arm, one) for of, arm, one in changes if of == title]
        )
        for title in dict.fromkeys(title for title, _, _ in changes)
    ]
    if not blocks:
        return None
    furthest = max([0.02, *(abs(number) for number in forest.reach(blocks))]) * 1.08
    said = "; ".join(
        f"{block.heading}: "
        + ", ".join(f"{row.arm.name} {signed(row.estimate.value)}" for row in block.rows)
        for block in blocks
    )
    return Figure(
        name=f"gaps-{attribute}",
        title=f"Change of gaps by {words(attribute)}",
        alternative=f"Change of gaps between groups by {words(attribute)} against {base.name}. "
        f"{said}.",
        caption="Right of the dashed line: the gap is larger than without privacy.",
        view=forest.view(
            blocks,
            Axis(
                title=f"gap under the arm minus gap under {base.name}",
                low=-furthest,
                high=furthest,
                line=0.0,
                form="+.2f",
            ),
            arms,
        ),
        columns=(
            "Gap", "Arm", f"Under {base.name}", "Under the arm", "Change", "95 % interval", "p",
            "p, Holm", "Detectable",
        ),
        rows=[_change_cells(title, arm, one) for title, arm, one in changes],
        data=pd.DataFrame(
            [{"attribute": attribute, **_change_record(one, base)} for _, _, one in changes]
        ),
    )  # fmt: skip


def _change_cells(title: str, arm: Arm, difference: Difference) -> tuple[str, ...]:
    """A change as the page prints it."""
    return (
        title,
        arm.name,
        fixed(difference.before),
        fixed(difference.after),
        signed(difference.change.value) + (", turned" if _turned(difference) else ""),
        interval(*difference.change.outer, sign=True),
        p_value(difference.p),
        p_value(difference.p_holm),
        fixed(difference.detectable),
    )


def change(arm: Arm, base: Arm, attribute: str, quantity: str) -> Difference | None:
    """How much larger a gap is than the baseline's; without a paired comparison no interval."""
    if arm.evidence is not None:
        difference = arm.evidence.difference(arm.name, "gap", quantity, attribute)
        if difference is not None:
            return difference.sized
    before, after = (one.gap(attribute, quantity).value for one in (base, arm))
    if before is None or after is None:
        return None
    return Difference(
        arm=arm.name, kind="gap", quantity=quantity, attribute=attribute, group="", before=before,
        after=after, change=Estimate(value=after - before), p=None, p_holm=None,
        headline=False, detectable=None,
    ).sized  # fmt: skip


def _block(
    attribute: str,
    name: str,
    metric: str,
    arms: Sequence[Arm],
    tables: dict[str, dict[str, Group]],
    base: Arm | None,
) -> Block:
    present = [tables[arm.name][name] for arm in arms if name in tables[arm.name]]
    images, ill = thousands(present[0].images), thousands(present[0].positives)
    heading = f"{people.named(attribute, name)}: {images} images, {ill} ill"
    smallest = [group.detectable[metric] for group in present if metric in group.detectable]
    beneath = ""
    if smallest:
        beneath = f"detectable gap {min(smallest):.2f}"
        if max(smallest) - min(smallest) >= 0.005:
            beneath += f"–{max(smallest):.2f}"  # noqa: RUF001 -- an en dash between the ends of a range
    mark = None
    if base is not None and name in tables[base.name]:
        mark = _of(tables[base.name][name], metric).value
    rows = []
    for arm in arms:
        group = tables[arm.name].get(name)
        if group is None:
            continue
        estimate = _of(group, metric)
        rows.append(
            Row(
                arm=arm,
                estimate=estimate,
                beside="" if estimate.value is None else f"{estimate.value:.3f}",
                absent=group.note
                or ("no threshold" if METRICS[metric].thresholds else "no number"),
                reference=None if arm is base else mark,
                told=f"{fixed(estimate.value)} ({interval(estimate.low, estimate.high)})",
            )
        )
    absent = {row.absent for row in rows}
    if all(row.estimate.value is None for row in rows) and len(absent) == 1:
        return Block(heading=f"{heading}: {absent.pop()}", rows=[])
    return Block(heading=heading, beneath=beneath, rows=rows)


def _of(group: Group, metric: str) -> Estimate:
    return group.metrics.get(metric, Estimate())


def _axis(metric: str, blocks: Sequence[Block]) -> Axis:
    numbers = forest.reach(blocks)
    about = METRICS[metric]
    if about.chance is not None:
        low = min([about.chance, *numbers])
        title = f"{about.title} (dashed: {about.chance:g}, chance)"
        return Axis(title=title, low=max(0.0, low - 0.02), high=about.most, line=about.chance)
    high = max([0.1, *numbers])
    return Axis(title=about.title, low=0.0, high=min(about.most, high + 0.02), line=0.0)


def _record(attribute: str, metric: str, arm: Arm, group: Group) -> dict[str, object]:
    estimate = _of(group, metric)
    return {
        "attribute": attribute,
        "group": group.name,
        "images": group.images,
        "positives": group.positives,
        "arm": arm.name,
        "metric": metric,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "low_with_training": estimate.both_low,
        "high_with_training": estimate.both_high,
        "minimum_detectable_gap": group.detectable.get(metric),
        "note": group.note,
    }


def _change_row(arm: Arm, difference: Difference) -> Row:
    told = f"{signed(difference.change.value)} ({interval(*difference.change.outer, sign=True)})"
    if difference.p is not None:
        told += f", p {p_value(difference.p)}"
    if difference.p_holm is not None:
        told += f", Holm p {p_value(difference.p_holm)}"
    if _turned(difference):
        told += f"; turned from {signed(difference.before)} to {signed(difference.after)}"
    return Row(
        arm=arm,
        estimate=difference.change,
        beside=signed(difference.change.value),
        band=difference.detectable,
        told=told,
    )


def _turned(difference: Difference) -> bool:
    """Whether a gap that has a sign changed sides."""
    return (difference.before or 0.0) * (difference.after or 0.0) < 0.0


def _change_record(difference: Difference, base: Arm) -> dict[str, object]:
    return {
        "quantity": difference.quantity,
        "arm": difference.arm,
        "baseline": base.name,
        "baseline_value": difference.before,
        "value": difference.after,
        "change": difference.change.value,
        "low": difference.change.low,
        "high": difference.change.high,
        "low_with_training": difference.change.both_low,
        "high_with_training": difference.change.both_high,
        "p": difference.p,
        "p_holm": difference.p_holm,
        "minimum_detectable": difference.detectable,
        "headline": difference.headline,
    }
