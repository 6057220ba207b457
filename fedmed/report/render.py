"""The HTML report: one offline file made from what a run directory holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

import fedmed
from fedmed.files import write_text
from fedmed.report import figures, svg, words
from fedmed.report.arms import Arm, mean, reference, summarise
from fedmed.report.load import MEGABYTE, Comparison, Json, Run, load

SAMPLES: Final = 6  # images shown per row
UNITS: Final = ("image", "patient", "hospital")
_ATTRIBUTES: Final = {"sex": "sex", "age": "age band", "view": "view", "hospital": "hospital"}
_METRICS: Final = {"auroc": "test AUROC", "fnr": "false negative rate"}
_SCHEMES: Final = {
    "federated": "trained together",
    "pooled": "all data in one place",
    "local-only": "each hospital alone",
}


def build(directory: Path) -> Path:
    """Write ``report.html`` into a run directory, atomically, and return its path.

    Reads only files of the directory. Arms that are not finished and files that are damaged are
    named in the report. Raises UserError where the directory is absent or holds no run.
    """
    directory = Path(directory)
    comparison = load(directory)
    source = resources.files("fedmed.report").joinpath("template.html.j2")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        fixed=words.fixed,
        signed=words.signed,
        eps=words.epsilon_text,
        delta=words.delta_text,
        plain=_plain,
    )
    template = environment.from_string(source.read_text(encoding="utf-8"))
    path = directory / "report.html"
    write_text(path, template.render(_context(comparison)))
    return path


def _context(comparison: Comparison) -> dict[str, Any]:
    """Everything that the template shows."""
    arms = summarise(comparison)
    base = reference(arms)
    with svg.style():
        panels, unclaimed = _epsilon(arms)
        curves = _curves(arms, base)
        bars = _bars(arms)
    results = [run.result for run in comparison.runs if run.result is not None]
    return {
        "about": comparison,
        "version": fedmed.__version__,
        "answer": words.answer(arms),
        "facts": _facts(comparison, arms),
        "rows": [_row(arm, arms, base) for arm in arms],
        "several_seeds": any(len(arm.runs) > 1 for arm in arms),
        "majority": mean(arm.metric("majority_accuracy") for arm in arms),
        "unfinished": [_progress(run) for run in comparison.runs if run.result is None],
        "panels": panels,
        "unclaimed": unclaimed,
        "curves": curves,
        "no_curve": [arm.name for arm in arms if arm.name not in {name for name, _ in curves}],
        "reference": base,
        "bars": bars,
        "fairness": _fairness(arms, base),
        "samples": _samples(comparison),
        "statements": [_statement(arm) for arm in arms],
        "costs": [_cost(arm) for arm in arms],
        "settings": comparison.base,
        "changes": _changes(comparison, arms),
        "versions": _merged(results, "versions"),
        "machines": _machines(results),
        "evaluation_notes": _notes(arms),
    }


def _facts(comparison: Comparison, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The size of the comparison, as label and value."""
    metrics = [(run.result or {}).get("metrics") or {} for arm in arms for run in arm.runs]
    first: Json = metrics[0] if metrics else {}
    prevalence = first.get("prevalence")
    seeds = sorted({run.seed for run in comparison.runs})
    facts = [
        ("Cohort", comparison.cohort),
        ("Test images", _plain(first.get("n_test"))),
        ("Test patients", _plain(first.get("patients_test"))),
        ("With disease", f"{prevalence:.0%}" if prevalence is not None else ""),
        ("Arms", str(len(comparison.arms))),
        ("Seeds", ", ".join(map(str, seeds))),
    ]
    return [(name, value) for name, value in facts if value and value != words.ABSENT]


def _row(arm: Arm, arms: Sequence[Arm], base: Arm | None) -> dict[str, Any]:
    """A row of the table of arms; `strip` holds percentages along the AUROC axis drawn in it."""
    lows = [value for a in arms for value in (a.low, a.auroc) if value is not None]
    start = min([0.5, *lows])
    start = int(start * 20) / 20

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / (1.0 - start), 2)

    change = None
    if base is not None and arm is not base and arm.auroc is not None and base.auroc is not None:
        change = arm.auroc - base.auroc
    return {
        "arm": arm,
        "scheme": _SCHEMES.get(arm.scheme, arm.scheme),
        "guarantee": words.guarantee(arm),
        "per_pixel": arm.statement.get("epsilon_per_pixel"),
        "change": change,
        "accuracy": arm.metric("accuracy"),
        "sensitivity": arm.metric("sensitivity"),
        "specificity": arm.metric("specificity"),
        "strip": (
            place(arm.low),
            place(arm.auroc),
            place(arm.high),
            place(base.auroc if base else None),
        ),
        "axis_start": start,
    }


def _progress(run: Run) -> tuple[str, str]:
    done = max((int(entry["round"]) for entry in run.history), default=None)
    state = "not finished" if done is None else f"not finished, round {done} done"
    return f"{run.arm}, seed {run.seed}", state


def _epsilon(arms: Sequence[Arm]) -> tuple[list[tuple[str, Markup]], list[str]]:
    """A panel per unit, and the private arms that have no finite epsilon."""
    baselines = [arm for arm in arms if not arm.private and arm.auroc is not None]
    claimed = [arm for arm in arms if arm.epsilon and arm.auroc is not None]
    limits = figures.auroc_limits(
        [value for arm in [*baselines, *claimed] for value in (arm.low, arm.auroc, arm.high)]
    )
    panels = []
    for unit in UNITS:
        chosen = [arm for arm in claimed if arm.unit == unit]
        if chosen:
            panels.append((unit, figures.epsilon_panel(unit, chosen, baselines, limits)))
    return panels, [arm.name for arm in arms if arm.private and not arm.epsilon]


def _curves(arms: Sequence[Arm], base: Arm | None) -> list[tuple[str, Markup]]:
    limits = figures.curve_limits(arms)
    drawn = [
        (arm.name, figures.learning_panel(arm, base, limits, number))
        for number, arm in enumerate(arms, start=1)
    ]
    return [(name, panel) for name, panel in drawn if panel is not None]


def _bars(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Per attribute of people: its groups as a legend, and a figure per metric."""
    sections = []
    for attribute in ("sex", "age"):
        knowing = [arm for arm in arms if arm.groups(attribute)]
        if not knowing:
            continue
        drawn = [
            figures.group_bars(attribute, metric, title, knowing)
            for metric, title in _METRICS.items()
        ]
        names = dict.fromkeys(str(row["group"]) for arm in knowing for row in arm.groups(attribute))
        sections.append(
            {
                "title": _ATTRIBUTES[attribute],
                "legend": [
                    (name, number % len(svg.SERIES) + 1) for number, name in enumerate(names)
                ],
                "figures": [figure for figure in drawn if figure is not None],
            }
        )
    return sections


def _fairness(arms: Sequence[Arm], base: Arm | None) -> list[dict[str, Any]]:
    """Per attribute a table of gaps, one row per arm, and what was not compared."""
    tables = []
    for attribute, title in _ATTRIBUTES.items():
        rows, notes = [], []
        for arm in arms:
            groups = [row for row in arm.groups(attribute) if row.get("auroc") is not None]
            per_run = [
                (((run.result or {}).get("metrics") or {}).get("fairness") or {}).get(attribute)
                for run in arm.runs
            ]
            found: list[Json] = [gaps for gaps in per_run if gaps]
            if not found:
                continue
            notes += [note for gaps in found for note in gaps.get("notes") or []]
            known = [row for row in groups if row["group"] != "unknown"]
            worst = min(known, key=lambda row: float(row["auroc"]), default=None)
            gap = arm.metric("fairness", attribute, "auroc_gap")
            before = base.metric("fairness", attribute, "auroc_gap") if base else None
            rows.append(
                {
                    "arm": arm.name,
                    "worst": worst,
                    "auroc_gap": gap,
                    "change": gap - before
                    if gap is not None and before is not None and arm is not base
                    else None,
                    **{
                        key: arm.metric("fairness", attribute, key)
                        for key in (
                            "fnr_gap",
                            "statistical_parity_difference",
                            "equalised_odds_difference",
                            "accuracy_gap",
                            "pearson_size_auroc",
                        )
                    },
                    "accuracy_gap_group": _agreed(gaps.get("accuracy_gap_group") for gaps in found),
                }
            )
        if rows:
            tables.append(
                {
                    "attribute": attribute,
                    "title": title,
                    "rows": rows,
                    "notes": list(dict.fromkeys(notes)),
                }
            )
    return tables


def _samples(comparison: Comparison) -> dict[str, Any] | None:
    """Rows of sample images as PNG data addresses: clean, then one row per arm that adds noise."""
    clean = comparison.samples.get("clean")
    if clean is None or clean.ndim != 3 or not len(clean):
        return None
    labels = comparison.samples.get("label", np.zeros(0))
    captions = [
        ("disease" if labels[i] else "no disease") if i < len(labels) else "label unknown"
        for i in range(min(SAMPLES, len(clean)))
    ]
    rows = [("before noise", clean)] + [
        (name.removeprefix("noisy:"), stack)
        for name, stack in comparison.samples.items()
        if name.startswith("noisy:") and stack.ndim == 3
    ]
    return {
        "captions": captions,
        "rows": [(name, [_png(image) for image in stack[:SAMPLES]]) for name, stack in rows],
    }


def _png(image: npt.NDArray[Any]) -> str:
    """A grey uint8 image [height, width] as a PNG data address."""
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    picture.thumbnail((256, 256))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _statement(arm: Arm) -> dict[str, Any]:
    """What an arm guarantees and whom it trusts."""
    statement = arm.statement
    taken, planned = statement.get("steps_taken"), statement.get("steps_planned")
    facts = [
        ("Protects", "nobody in particular" if arm.unit == "none" else f"one {arm.unit}"),
        ("Guarantee", words.guarantee(arm)),
        ("Must be trusted", arm.trust),
    ]
    facts += [
        (title, str(statement[key]))
        for title, key in (
            ("Neighbouring data sets", "neighbouring"),
            ("Mechanism", "mechanism"),
            ("Accountant", "accountant"),
            ("Sampling", "sampling"),
            ("Source of noise", "noise_source"),
        )
        if statement.get(key)
    ]
    if taken is not None or planned is not None:
        facts.append(("Steps taken of planned", f"{_plain(taken)} of {_plain(planned)}"))
    return {
        "arm": arm,
        "guarantee": words.guarantee(arm),
        "summary": statement.get("summary") or "",
        "facts": facts,
        "hospitals": statement.get("hospitals") or [],
        "released": statement.get("released") or [],
        "not_covered": statement.get("not_covered") or [],
        "recorded": bool(statement),
        "overrun": taken is not None and planned is not None and taken > planned,
    }


def _cost(arm: Arm) -> dict[str, Any]:
    total, other = arm.cost("seconds", "total"), arm.cost("seconds", "other")
    memory = arm.cost("peak_memory_bytes")
    return {
        "arm": arm.name,
        "rounds": arm.cost("rounds"),
        "total": total,
        "training": arm.cost("seconds", "training"),
        "evaluation": arm.cost("seconds", "evaluation"),
        "other": other,
        "share": other / total if total and other is not None else None,
        "memory": None if memory is None else memory / MEGABYTE,
    }


def _changes(
    comparison: Comparison, arms: Sequence[Arm]
) -> list[tuple[str, list[tuple[str, Any]]]]:
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


def _merged(results: Sequence[Json], key: str) -> list[tuple[str, str]]:
    """Values of a table over all results; several values of one name are listed."""
    values: dict[str, list[str]] = {}
    for result in results:
        for name, value in (result.get(key) or {}).items():
            if str(value) not in values.setdefault(str(name), []):
                values[str(name)].append(str(value))
    return [(name, ", ".join(found)) for name, found in values.items()]


def _machines(results: Sequence[Json]) -> list[str]:
    machines = []
    for result in results:
        machine = result.get("machine") or {}
        parts = [
            str(machine.get("cpu") or ""),
            f"{machine['cores']} cores" if machine.get("cores") else "",
            str(machine.get("gpu") or "no GPU") if machine else "",
            str(machine.get("system") or ""),
        ]
        machines.append(", ".join(part for part in parts if part))
    return [machine for machine in dict.fromkeys(machines) if machine]


def _notes(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(f"{arm.name}: {note}" for arm in arms for note in arm.notes()))


def _agreed(values: Any) -> str | None:
    """The one value that all seeds share, else None."""
    distinct = {value for value in values if value is not None}
    return str(distinct.pop()) if len(distinct) == 1 else None


def _plain(value: Any) -> str:
    """A count or a setting as text; a dash for None."""
    if value is None:
        return words.ABSENT
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and value < 1e15):
        return f"{int(value):,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
