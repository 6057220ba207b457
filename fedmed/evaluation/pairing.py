"""The same test images under every run: tables of several arms and seeds, laid side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from fedmed.errors import UserError
from fedmed.evaluation import foreign
from fedmed.evaluation.measures import Column
from fedmed.evaluation.thresholds import choose

Tables = Mapping[str, Mapping[int, pd.DataFrame]]
SHOWN = 3  # differing images that an error names


@dataclass(frozen=True)
class Paired:
    """Test rows of each target in the order of images, and one column per run in that order.

    Rows, and so patients and groups, are the first run's; labels and patients are the same in all.
    """

    tests: dict[str, pd.DataFrame]
    columns: dict[str, list[Column]]
    runs: dict[str, dict[int, str]]  # arm -> seed -> name of its column
    notes: list[str]


def pair(tables: Tables) -> Paired:
    """Check that every run scored the same test images, and lay their scores side by side.

    Thresholds are each run's own, from its validation rows. Raises UserError naming the run where
    a table has no images, other images, labels, patients or targets than the first, or is bad.
    """
    runs: dict[str, dict[int, str]] = {}
    parts: dict[str, dict[str, pd.DataFrame]] = {}
    notes: list[str] = []
    for arm, by_seed in tables.items():
        for seed, table in by_seed.items():
            name = f"{arm}/seed-{seed}"
            runs.setdefault(arm, {})[seed] = name
            clean, told = foreign.accept(table, name)
            notes += [f"{name}: {note}" for note in told]
            parts[name] = _parts(clean, name)
    if not parts:
        raise UserError("nothing to compare; give the predictions of at least one run")
    first, reference = next(iter(parts.items()))
    columns: dict[str, list[Column]] = {target: [] for target in reference}
    tests = {target: _test(part) for target, part in reference.items()}
    for name, by_target in parts.items():
        if set(by_target) != set(reference):
            odd = sorted(set(by_target) ^ set(reference))
            raise UserError(
                f"{name} and {first} differ in targets ({', '.join(odd[:SHOWN])}); "
                "score the same targets"
            )
        for target, part in by_target.items():
            test = _test(part)
            _same(tests[target], test, first, name)
            chosen = choose(part[part["split"] == "val"])
            if chosen.youden is None:
                notes.append(f"{name}: {chosen.rule}")
            columns[target].append(
                Column(
                    name=name,
                    scores=test["score"].to_numpy(),
                    threshold=chosen.youden,
                    specificity_threshold=chosen.at_specificity,
                )
            )
    return Paired(tests=tests, columns=columns, runs=runs, notes=list(dict.fromkeys(notes)))


def _parts(clean: pd.DataFrame, name: str) -> dict[str, pd.DataFrame]:
    """Rows by target, in the order of images."""
    if clean["image"].isna().any():
        raise UserError(f"{name}: column 'image' is missing; without it runs cannot be paired")
    ordered = clean.sort_values("image", kind="stable")
    if "target" not in ordered:
        return {"": ordered}
    return {str(target): part for target, part in ordered.groupby("target", sort=True)}


def _test(part: pd.DataFrame) -> pd.DataFrame:
    return part[part["split"] == "test"].reset_index(drop=True)


def _same(first: pd.DataFrame, other: pd.DataFrame, first_name: str, name: str) -> None:
    """Raise UserError where two tables do not show the same images, labels and patients."""
    ours, theirs = set(first["image"]), set(other["image"])
    if ours != theirs:
        sides = [
            f"only {who} has {_list(sorted(extra))}"
            for who, extra in ((first_name, ours - theirs), (name, theirs - ours))
            if extra
        ]
        raise UserError(
            f"{first_name} and {name} have different test images ({'; '.join(sides)}); they "
            "cannot be paired, score the same images"
        )
    for column, remedy in (
        ("label", "give one label per image"),
        ("patient_id", "give one patient per image"),
    ):
        here, there = first[column], other[column]
        differs = ~((here == there) | (here.isna() & there.isna())).fillna(False).to_numpy(bool)
        if differs.any():
            image = first["image"][differs].iloc[0]
            raise UserError(
                f"{first_name} and {name} differ in the {column} of image '{image}'; {remedy}"
            )


def _list(images: list[str]) -> str:
    shown = ", ".join(f"'{image}'" for image in images[:SHOWN])
    return shown if len(images) <= SHOWN else f"{shown} and {len(images) - SHOWN} more"
