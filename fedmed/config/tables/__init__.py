"""The tables of the configuration: every key, its default, its unit and its meaning, written once.

The text below a key is its meaning. ``make docs`` writes docs/configuration.md and the run config
in pyproject.toml from these tables.
"""

from fedmed.config.tables.data import Columns, Data
from fedmed.config.tables.evaluation import Evaluation
from fedmed.config.tables.model import Model
from fedmed.config.tables.privacy import Privacy
from fedmed.config.tables.run import Run
from fedmed.config.tables.section import Section
from fedmed.config.tables.train import Train

__all__ = ["Columns", "Data", "Evaluation", "Model", "Privacy", "Run", "Section", "Train"]
