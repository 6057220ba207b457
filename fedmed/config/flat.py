"""Nested tables and dotted keys: the same settings in two spellings."""

from typing import Any

from fedmed.base.errors import UserError
from fedmed.config.names import Scalar


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested dict to one with dotted keys.

    >>> flatten({"train": {"rounds": 3}})
    {'train.rounds': 3}
    """
    flat: dict[str, Scalar] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: dict[str, Any], where: str) -> dict[str, Any]:
    """Dict with dotted keys to a nested one."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        put(nested, key, value, where)
    return nested


def put(nested: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in a nested dict; raises :class:`UserError` where a part is no table."""
    *parents, last = key.split(".")
    table = nested
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"{where}: '{key}' goes through '{part}', which is not a table")
    table[last] = value
