"""An arm's privacy statement as the report shows it; what a run did not record is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fedmed.base.rounding import up
from fedmed.report import checking, words
from fedmed.report.arms import Arm, worst
from fedmed.report.reading import Json

_FACTS: Final = (
    ("Neighbouring data sets", "neighbouring"),
    ("Mechanism", "mechanism"),
    ("Sampling really used", "sampling"),
    ("Accountant", "accountant"),
    ("Sizes", "sizes"),
    ("Public data", "public_data"),
    ("Source of noise", "noise_source"),
    ("Random generators", "random_generators"),
)
_COLUMNS: Final = (
    ("epsilon", "ε per {unit}", words.epsilon_text),
    ("delta", "δ", words.delta_text),
    ("epsilon_at_own_delta", "ε at its own δ", words.epsilon_text),
    ("own_delta", "own δ", words.delta_text),
    ("epsilon_rdp", "ε by Rényi", words.epsilon_text),
    ("epsilon_replace_one", "ε, replaced", words.epsilon_text),
    ("epsilon_patient", "ε per patient", words.epsilon_text),
    ("epsilon_planned", "ε of the whole plan", words.epsilon_text),
    ("tpr_at_fpr_001", "TPR at 1 % FPR", words.share),
    ("images_per_patient", "Images of a patient", words.thousands),
    ("noise_multiplier", "Noise multiplier", words.fixed),
    ("sampling_rate", "Sampling rate", words.fixed),
    ("steps", "Steps", words.thousands),
    ("size", "Size", words.thousands),
)
_ALWAYS: Final = ("epsilon", "delta")


def statement(arm: Arm) -> dict[str, Any]:
    """What an arm guarantees, to whom, and what it does not cover."""
    told = arm.statement
    steps = [(run.privacy.get("steps_taken"), run.privacy.get("steps_planned")) for run in arm.runs]
    overrun = any(
        taken > planned for taken, planned in steps if taken is not None and planned is not None
    )
    return {
        "arm": arm,
        "guarantee": words.guarantee(arm),
        "summary": told.get("summary") or "",
        "seeds": len(arm.runs),
        "facts": _facts(arm, told),
        "numbers": _numbers(arm, told),
        "hospitals": _hospitals(arm),
        "refused": list(
            dict.fromkeys(name for run in arm.runs for name in run.privacy.get("refused") or [])
        ),
        "released": told.get("released") or [],
        "not_covered": told.get("not_covered") or [],
        "total": [_line(total) for total in told.get("total") or []],
        "unbounded": any(
            total.get("not_bounded_by") or total.get("not_counted")
            for total in told.get("total") or []
        ),
        "recorded": bool(told),
        "overrun": overrun,
    }


def totals(arms: Sequence[Arm]) -> list[Json]:
    """What all runs of the comparison together cost the same data, a row per unit."""
    rows: list[Json] = next(
        (arm.statement["total"] for arm in arms if arm.statement.get("total")), []
    )
    return [
        {
            "unit": _whose(total),
            "neighbouring": total.get("neighbouring") or words.ABSENT,
            "theorem": total.get("theorem") or "",
            "epsilon": total["epsilon"],
            "delta": total["delta"],
            "runs": total.get("runs") or [],
            "not_bounded_by": total.get("not_bounded_by") or [],
            "not_counted": total.get("not_counted") or [],
        }
        for total in rows
    ]


def _line(total: Json) -> str:
    return (
        f"ε = {words.epsilon_text(total['epsilon'])} per {_whose(total)}, "
        f"δ = {words.delta_text(total['delta'])}"
    )


def _whose(total: Json) -> str:
    """Trained-on and evaluation patients are two sets, each with a total of its own."""
    other = "evaluation " if total.get("of") == "evaluation" else ""
    return f"{other}{total['unit']}"


def _facts(arm: Arm, told: Json) -> list[tuple[str, str]]:
    """Everything that is told in words."""
    facts = [
        ("Protects", "nobody in particular" if arm.unit == "none" else f"one {arm.unit}"),
        ("Guarantee", words.guarantee(arm)),
        ("Must be trusted", arm.trust),
    ]
    facts += [(title, str(told[key])) for title, key in _FACTS if told.get(key)]
    taken, planned = told.get("steps_taken"), told.get("steps_planned")
    if taken is not None or planned is not None:
        counts = f"{words.thousands(taken)} of {words.thousands(planned)}"
        facts.append(("Steps taken of planned", counts))
    if told.get("images_per_patient"):
        facts.append(("Images of one patient", f"at most {told['images_per_patient']:g}"))
    return facts


def _numbers(arm: Arm, told: Json) -> list[tuple[str, str, str]]:
    """Every figure of the guarantee: its name, its value, and how to read it."""
    unit = arm.unit
    delta = words.delta_text(told.get("delta"))
    rows: list[tuple[str, float | None, str, str]] = [
        (
            "ε",
            told.get("epsilon"),
            f"per {unit}, δ = {delta}",
            str(told.get("neighbouring") or ""),
        ),
        (
            "ε by Rényi accounting",
            told.get("epsilon_rdp"),
            f"per {unit}, δ = {delta}",
            "the same run by a looser accountant, for comparison",
        ),
        (
            "ε if data are replaced",
            _other(told, "epsilon_replace_one"),
            f"per {unit}, δ = {delta}",
            f"one {unit}'s data are exchanged for others",
        ),
        (
            "ε for a whole patient",
            told.get("epsilon_patient"),
            f"per patient, δ = {delta}",
            _cap(told),
        ),
        (
            "ε at the δ of the settings",
            _other(told, "epsilon_at_delta"),
            f"per {unit}",
            "the same noise, where δ above 0 is allowed",
        ),
        (
            "ε where noised images are seen too",
            told.get("epsilon_with_noised_images"),
            f"per image, δ = {delta}",
            "for whoever sees both the noised images and the model",
        ),
    ]
    seed = told.get("epsilon_without_knowledge_of_the_seed")
    rows.append(
        ("ε without knowledge of the seed", seed, f"per {unit}", "no claim against who knows it")
    )
    rows.append(
        (
            "ε of the whole plan",
            _other(told, "epsilon_planned"),
            f"per {unit}, δ = {delta}",
            "the run was stopped early: this holds even if results decided when",
        )
    )
    figures = [
        (name, f"{words.epsilon_text(value)} {of}", reading)
        for name, value, of, reading in rows
        if value is not None
    ]
    return [*figures, *_pixels(arm, told), *_attacker(told)]


def _other(told: Json, key: str) -> float | None:
    """A figure that says more than epsilon does."""
    value: float | None = told.get(key)
    return None if value == told.get("epsilon") else value


def _cap(told: Json) -> str:
    cap = told.get("images_per_patient")
    return f"with at most {cap:g} images" if cap else "with all images"


def _pixels(arm: Arm, told: Json) -> list[tuple[str, str, str]]:
    """What an image mechanism says of parts of an image, which is no promise for the image."""
    claims = dict(told.get("epsilon_by_pixels") or {})
    if told.get("epsilon_per_pixel") is not None:
        claims.setdefault("pixel", told["epsilon_per_pixel"])
    size = arm.runs[0].config.get("privacy.neighbourhood")
    names = {
        "pixel": (f"ε for one {arm.element}", f"one {arm.element} changes, all others stay"),
        "neighbourhood": (
            "ε for a neighbourhood",
            f"{size or 'a few'} {arm.element}s change, wherever they lie",
        ),
    }
    return [
        (
            names[key][0],
            f"{words.epsilon_text(value)} per {arm.element if key == 'pixel' else key}, δ = 0",
            names[key][1],
        )
        for key, value in claims.items()
        if key in names
    ]


def _attacker(told: Json) -> list[tuple[str, str, str]]:
    """What the guarantee leaves to somebody who knows all data but one unit's."""
    figures = []
    if told.get("mu") is not None:
        reading = "no easier than telling two unit normals with means this far apart"
        figures.append(("μ (Gaussian DP)", f"{up(told['mu']):.3g}", reading))
    if told.get("advantage") is not None:
        reading = "at most, right alarms minus false alarms, at the best threshold; 0 is guessing"
        figures.append(("Attacker's advantage", f"{up(told['advantage'], 2):.2g}", reading))
    if told.get("tpr_at_fpr_001") is not None:
        reading = (
            "at most, right alarms where 1 % of alarms on others are accepted; 1 % is guessing"
        )
        share = words.share(told["tpr_at_fpr_001"])
        figures.append(("Right alarms at 1 % false alarms", share, reading))
    if told.get("noise_to_signal") is not None:
        reading = "expected size of the noise over the largest signal it can hide, from the plan"
        figures.append(("Noise to signal", f"{told['noise_to_signal']:,.3g}", reading))
    return figures


def _hospitals(arm: Arm) -> Json:
    """Hospitals beside each other: a table where they differ, else one line for all."""
    seeds: dict[str, list[Json]] = {}
    for run in arm.runs:
        for record in run.privacy.get("hospitals") or []:
            seeds.setdefault(str(record["hospital"]), []).append(record)
    records = [_weakest(told) for told in seeds.values()]
    redundant = _redundant(records)
    shown = [
        (key, title.format(unit=arm.unit), form)
        for key, title, form in _COLUMNS
        if key in _ALWAYS
        or (key not in redundant and any(record.get(key) is not None for record in records))
    ]
    cells = [[_cell(record, key, form) for key, _, form in shown] for record in records]
    same = len(records) > 1 and all(row == cells[0] for row in cells)
    return {
        "titles": [title for _, title, _ in shown],
        "rows": [] if same else list(zip(seeds, cells, strict=True)),
        "same": ", ".join(seeds) if same else "",
    }


def _weakest(told: Sequence[Json]) -> Json:
    """A hospital over seeds: each figure the worst of them."""
    weakest = max(told, key=lambda record: record.get("epsilon") or 0.0)
    figures = ("epsilon_at_own_delta", "own_delta", *checking.FIGURES)
    return {**weakest, **worst(told, figures)}


def _redundant(records: Sequence[Json]) -> set[str]:
    """Columns that say nothing new: where every hospital has the run's delta, or took its plan."""
    columns = set()
    if all(record.get("own_delta") in (None, record.get("delta")) for record in records):
        columns |= {"own_delta", "epsilon_at_own_delta"}
    if all(record.get("epsilon_planned") in (None, record.get("epsilon")) for record in records):
        columns.add("epsilon_planned")
    return columns


def _cell(record: Json, key: str, form: Any) -> str:
    text = str(form(record.get(key)))
    if key == "size" and record.get(key) is not None:
        text += " declared" if record.get("size_declared") else " exact"
    return text
