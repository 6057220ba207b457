"""Paths in an experiment's file, made absolute."""

from collections.abc import Container
from pathlib import Path
from typing import Any

from fedmed.base.opening import absolute, expanded, present

NAMED_WEIGHTS = ("none", "imagenet", "pretrain")

_KEYS = {"data": ("path", "images", "index"), "run": ("ledgers", "policies", "sites")}


def resolve_all(nested: dict[str, Any], folder: Path, changed: Container[str]) -> None:
    """Make the paths of nested settings absolute, in place.

    They are taken from ``folder``, the experiment's; those of the keys in ``changed`` come from
    the command line, and are taken from the present folder.
    """
    for section, keys in _KEYS.items():
        table = nested.get(section, {})
        for key in keys:
            if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
                given = table[key], folder, f"{section}.{key}" in changed
                table[key] = _resolve(*given) if section == "data" else _placed(*given)
    model = nested.get("model", {})
    weights = model.get("weights") if isinstance(model, dict) else None
    if isinstance(weights, str) and weights not in NAMED_WEIGHTS:
        model["weights"] = _resolve(weights, folder, "model.weights" in changed)


def _placed(given: str, folder: Path, from_command_line: bool) -> str:
    base = Path.cwd() if from_command_line else folder
    return str(absolute(base / expanded(given)))


def _resolve(given: str, folder: Path, from_command_line: bool) -> str:
    candidate = expanded(given)
    if candidate.is_absolute():
        return str(candidate)
    local = (Path.cwd() if from_command_line else folder) / candidate
    # A bare name (a MedMNIST set, say) that is no file stays a name.
    if not given or (not present(local) and len(candidate.parts) == 1 and not candidate.suffix):
        return given
    return str(absolute(local))
