"""The closed sets of values, the ranges, and the spelling of configuration keys."""

from typing import Annotated, Literal, get_args

from pydantic import Field

Arm = Literal[
    "none",
    "pixel-laplace",
    "dp-pix",
    "brightness-shift",
    "dp-sgd",
    "local-update",
    "central-fixed",
    "central-adaptive",
]
Scheme = Literal["federated", "pooled", "local-only"]
Attribute = Literal["sex", "age", "sex_age", "view", "comorbidities"]
ATTRIBUTES: tuple[str, ...] = get_args(Attribute)
TRACKERS = ("tensorboard", "mlflow")
ARMS: tuple[str, ...] = get_args(Arm)
IMAGE_ARMS = ("pixel-laplace", "dp-pix", "brightness-shift")
UPDATE_ARMS = ("local-update", "central-fixed", "central-adaptive")
UNPROTECTED = ("none", "brightness-shift")

Scalar = str | int | float | bool
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def kebab(name: str) -> str:
    """A field's name as configuration files spell it."""
    return name.replace("_", "-")
