"""The same test images under every run: tables of several arms and seeds, laid side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.evaluation.measuring.measures import Column
from fedmed.evaluation.measuring.redrawing import redraw
from fedmed.evaluation.tables import foreign
from fedmed.evaluation.thresholds import choose

Tables = Mapping[str, Mapping[int, pd.DataFrame]]
SHOWN = 3  # differing images that an error names
DEMOGRAPHICS = ("age", "sex", "view", "hospital", "finding", "comorbidities")
YEARS = 1e-3  # ages that are closer were rounded by a file format


@dataclass(frozen=True)
class Paired:
    """Test rows of each target in the order of images, and one column per run in that order.

    Labels and patients are the same in all runs. What a table leaves out of an image's age, sex and
    the like is taken from one that knows it, so that groups do not depend on which run comes first.
    """

    tests: dict[str, pd.DataFrame]
    columns: dict[str, list[Column]]
    runs: dict[str, dict[int, str]]  # arm -> seed -> name of its column
    notes: list[str]
    validation: dict[str, dict[str, pd.DataFrame]]  # target -> column -> rows that chose thresholds

    def redrawn(self, resamples: int, seed: int) -> dict[str, list[Column]]:
        """The columns with a threshold for each resample: see ``redrawing.redraw``."""
        return {
            target: [self._redrawn(target, column, resamples, seed) for column in columns]
            for target, columns in self.columns.items()
        }

    def _redrawn(self, target: str, column: Column, resamples: int, seed: int) -> Column:
        rows = self.validation[target][column.name]
        anew = redraw(rows, choose(rows), resamples=resamples, seed=seed)
        return replace(column, redrawn=anew)


def pair(tables: Tables) -> Paired:
    """Check that every run scored the same test images, and lay their scores side by side.

    Thresholds are each run's own, from its validation rows. Raises UserError naming the run where
    a table has no images, other images, labels, patients, targets or demographics than another, or
    is bad.
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
            filled, conflict = _complete(tests[target], test)
            if conflict is not None:
                column, image = conflict
                source = next(n for n in parts if _tells(parts[n][target], image, column))
                raise UserError(
                    f"{source} and {name} differ in the {column} of image '{image}'; correct one, "
                    "or leave it empty"
                )
            if filled:
                listed = ", ".join(filled)
                notes.append(f"{listed} of images that no table before it tells: from {name}")
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
    return Paired(tests, columns, runs, list(dict.fromkeys(notes)), _validation(parts, reference))


def _validation(
    parts: Mapping[str, Mapping[str, pd.DataFrame]], targets: Iterable[str]
) -> dict[str, dict[str, pd.DataFrame]]:
    """Validation rows by target and run."""
    return {
        target: {name: part[target][part[target]["split"] == "val"] for name, part in parts.items()}
        for target in targets
    }


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
    for lacks, has, without, with_ in (
        (first_name, name, first, other),
        (name, first_name, other, first),
    ):
        if without["patient_id"].isna().all() and with_["patient_id"].notna().any():
            raise UserError(
                f"{lacks} has no patient_id and {has} has: every image would count as a patient of "
                f"its own; add the column to {lacks}"
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


def _complete(known: pd.DataFrame, other: pd.DataFrame) -> tuple[list[str], tuple[str, str] | None]:
    """Fill what `known` lacks from rows of the same images; what was filled.

    Or the first column and image in which both tell and differ.
    """
    filled: list[str] = []
    for column in DEMOGRAPHICS:
        if column not in other:
            continue
        theirs = other[column]
        ours = known[column] if column in known else theirs.where(theirs.isna())
        if column in ("age", "comorbidities"):
            apart = (ours.astype("Float64") - theirs.astype("Float64")).abs() > YEARS
        else:
            apart = ours != theirs
        differs = (ours.notna() & theirs.notna() & apart.fillna(False)).to_numpy(bool)
        if differs.any():
            return filled, (column, str(known["image"][differs].iloc[0]))
        if (ours.isna() & theirs.notna()).any():
            filled.append(column)
            known[column] = ours.where(ours.notna(), theirs)
    return filled, None


def _tells(part: pd.DataFrame, image: str, column: str) -> bool:
    return column in part and bool(part.loc[part["image"] == image, column].notna().any())


def _list(images: list[str]) -> str:
    shown = ", ".join(f"'{image}'" for image in images[:SHOWN])
    return shown if len(images) <= SHOWN else f"{shown} and {len(images) - SHOWN} more"
