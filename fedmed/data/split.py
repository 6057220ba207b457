"""Train, validation and test splits in which no patient appears twice."""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.cohort import SPLITS, Cohort, ImageStore
from fedmed.data.draws import uniform

UNKNOWN = "unknown:"
"""How the names begin that images without a patient get; no patient's own name does."""


def assign_splits(cohort: Cohort, data: Data) -> Cohort:
    """The cohort with ``patient_id`` and ``split`` in every row, splits disjoint by patient.

    ``data.split``: ``given`` keeps the table's splits (validation is drawn from train where there
    is none; everything is drawn where the table has no split at all), ``given-test`` keeps the test
    rows and draws the others again, ``patient`` draws all. Each patient is drawn alone, by a hash
    of its own name keyed by ``data.seed``, so that a patient more or less moves nobody else.
    ``data.test-fraction`` and ``data.validation-fraction`` are the chances of those drawn from, the
    same for each label and site: sizes and prevalence vary as in any random draw. Under
    ``data.unknown-patients = "separate"`` an image without a patient becomes a patient of its own,
    named after what it is: a guarantee per patient is then one per image for these. So it does
    under "leave-out", where :func:`fedmed.data.network.load_network` keeps only those of the test.

    Uncertain labels (a value in ``soft``) are for training alone: such images are left out of
    validation and test, and a patient who has no other is drawn for training.

    Raises :class:`UserError` naming rows, never patients.

    >>> from fedmed.data.sources import load
    >>> data = Data(patients=200, split="patient", test_fraction=0.5)
    >>> table = assign_splits(load(data), data).table
    >>> int(table.groupby("patient_id")["split"].nunique().max())
    1
    """
    table = cohort.table.reset_index(drop=True)
    table["patient_id"] = known_patients(table, cohort.images, data, cohort.name)
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
        note = "images with an uncertain label left out of validation and test"
        cohort = replace(
            cohort,
            notes=(*cohort.notes, note),
            remarks=(*cohort.remarks, f"{int((~kept).sum()):,} {note}"),
        )
        table = table[kept].reset_index(drop=True)
    if not data.site_names:  # of a deployed hospital whether it has both is nobody's to know
        _check_classes(table, data, cohort.name)
    return cohort.with_table(table)


def uncertain(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows have an uncertain label that training smooths."""
    if "soft" not in table.columns:
        return np.zeros(len(table), dtype=bool)
    return table["soft"].notna().to_numpy(dtype=bool)


def known_patients(table: pd.DataFrame, images: ImageStore, data: Data, where: str) -> pd.Series:
    """A patient for every row, or :class:`UserError` saying how many have none.

    An image without one is named after its own identity in the store, never after its row: the
    images before it have no say in where it goes.
    """
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
    # A patient who is called as such an image would be keeps a name of its own.
    taken = patients.str.match(r"(un)?known:").fillna(False).astype(bool)
    patients = patients.mask(taken, "known:" + patients)
    own = table.loc[unknown, "image"].map(lambda name: UNKNOWN + images.identity(str(name)))
    copy = own.groupby(own).cumcount()  # records that are alike in everything stay apart
    own = own.where(copy == 0, own + "#" + (copy + 1).astype("string"))
    return patients.mask(unknown, own.reindex(table.index).astype("string"))


def patient_labels(table: pd.DataFrame) -> pd.Series:
    """1 for a patient with any positive image, else 0; indexed by patient in sorted order.

    >>> films = pd.DataFrame({"patient_id": ["a", "a", "b"], "label": [0, 1, 0]})
    >>> patient_labels(films).to_dict()
    {'a': 1, 'b': 0}
    """
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
    """A split for each row, by its patient's own number: nobody else's place depends on it.

    A patient with uncertain labels alone is trained on, as it could not be tested.
    """
    if test_fraction + data.validation_fraction >= 1:
        raise UserError(
            "data.test-fraction and data.validation-fraction leave nothing to train on; lower them"
        )
    patients = pd.Index(table["patient_id"].unique())
    number = uniform(patients, data.seed, "split")
    split = np.full(len(patients), "train", dtype="<U5")
    split[number < test_fraction + data.validation_fraction] = "val"
    split[number < test_fraction] = "test"
    certain = patients.isin(table.loc[~uncertain(table), "patient_id"])
    split[~certain] = "train"
    of_patient = dict(zip(patients, split, strict=True))
    return table["patient_id"].map(of_patient).to_numpy(dtype=str)


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
    """Two classes in each split, of two patients: no one patient decides whether a split is there.

    (Where a table had no validation but for one patient, that patient would decide whether it is
    drawn from all others.)
    """
    for split in SPLITS:
        here = table[table["split"] == split]
        if here["label"].nunique() < 2:
            more = "" if data.split == "patient" else ', or set data.split = "patient"'
            raise UserError(
                f"{where}: split '{split}' has no image of one class; give more patients, or "
                f"change data.seed, data.test-fraction or data.validation-fraction{more}"
            )
        if here["patient_id"].nunique() < 2:
            raise UserError(
                f"{where}: split '{split}' has one patient only; give more patients, or set "
                'data.split = "patient"'
            )
