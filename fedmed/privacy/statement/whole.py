"""What all runs of a comparison guarantee together: the content of ``privacy-total.json``."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import Field

from fedmed.base.rounding import up, up_text
from fedmed.privacy.statement.contents import Total
from fedmed.privacy.statement.figures import Strict
from fedmed.privacy.statement.meaning import meaningful

FILE: Final = "privacy-total.json"
VERSION: Final = 1
"""Of ``privacy-total.json``: raised where a reader would misread the one before."""


class Whole(Strict):
    """A comparison's guarantee over all its runs: whoever sees the results of all meets this."""

    version: Literal[1] = VERSION
    guarantee: bool = Field(
        description="whether all runs together bound what is learnt of one unit of the training "
        "data; false as soon as one of them bounds nothing for it, or was not counted"
    )
    summary: str = Field(description="the same in words, for people")
    runs: list[str] = Field(description="ARM/seed-N of the runs that have a statement")
    total: list[Total] = Field(description="per unit, over the runs that bound something for it")


def whole(runs: Sequence[str], total: Sequence[Total]) -> dict[str, Any]:
    """The record of a comparison's runs and their totals, JSON-ready."""
    training = [one for one in total if one.of == "training"]
    holds = [one for one in training if not one.not_bounded_by and not one.not_counted]
    return Whole(
        guarantee=bool(holds),
        summary=_summary(training, holds),
        runs=list(runs),
        total=list(total),
    ).model_dump(mode="json")


def schema() -> dict[str, Any]:
    """The JSON schema of ``privacy-total.json``."""
    return Whole.model_json_schema()


def check(value: Any) -> Whole:
    """A record that keeps the schema; raises ``pydantic.ValidationError`` for another."""
    return Whole.model_validate(value, strict=False)


def _summary(training: Sequence[Total], holds: Sequence[Total]) -> str:
    """One plain paragraph for a reader who is no expert."""
    if holds:
        return " ".join(
            [
                "All runs of this comparison together:",
                *(f"one {one.unit} is protected with {_told(one)}." for one in holds),
                *_weak(holds),
            ]
        )
    text = (
        "All runs of this comparison together guarantee nothing, where the results of all of them "
        "are seen."
    )
    if not training:
        return f"{text} No run has an epsilon."
    for one in training:
        left = [*one.not_bounded_by, *one.not_counted]
        text += f" Without {', '.join(left)} it is {_told(one)} for one {one.unit}."
    return " ".join([text, *_weak(training)])


def _told(total: Total) -> str:
    return (
        f"epsilon = {up_text(total.epsilon)} at delta = {up(total.delta):.3g} "
        f"({total.neighbouring})"
    )


def _weak(total: Sequence[Total]) -> list[str]:
    units = [one.unit for one in total if not meaningful(one.unit, one.epsilon)]
    if not units:
        return []
    return [f"So large an epsilon is no meaningful protection: {', '.join(units)}."]
