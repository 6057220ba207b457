"""Train, validation and test splits in which no patient appears twice."""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.config import Data
from fedmed.data.cohort import SPLITS, Cohort
from fedmed.errors import UserError


def assign_splits(cohort: Cohort, data: Data) -> Cohort:
    """The cohort with ``patient_id`` and ``split`` in every row, splits disjoint by patient.

    ``data.split``: ``given`` keeps the table's splits (validation is drawn from train where there
    is none; everything is drawn where the table has no split at all), ``given-test`` keeps the test
    rows and draws the others again, ``patient`` draws all. Drawing is by patient, stratified by
    label and spread over the sites, from ``data.seed``; ``data.test-fraction`` and
    ``data.validation-fraction`` are shares of the patients that are drawn from. Under
    ``data.unknown-patients = "separate"`` an image without a patient becomes a patient of its own,
    named ``unknown-<row>``: a guarantee per patient is then one per image for these. So it does
    under "leave-out", where :func:`fedmed.data.network.load_network` keeps only those of the test.

    Uncertain labels (a value in ``soft``) are for training alone: such images are left out of
    validation and test, and a patient who has no other is drawn for training.

    Raises :class:`UserError` naming rows, never patients.
    """
    table = cohort.table.reset_index(drop=True)
    table["patient_id"] = known_patients(table, data, cohort.name)
    given = None if "split" not in table.columns else table["split"]
    if given is not None and given.isna().all():
        given = None
    if data.split == "patient" or (data.split == "given" and given is None):
        split = _draw(table, data, data.test_fraction)
    elif given is None:
        raise UserError(
            f"{cohort.name}: data.split = '{data.split}' needs a column 'split'; "
            'set data.split = "patient"'
        )
    else:
        split = _given(table, given, data, cohort.name)
    table["split"] = pd.Series(split, index=table.index, dtype="string")
    _check_disjoint(table, data, cohort.name)
    kept = ~uncertain(table) | (table["split"] == "train").to_numpy(dtype=bool)
    if not kept.all():
        note = (
            f"{int((~kept).sum())} images with an uncertain label left out of validation and test"
        )
        cohort = replace(cohort, notes=(*cohort.notes, note))
        table = table[kept].reset_index(drop=True)
    if not data.site_names:  # of a deployed hospital whether it has both is nobody's to know
        _check_classes(table, data, cohort.name)
    return cohort.with_table(table)


def uncertain(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows have an uncertain label that training smooths."""
    if "soft" not in table.columns:
        return np.zeros(len(table), dtype=bool)
    return table["soft"].notna().to_numpy(dtype=bool)


def known_patients(table: pd.DataFrame, data: Data, where: str) -> pd.Series:
    """A patient for every row, or :class:`UserError` saying how many have none."""
    if "patient_id" in table.columns:
        patients = table["patient_id"].astype("string")
    else:
        patients = pd.Series(pd.NA, index=table.index, dtype="string")
    unknown = patients.isna()
    if unknown.any() and data.unknown_patients == "refuse":
        raise UserError(
            f"{where}: {int(unknown.sum())} of {len(table)} images have no patient_id; supply them "
            '(medmnist: data.index) or set data.unknown-patients = "separate" to take each image '
            'for a patient of its own, or "leave-out"'
        )
    own = "unknown-" + pd.Series(np.arange(1, len(table) + 1), index=table.index).astype("string")
    while own[unknown].isin(patients[~unknown]).any():
        own = "unknown-" + own  # a table may hold such names already
    return patients.mask(unknown, own)


def patient_labels(table: pd.DataFrame) -> pd.Series:
    """1 for a patient with any positive image, else 0; indexed by patient in sorted order."""
    return table.groupby("patient_id", sort=True)["label"].max().astype(int)


def _given(table: pd.DataFrame, given: pd.Series, data: Data, where: str) -> NDArray[np.str_]:
    blank = given.isna().to_numpy(dtype=bool)
    test = (given == "test").fillna(False).to_numpy(dtype=bool)
    if not test.any():
        raise UserError(f"{where}: no row has split 'test'; set data.split = \"patient\"")
    split = given.fillna("train").to_numpy(dtype=str)
    if data.split == "given" and blank.any():
        raise UserError(
            f"{where}, row {int(blank.argmax()) + 1}: split is empty; fill it, or set data.split "
            'to "given-test" or "patient"'
        )
    if data.split == "given" and (split == "val").any():
        return split
    # Before drawing: a patient on both sides would be hidden in whichever side is drawn.
    in_test = set(table.loc[test, "patient_id"])
    both = ~test & table["patient_id"].isin(in_test).to_numpy(dtype=bool)
    if both.any():
        raise _shared(int(both.argmax()), data, where)
    split[~test] = _draw(table[~test], data, test_fraction=0)
    return split


def _draw(table: pd.DataFrame, data: Data, test_fraction: float) -> NDArray[np.str_]:
    """A split for each row, drawn by patient: systematic sampling after a shuffle in each label."""
    if test_fraction + data.validation_fraction >= 1:
        raise UserError(
            "data.test-fraction and data.validation-fraction leave nothing to train on; lower them"
        )
    rng = np.random.default_rng([data.seed, 11])
    certain = table[~uncertain(table)]
    labels = patient_labels(certain)
    sites = table.groupby("patient_id", sort=True)["site"].first() if "site" in table else None
    of_patient: dict[str, str] = {}
    for label in (0, 1):
        patients = labels.index[labels == label].to_numpy(dtype=object)
        patients = rng.permutation(patients)
        if sites is not None:  # neighbours share a site, so each site gets its share of each split
            order = np.argsort(sites[patients].fillna("").to_numpy(dtype=str), kind="stable")
            patients = patients[order]
        test = _every(len(patients), test_fraction, rng)
        rest = patients[~test]
        share = data.validation_fraction / (1 - test_fraction)
        validation = _every(len(rest), share, rng)
        of_patient.update(dict.fromkeys(patients[test], "test"))
        of_patient.update(dict.fromkeys(rest[validation], "val"))
        of_patient.update(dict.fromkeys(rest[~validation], "train"))
    return table["patient_id"].map(of_patient).fillna("train").to_numpy(dtype=str)


def _every(count: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of ``count`` to take: every (1/share)-th from a random start, at least one."""
    steps = np.floor(np.arange(count + 1) * share + rng.random())
    taken = np.diff(steps) > 0
    if share > 0 and count > 1 and not taken.any():
        taken[int(rng.integers(count))] = True
    return np.asarray(taken)


def _check_disjoint(table: pd.DataFrame, data: Data, where: str) -> None:
    first = table.groupby("patient_id")["split"].transform("first")
    differs = (first != table["split"]).to_numpy(dtype=bool)
    if differs.any():
        raise _shared(int(differs.argmax()), data, where)


def _shared(row: int, data: Data, where: str) -> UserError:
    remedy = '"given-test" or "patient"' if data.split == "given" else '"patient"'
    return UserError(
        f"{where}, row {row + 1}: its patient is also in another split; correct the table or set "
        f"data.split = {remedy}"
    )


def _check_classes(table: pd.DataFrame, data: Data, where: str) -> None:
    for split in SPLITS:
        if table.loc[table["split"] == split, "label"].nunique() < 2:
            raise UserError(
                f"{where}: split '{split}' has no image of one class; give more patients, change "
                'data.test-fraction or data.validation-fraction, or set data.split = "patient"'
            )
