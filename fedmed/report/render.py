"""The HTML report: one offline file, and its figures as files beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

import fedmed
from fedmed.base.files import safe_name, write_bytes, write_text
from fedmed.report import (
    absent,
    answer,
    chart,
    costs,
    endpoint,
    epsilon,
    groups,
    hospitals,
    joining,
    learning,
    palette,
    papers,
    papers_figures,
    people,
    sections,
    short,
    spending,
    statements,
    trust,
    words,
)
from fedmed.report.arms import Arm, reference, summarise
from fedmed.report.chart import Drawn, Figure
from fedmed.report.load import Comparison, load
from fedmed.report.manuscript import writing
from fedmed.report.reading import mean

SAMPLES: Final = 6  # images shown per row
_STEM: Final = 100  # characters of a figure's file name


def build(directory: Path, *, paper: bool = False) -> Path:
    """Write ``report.html`` into a run directory, atomically, and return its path.

    Each of its figures is also written to ``figures/NAME.svg`` and ``figures/NAME.png``; with
    `paper` the folder ``paper`` gets what a paper needs (:mod:`fedmed.report.manuscript`). Reads
    only files of the directory. Arms that are not finished and files that are damaged are named in
    the report. Raises UserError where the directory is absent or holds no run.
    """
    directory = Path(directory)
    comparison = load(directory)
    arms = summarise(comparison)
    vega, drawn = chart.draw(_figures(arms, comparison.paper))
    for one in drawn:
        write_text(directory / "figures" / f"{one.stem}.svg", one.svg)
        write_bytes(directory / "figures" / f"{one.stem}.png", one.png)
    page = _environment().get_template("page.html.j2")
    path = directory / "report.html"
    write_text(path, page.render(vega=vega, **_context(comparison, arms, drawn)))
    if paper:
        writing.write(comparison, arms, drawn)
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedmed.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        fixed=words.fixed,
        signed=words.signed,
        interval=words.interval,
        p_value=words.p_value,
        eps=words.epsilon_text,
        delta=words.delta_text,
        thousands=words.thousands,
        plain=sections.plain,
        per_round=costs.told,
        people=people.note,
    )
    return environment


def _figures(arms: Sequence[Arm], paper: str = "") -> dict[str, Figure]:
    """Every figure by the stem of its files, which is safe and unique."""
    candidates: list[Figure | None] = [*epsilon.panels(arms)]
    for attribute in groups.attributes(arms):
        candidates += [groups.metric_figure(attribute, metric, arms) for metric in groups.METRICS]
        candidates.append(groups.change_figure(attribute, arms))
    candidates += [*learning.panels(arms), costs.figure(arms), *spending.panels(arms)]
    candidates += papers_figures.figures(paper, arms)
    figures: dict[str, Figure] = {}
    for number, figure in enumerate((one for one in candidates if one is not None), start=1):
        stem = safe_name(figure.name)[:_STEM]
        if stem.lower() in {taken.lower() for taken in figures}:  # some disks know no upper case
            stem = f"{stem}-{number}"
        figures[stem] = figure
    return figures


def _context(comparison: Comparison, arms: list[Arm], drawn: list[Drawn]) -> dict[str, Any]:
    """Everything that the template shows."""
    base = reference(arms)
    return {
        "about": comparison,
        "version": fedmed.__version__,
        "light": palette.declarations(palette.LIGHT),
        "dark": palette.declarations(palette.DARK),
        "reference": base,
        "evidence": comparison.evidence,
        "samples": _samples(comparison),
        **_summary(comparison, arms, base),
        **_drawings(comparison, arms, drawn),
        **_fairness(comparison, arms, drawn, base),
        **_guarantees(arms),
        **_costs(arms, drawn),
        **_method(comparison, arms),
    }


def _summary(comparison: Comparison, arms: list[Arm], base: Arm | None) -> dict[str, Any]:
    """The answer, and the table of arms."""
    return {
        "legend": sections.legend(arms),
        "short": short.in_short(arms),
        "answer": [*answer.answer(arms), *endpoint.sentences(comparison.evidence)],
        "unprotected": answer.unprotected(arms),
        "cautions": answer.cautions(arms),
        "facts": sections.facts(comparison, arms),
        "rows": [sections.row(arm, arms, base) for arm in arms],
        **sections.headings(),
        "measures": sections.measures(arms),
        "splits": sections.splits(comparison.evidence),
        "joining": joining.table_of(comparison.evidence),
        "targets": sections.targets(arms),
        "several_seeds": any(len(arm.runs) > 1 for arm in arms),
        "majority": mean(arm.metric("majority_accuracy") for arm in arms),
        "unfinished": [sections.progress(run) for run in comparison.runs if run.result is None],
        "at_hospitals": hospitals.at_hospitals(arms),
        "histograms": any(absent.from_histograms(arm) for arm in arms),
        "uncompared": absent.comparison(arms),
    }


def _named(drawn: list[Drawn], start: str) -> list[Drawn]:
    """Figures whose name begins so."""
    return [one for one in drawn if one.figure.name.startswith(start)]


def _drawings(comparison: Comparison, arms: list[Arm], drawn: list[Drawn]) -> dict[str, Any]:
    """AUROC against epsilon and over the rounds, and a paper's figures beside ours."""
    curves, published = _named(drawn, "learning-"), _named(drawn, "papers-curve-")
    curve_names = {one.figure.name for one in published}
    return {
        "panels": _named(drawn, "epsilon-"),
        "unclaimed": [arm.name for arm in arms if arm.private and not arm.epsilon],
        "curves": curves,
        "no_curve": [
            arm.name for arm in arms if arm.name not in {one.figure.arm for one in curves}
        ],
        "published": papers.section(comparison.paper, arms),
        "published_figures": [
            one for one in _named(drawn, "papers-") if one.figure.name not in curve_names
        ],
        "published_curves": published,
    }


def _fairness(
    comparison: Comparison, arms: list[Arm], drawn: list[Drawn], base: Arm | None
) -> dict[str, Any]:
    """Groups of patients, gaps between them, and how gaps change."""
    by_name = {one.figure.name: one for one in drawn}
    return {
        "groups": [
            {
                "attribute": attribute,
                "title": groups.words(attribute),
                "first": groups.first(attribute),
                "figures": [
                    by_name[name]
                    for metric in groups.METRICS
                    if (name := f"groups-{attribute}-{metric}") in by_name
                ],
            }
            for attribute in groups.attributes(arms)
        ],
        "gaps": [(one, groups.first(one.figure.name[5:])) for one in _named(drawn, "gaps-")],
        "fairness": sections.gap_tables(arms, base),
        "correlations": sections.correlations(comparison),
        "no_gaps": absent.changes(arms, base, groups.attributes(arms)),
    }


def _guarantees(arms: list[Arm]) -> dict[str, Any]:
    """Whom each arm trusts, and what it promises."""
    return {
        "chains": trust.chains(arms),
        "statements": [statements.statement(arm) for arm in arms],
        "totals": statements.totals(arms),
    }


def _costs(arms: list[Arm], drawn: list[Drawn]) -> dict[str, Any]:
    """Time, bytes, and the epsilon of every round."""
    spent = [costs.cost(arm) for arm in arms]
    return {
        "costs": spent,
        "traffic": any(row["traffic"] is not None for row in spent),
        "cost_figures": _named(drawn, "cost"),
        "rounds": chart.address(spending.rounds(arms)),
    }


def _method(comparison: Comparison, arms: list[Arm]) -> dict[str, Any]:
    """Settings, versions and machines."""
    results = [run.result for run in comparison.runs if run.result is not None]
    return {
        "apart": [a.name for a in arms if a.scheme != "federated"],
        "settings": comparison.base,
        "changes": sections.changes(comparison, arms),
        "versions": sections.merged(results, "versions"),
        "machines": sections.machines(results),
        "evaluation_notes": sections.notes(arms),
    }


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
