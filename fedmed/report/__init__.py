"""The report of a comparison, made from the files of its run directory only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmed.report.load import summary_table, write_summary
    from fedmed.report.render import build

__all__ = ["build", "summary_table", "write_summary"]

_HOMES = {"build": "render", "summary_table": "load", "write_summary": "load"}


def __getattr__(name: str) -> Any:
    # Figures of papers, which an experiment's file names, are read without pandas and templates.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fedmed.report.{_HOMES[name]}"), name)
