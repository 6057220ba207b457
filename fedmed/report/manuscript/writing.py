"""The folder ``paper/`` of a comparison: everything from its own files, nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fedmed.base.cells import csv_text
from fedmed.base.files import write_bytes, write_text
from fedmed.report import vega
from fedmed.report.arms import Arm
from fedmed.report.chart import Drawn
from fedmed.report.load import Comparison
from fedmed.report.manuscript import latex
from fedmed.report.manuscript.methods import cited, methods
from fedmed.report.manuscript.references import bibliography
from fedmed.report.manuscript.tables import tables

FOLDER: Final = "paper"


def write(comparison: Comparison, arms: Sequence[Arm], drawn: Sequence[Drawn]) -> Path:
    """Write figures, tables, the Methods paragraph and its references; returns the folder.

    Each file is written atomically; files of arms that are gone stay until they are deleted.
    """
    folder = comparison.directory / FOLDER
    for one, (pdf, png) in zip(drawn, vega.prints([one.svg for one in drawn]), strict=True):
        write_bytes(folder / "figures" / f"{one.stem}.pdf", pdf)
        write_bytes(folder / "figures" / f"{one.stem}.png", png)
    for table in tables(arms):
        text = latex.table(
            table.columns,
            table.rows,
            caption=table.caption,
            label=f"tab:{table.name}",
            note=table.note,
        )
        write_text(folder / "tables" / f"{table.name}.tex", text)
        write_text(folder / "tables" / f"{table.name}.csv", csv_text(table.data))
    paragraph = methods(comparison, arms)
    write_text(folder / "methods.tex", paragraph)
    write_text(folder / "references.bib", bibliography(cited(paragraph)))
    return folder
