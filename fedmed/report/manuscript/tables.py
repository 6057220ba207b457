"""The tables of a paper: arms with their guarantees, groups of patients, changes of gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fedmed.evaluation.group_gaps import GAPS, HEADLINE
from fedmed.privacy.statement.meaning import MOST
from fedmed.report import groups, people
from fedmed.report.arms import Arm, reference
from fedmed.report.evidence import Difference, Estimate
from fedmed.report.reading import Json
from fedmed.report.words import fixed, guarantee, interval, p_value, signed, thousands

_NO_PROTECTION = "no meaningful protection"
_OTHER_SCHEME = (
    "The change of an arm that trains by another scheme is of the mean AUROC within hospitals: "
    "scores of different models are not on one scale."
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: `data` unrounded for a CSV, `columns` and `rows` as a paper prints them."""

    name: str
    caption: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    data: pd.DataFrame


def tables(arms: Sequence[Arm]) -> list[Table]:
    """Every table that has a row."""
    return [one for one in (_arms(arms), _groups(arms), _gaps(arms)) if one.rows]


def _arms(arms: Sequence[Arm]) -> Table:
    base = reference(list(arms))
    told = [(arm, _change(arm, base), _paired(arm)) for arm in arms]
    weak = any(arm.weak for arm in arms)
    other = any(paired is not None and paired.quantity != "auroc" for _, _, paired in told)
    return Table(
        name="arms",
        caption="Test AUROC of each arm and its privacy guarantee.",
        note="Intervals are 95 % over test patients; of several seeds the mean is shown."
        + (f" {_OTHER_SCHEME}" if other else "")
        + (f" {_NO_PROTECTION.capitalize()}: an epsilon above {MOST:g}, or none." if weak else ""),
        columns=(
            *("Arm", "Guarantee", "Trusted", "AUROC", "AUROC within hospitals"),
            *("Change", "p", "p (Holm)"),
        ),
        rows=[
            (
                arm.name,
                guarantee(arm) + (f" ({_NO_PROTECTION})" if arm.weak else ""),
                arm.trust,
                _told(arm.estimate),
                _told(_within(arm)),
                _told(change, sign=True),
                p_value(None if paired is None else paired.p),
                p_value(None if paired is None else paired.p_holm),
            )
            for arm, change, paired in told
        ],
        data=pd.DataFrame([_arm(arm, change, paired) for arm, change, paired in told]),
    )


def _arm(arm: Arm, change: Estimate, paired: Difference | None) -> Json:
    """An arm's line, unrounded."""
    return {
        "arm": arm.name,
        "kind": arm.kind,
        "scheme": arm.scheme,
        "unit": arm.unit,
        "epsilon": arm.epsilon,
        "epsilon_replaced": arm.replaced if arm.epsilon is not None else None,
        "delta": arm.delta,
        "meaningful": arm.meaningful if arm.private else None,
        "trusted": arm.trust,
        "seeds": len(arm.runs),
        **_numbers("auroc", arm.estimate),
        **_numbers("within_hospital_auroc", _within(arm)),
        "compared_by": None if paired is None else paired.quantity,
        **_numbers("change", change),
        "p": None if paired is None else paired.p,
        "p_holm": None if paired is None else paired.p_holm,
    }


def _groups(arms: Sequence[Arm]) -> Table:
    rows = [
        (attribute, group, arm, group.metrics.get("auroc", Estimate()))
        for attribute in groups.attributes(arms)
        for arm in arms
        for group in arm.groups(attribute)
    ]
    return Table(
        name="groups",
        caption="Test AUROC by group of patients.",
        note="Groups with too few images have no number.",
        columns=("Group", "Images", "With disease", "Arm", "AUROC"),
        rows=[
            (
                people.named(attribute, group.name),
                thousands(group.images),
                thousands(group.positives),
                arm.name,
                _told(auroc) if auroc.value is not None else str(group.note or fixed(None)),
            )
            for attribute, group, arm, auroc in rows
        ],
        data=pd.DataFrame(
            [
                {
                    "attribute": attribute,
                    "group": group.name,
                    "images": group.images,
                    "positives": group.positives,
                    "arm": arm.name,
                    **_numbers("auroc", auroc),
                    "note": group.note,
                }
                for attribute, group, arm, auroc in rows
            ]
        ),
    )


def _gaps(arms: Sequence[Arm]) -> Table:
    base = reference(list(arms))
    changes = [
        (attribute, quantity, one)
        for attribute in groups.attributes(arms)
        for quantity in HEADLINE
        for arm in arms
        if base is not None
        and arm is not base
        and (one := groups.change(arm, base, attribute, quantity)) is not None
        and one.change.value is not None
    ]
    against = base.name if base is not None else ""
    return Table(
        name="gaps",
        caption=f"Gaps between groups of patients, and their change against {against}.",
        note="A change without an interval or p was not tested.",
        columns=("Gap", "By", "Arm", f"Under {against}", "Under the arm", "Change", "p (Holm)"),
        rows=[
            (
                GAPS[quantity].heading,
                groups.words(attribute),
                one.arm,
                fixed(one.before),
                fixed(one.after),
                _told(one.change, sign=True),
                p_value(one.p_holm),
            )
            for attribute, quantity, one in changes
        ],
        data=pd.DataFrame(
            [
                {
                    "attribute": attribute,
                    "gap": quantity,
                    "arm": one.arm,
                    "baseline": against,
                    "baseline_value": one.before,
                    "value": one.after,
                    **_numbers("change", one.change),
                    "p": one.p,
                    "p_holm": one.p_holm,
                }
                for attribute, quantity, one in changes
            ]
        ),
    )


def _change(arm: Arm, base: Arm | None) -> Estimate:
    """An arm's AUROC minus the reference's; without a paired comparison no interval."""
    if base is None or arm is base or arm.auroc is None or base.auroc is None:
        return Estimate()
    paired = _paired(arm)
    return paired.change if paired is not None else Estimate(value=arm.auroc - base.auroc)


def _paired(arm: Arm) -> Difference | None:
    """The difference that an arm is compared by: within hospitals where its scheme is another."""
    return arm.evidence.headline(arm.name) if arm.evidence else None


def _within(arm: Arm) -> Estimate:
    """The mean AUROC within hospitals."""
    told = None
    if arm.evidence is not None:
        told = arm.evidence.estimate(arm.name, "metrics", "within_hospital_auroc")
    return told or Estimate()


def _numbers(name: str, one: Estimate) -> Json:
    return {
        name: one.value,
        f"{name}_low": one.low,
        f"{name}_high": one.high,
        f"{name}_low_with_training": one.both_low,
        f"{name}_high_with_training": one.both_high,
    }


def _told(one: Estimate, *, sign: bool = False) -> str:
    """A number with its interval over test patients."""
    text = signed(one.value) if sign else fixed(one.value)
    if one.low is None or one.high is None:
        return text
    return f"{text} ({interval(one.low, one.high, sign=sign)})"
