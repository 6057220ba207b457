"""The report of a comparison, made from the files of its run directory only."""

from fedmed.report.load import summary_table, write_summary
from fedmed.report.render import build

__all__ = ["build", "summary_table", "write_summary"]
