"""The ``[pretrain]`` table of an experiment: one training on public data that arms start from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.paths import resolve_all
from fedmed.config import Settings
from fedmed.models.stem import stem_of

FOLDER = "pretrain"  # in the experiment's folder of results
PREFIX = "pretrain."  # of keys given to --set
_ARCHITECTURE = ("name", "norm", "activation", "weight-standardisation", "stem", "channels")
_SAME = ("data.source", "data.path", "data.images")


def pretraining(
    table: Any, base: dict[str, Any], changes: Mapping[str, Any], path: Path
) -> Settings:
    """Settings of the pretraining: without privacy, all data in one place.

    ``[pretrain.data]`` stands on its own but for the image size; ``[pretrain.train]`` and the
    architecture start from the experiment's. ``changes`` are those of the command line, without
    their prefix. Raises :class:`UserError` naming the key.
    """
    where = f"{path}: [pretrain]"
    if not isinstance(table, dict):
        raise UserError(f"{path}: 'pretrain' must be a table")
    for section in table:
        if section not in ("data", "model", "train"):
            raise UserError(f"{where} has '{section}'; it takes data, model and train alone")
    if "data" not in table:
        raise UserError(f"{where} does not say its data; add [pretrain.data]")
    flat: dict[str, Any] = {
        "data.image-size": 32,
        "data.hospitals": 1,
        "data.partition": "even",
        "train.scheme": "pooled",
    }
    outer = config.flatten(base)
    flat |= {k: v for k, v in outer.items() if k.startswith("run.") or k == "data.image-size"}
    flat |= {k: v for k, v in outer.items() if k.startswith("train.") and k != "train.scheme"}
    flat |= {f"model.{k}": outer[f"model.{k}"] for k in _ARCHITECTURE if f"model.{k}" in outer}
    if flat.get("model.name") == "probe":
        flat["model.name"] = outer.get("model.features", "squeezenet1_1")
        # Features that no training here makes; other arms may start from what it does.
        if flat["model.name"] in ("scattering", "efficientnet_lite0"):
            del flat["model.name"]
    own = config.flatten(table)
    nested: dict[str, Any] = {}
    for source in (flat, own, changes):
        for key, value in source.items():
            config.put(nested, key, value, where)
    resolve_all(nested, path.parent, changes)
    settings = config.parse(nested, where)
    if settings.model.weights == "pretrain":
        raise UserError(f"{where} cannot start from itself; give other model.weights")
    return settings


def starts_from(arm: Settings, pretrain: Settings | None, where: str) -> Settings:
    """``arm`` with the stem of the weights that it starts from; raises for those it cannot take."""
    if arm.model.weights != "pretrain":
        return arm
    if pretrain is None:
        raise UserError(
            f"{where}: model.weights = 'pretrain', but the file has no [pretrain]; add it, or "
            "give a file of weights"
        )
    theirs, own = pretrain.to_flat(), arm.to_flat()
    same = all(theirs[key] == own[key] for key in _SAME)
    if same and (arm.data.source != "phantom" or pretrain.data.seed == arm.data.seed):
        raise UserError(
            f"{where}: [pretrain] trains without privacy on the images that the arms protect; "
            "give it another cohort"
        )
    body = arm.model.features if arm.model.name == "probe" else arm.model.name
    if body != pretrain.model.name:
        raise UserError(
            f"{where}: [pretrain] makes weights of {pretrain.model.name}, the arm needs those of "
            f"{body}; set [pretrain.model] name"
        )
    if arm.model.stem != "auto" or body == "squeezenet1_1":
        return arm
    stem = stem_of(pretrain.model, pretrain.data.image_size)
    return arm.replaced({"model.stem": stem})
