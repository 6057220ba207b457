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
from fedmed.report import figures, sections, statements, svg, words
from fedmed.report.arms import Arm, mean, reference, summarise
from fedmed.report.bars import group_bars
from fedmed.report.load import Comparison, load

SAMPLES: Final = 6  # images shown per row
UNITS: Final = ("image", "patient", "hospital")
_METRICS: Final = {"auroc": "test AUROC", "fnr": "false negative rate"}


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
        thousands=words.thousands,
        plain=sections.plain,
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
        "facts": sections.facts(comparison, arms),
        "rows": [sections.row(arm, arms, base) for arm in arms],
        "several_seeds": any(len(arm.runs) > 1 for arm in arms),
        "majority": mean(arm.metric("majority_accuracy") for arm in arms),
        "unfinished": [sections.progress(run) for run in comparison.runs if run.result is None],
        "panels": panels,
        "unclaimed": unclaimed,
        "curves": curves,
        "no_curve": [arm.name for arm in arms if arm.name not in {name for name, _ in curves}],
        "reference": base,
        "bars": bars,
        "fairness": sections.gap_tables(arms, base),
        "samples": _samples(comparison),
        "statements": [statements.statement(arm) for arm in arms],
        "totals": statements.totals(arms),
        "costs": [sections.cost(arm) for arm in arms],
        "settings": comparison.base,
        "changes": sections.changes(comparison, arms),
        "versions": sections.merged(results, "versions"),
        "machines": sections.machines(results),
        "evaluation_notes": sections.notes(arms),
    }


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
    parts = []
    for attribute in ("sex", "age"):
        knowing = [arm for arm in arms if arm.groups(attribute)]
        if not knowing:
            continue
        drawn = [
            group_bars(attribute, metric, title, knowing) for metric, title in _METRICS.items()
        ]
        names = dict.fromkeys(str(row["group"]) for arm in knowing for row in arm.groups(attribute))
        parts.append(
            {
                "title": sections.ATTRIBUTES[attribute],
                "legend": [
                    (name, number % len(svg.SERIES) + 1) for number, name in enumerate(names)
                ],
                "figures": [figure for figure in drawn if figure is not None],
            }
        )
    return parts


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
