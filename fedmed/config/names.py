"""The closed sets of values, the ranges, and the spelling of configuration keys."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

Scheme = Literal["federated", "pooled", "local-only"]
Attribute = Literal["sex", "age", "sex_age", "view", "comorbidities"]
ATTRIBUTES: tuple[str, ...] = get_args(Attribute)
TRACKERS = ("tensorboard", "mlflow")

Scalar = str | int | float | bool
Seed = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True)
class Unit:
    """What a number counts, or what a text holds: beside its range in the table of keys."""

    words: str


def within(low: float, high: float) -> FieldInfo:
    """A range with both ends: no key has a value whose products leave what float32 holds.

    Noise is at least 0.01 x 1e-6 on a sum and at most 1e4 x 1e6, over a batch of at most 1e6 and
    times a learning rate of at least 1e-12: normal numbers of float32 (1e-38 to 3e38) all the way.
    """
    info: FieldInfo = Field(ge=low, le=high, allow_inf_nan=False)
    return info


def count(high: int) -> FieldInfo:
    """A whole number from 1 to ``high``."""
    info: FieldInfo = Field(ge=1, le=high)
    return info


def kebab(name: str) -> str:
    """A field's name as configuration files spell it."""
    return name.replace("_", "-")
