"""Files whose values are of another kind than expected: those values are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from fedmed.privacy.statement.facts import VERSION, Facts
from fedmed.report.reading import Json, number

FIGURES: Final = (
    "epsilon", "delta", "mu", "advantage", "tpr_at_fpr_001", "epsilon_planned", "epsilon_rdp",
    "epsilon_replace_one", "epsilon_patient", "epsilon_per_pixel", "epsilon_at_delta",
    "epsilon_with_noised_images", "epsilon_without_knowledge_of_the_seed", "noise_to_signal",
    "images_per_patient",
)  # fmt: skip
"""Keys of what a statement is worth: larger is weaker."""

_NUMBERS: Final = (
    *FIGURES, "own_delta", "epsilon_at_own_delta", "noise_multiplier", "sampling_rate", "steps",
    "size", "steps_planned", "steps_taken",
)  # fmt: skip
_KINDS: Final = {
    **dict.fromkeys(_NUMBERS, "number"),
    **dict.fromkeys(("released", "not_covered", "refused"), "texts"),
    **dict.fromkeys(("runs", "not_bounded_by", "not_counted"), "texts"),
    **dict.fromkeys(("hospitals", "total"), "objects"),
    "epsilon_by_pixels": "numbers",
    "hospital": "text",
    "unit": "text",
    "facts": "facts",
}


def statement(record: Json, wrong: list[str]) -> Json:
    """A privacy statement without what cannot be read; the keys of that are added to `wrong`.

    Of another version nothing can: its figures mean something else, and its facts are words.
    """
    if record and record.get("version") != VERSION:
        wrong.append(f"version {record.get('version')!r} (this fedmed reads {VERSION})")
        return {}
    kept = _cleaned(record, _KINDS, wrong)
    for key, needed in (("hospitals", ("hospital",)), ("total", ("unit", "epsilon", "delta"))):
        if kept.get(key):
            rows = [_cleaned(row, _KINDS, wrong) for row in kept[key]]
            kept[key] = [row for row in rows if all(row.get(name) is not None for name in needed)]
            wrong += [key] if len(kept[key]) < len(rows) else []
    return kept


def facts(value: Any) -> Facts | None:
    """Typed facts; None for anything else."""
    try:
        return Facts.model_validate(value)
    except ValidationError:
        return None


def planned(about: Json) -> list[tuple[str, int]]:
    """Arms and seeds that experiment.json asks for; what is no arm or no seed is left out."""

    def items(key: str) -> list[Any]:
        value = about.get(key)
        return value if isinstance(value, list) else []

    arms = [arm for arm in items("arms") if isinstance(arm, str) and _is_name(arm)]
    seeds = [seed for seed in items("seeds") if _is_seed(seed)] or [0]
    asked = [tuple(pair) for pair in items("runs") if isinstance(pair, list) and len(pair) == 2]
    return [(arm, seed) for arm in arms for seed in seeds if not asked or (arm, seed) in asked]


def _is_name(arm: str) -> bool:
    """Whether an arm can be a folder's name: one that leads elsewhere is no arm."""
    return bool(arm.strip(".")) and not set("/\0") & set(arm) and len(arm.encode()) < 256


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31


def _cleaned(value: Json, kinds: Mapping[str, str], wrong: list[str]) -> Json:
    """The object without values of another kind than expected, whose keys are added to `wrong`.

    A kind is "number", "text", "texts", "numbers" (an object of them) or "objects" (a list of
    them). None is of every kind, and keys without a kind are kept.
    """
    kept = {}
    for key, entry in value.items():
        kind = kinds.get(key)
        if kind is None or entry is None or _is(entry, kind):
            kept[key] = entry
        else:
            wrong.append(key)
    return kept


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return number(value) is not None
    if kind == "text":
        return isinstance(value, str)
    if kind == "facts":
        return facts(value) is not None
    if kind == "numbers":
        return isinstance(value, dict) and all(number(one) is not None for one in value.values())
    if not isinstance(value, list):
        return False
    return all(isinstance(one, str if kind == "texts" else dict) for one in value)
