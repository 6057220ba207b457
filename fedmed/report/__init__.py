"""The report of a comparison, made from the files of its run directory only."""

from typing import TYPE_CHECKING

from fedmed.base import lazy

if TYPE_CHECKING:
    from fedmed.report.load import summary_table, write_summary
    from fedmed.report.render import build
else:
    # Figures of papers, which an experiment's file names, are read without pandas and templates.
    __getattr__, __dir__ = lazy.attach(
        __name__, {"load": ("summary_table", "write_summary"), "render": ("build",)}
    )

__all__ = ["build", "summary_table", "write_summary"]
