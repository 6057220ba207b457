"""One typed, validated run configuration: keys, defaults and units are written here alone.

Keys are kebab case and nested (``data.image-size``). The same keys serve ``pyproject.toml``'s
Flower run config, an experiment's TOML and ``--set``. An empty string means "not given".
"""

from fedmed.config.arms import ARMS, READ_BY, Arm
from fedmed.config.flat import flatten, put, unflatten
from fedmed.config.names import (
    ATTRIBUTES,
    TRACKERS,
    Attribute,
    Scalar,
    Scheme,
    Seed,
    within,
)
from fedmed.config.reading import (
    explain,
    nearest,
    nearest_key,
    parse_assignment,
    plain,
    read_toml,
    widen,
)
from fedmed.config.settings import Settings, from_flat, parse
from fedmed.config.tables import Columns, Data, Evaluation, Model, Privacy, Run, Section, Train

__all__ = [
    "ARMS",
    "ATTRIBUTES",
    "READ_BY",
    "TRACKERS",
    "Arm",
    "Attribute",
    "Columns",
    "Data",
    "Evaluation",
    "Model",
    "Privacy",
    "Run",
    "Scalar",
    "Scheme",
    "Section",
    "Seed",
    "Settings",
    "Train",
    "explain",
    "flatten",
    "from_flat",
    "nearest",
    "nearest_key",
    "parse",
    "parse_assignment",
    "plain",
    "put",
    "read_toml",
    "unflatten",
    "widen",
    "within",
]
