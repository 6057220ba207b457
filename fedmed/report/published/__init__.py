"""Figures that others have published, one TOML per paper, to stand beside ours.

An experiment names one with ``paper = "NAME"``. Every figure was read in the paper or in its
authors' notebooks; nothing here is measured by this project.
"""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fedmed.base.errors import UserError

_FOLDER = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-")
    )


class Row(_Strict):
    """One treatment; ``scale`` (of image noise) or ``epsilon`` tells it apart where it has one."""

    kind: str  # the arm of ours that is the same treatment
    title: str
    scale: float | None = None
    epsilon: float | None = None
    values: dict[str, float]


class Paper(_Strict):
    """What a paper reports; ``columns`` are the titles of the rows' values."""

    short: str
    citation: str
    link: str
    cohort: str
    majority_train: float | None = None
    majority_test: float | None = None
    ceiling: bool = False  # its images are constant with a probability that can be computed
    notes: list[str]
    columns: dict[str, str]
    rows: list[Row]


def names() -> list[str]:
    """Papers whose figures are here."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> Paper:
    """A paper's figures; raises :class:`UserError` for a name that is not known."""
    if name not in names():
        raise UserError(f"paper = '{name}' is not known; use one of {', '.join(names())}")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    return Paper.model_validate(tomllib.loads(text))
