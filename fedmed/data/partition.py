"""Which hospital holds which patient: by the site column, or drawn from a seed."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.config import Data
from fedmed.data.split import patient_labels
from fedmed.errors import UserError

DRAWS = 200
"""A Dirichlet draw that leaves a hospital without training images is repeated this often."""


def assign_hospitals(table: pd.DataFrame, data: Data) -> pd.Series:
    """The hospital of each row, text, aligned with ``table``; a patient is in one hospital only.

    ``site``: the values of the column ``site``. Otherwise ``hospital-1`` to ``hospital-N``:
    ``even`` deals the patients of each label in turn; ``label-skew`` draws each label's shares of
    the hospitals, ``size-skew`` the hospitals' sizes, from a Dirichlet distribution with
    concentration ``data.partition-alpha`` (Hsu et al., 2019). All splits are divided alike and
    ``data.seed`` fixes the draw. ``table`` has ``patient_id`` and ``split`` in every row.

    Raises :class:`UserError` where a hospital would have no training images.
    """
    if data.partition == "site":
        hospitals = _by_site(table, data)
    else:
        patients = _patients(table)
        if data.hospitals > len(patients):
            raise UserError(
                f"data.hospitals = {data.hospitals} is more than the {len(patients)} patients; "
                "lower it"
            )
        rng = np.random.default_rng([data.seed, 12])
        number = _even(patients, data, rng) if data.partition == "even" else None
        if number is None:
            number = _dirichlet(patients, data, rng)
        of_patient = dict(zip(patients.index, number, strict=True))
        hospitals = "hospital-" + (table["patient_id"].map(of_patient) + 1).astype("string")
    _check_training(table, hospitals, data)
    return hospitals.rename("hospital")


def _by_site(table: pd.DataFrame, data: Data) -> pd.Series:
    if "site" not in table.columns:
        raise UserError(
            "data.partition = \"site\" needs a column 'site'; name it with data.columns.site, or "
            "set data.partition to even, label-skew or size-skew"
        )
    sites = table["site"].astype("string")
    if sites.isna().any():
        row = int(sites.isna().to_numpy().argmax()) + 1
        raise UserError(f"row {row}: site is empty; fill it or choose another data.partition")
    found = int(sites.nunique())
    if found != data.hospitals:
        raise UserError(
            f"data.hospitals = {data.hospitals}, but the column 'site' has {found} values; set "
            f"data.hospitals = {found}"
        )
    first = sites.groupby(table["patient_id"]).transform("first")
    differs = (first != sites).to_numpy(dtype=bool)
    if differs.any():
        raise UserError(
            f"row {int(differs.argmax()) + 1}: its patient is also at another site; give the "
            "patient one site, or set data.partition to even, label-skew or size-skew"
        )
    return sites


def _patients(table: pd.DataFrame) -> pd.DataFrame:
    """One row per patient in sorted order: ``label`` (any positive image) and ``split``."""
    split = table.groupby("patient_id", sort=True)["split"].first()
    return pd.DataFrame({"label": patient_labels(table), "split": split})


def _even(patients: pd.DataFrame, data: Data, rng: np.random.Generator) -> NDArray[np.int64]:
    """Dealt in turn, label by label and split by split: sizes differ by at most one in all."""
    shuffled = rng.permutation(len(patients))
    keys = patients.iloc[shuffled]
    order = shuffled[np.lexsort((keys["split"].to_numpy(str), keys["label"].to_numpy()))]
    number = np.empty(len(patients), dtype=np.int64)
    number[order] = np.arange(len(patients)) % data.hospitals
    return number


def _dirichlet(patients: pd.DataFrame, data: Data, rng: np.random.Generator) -> NDArray[np.int64]:
    """Patients drawn by Dirichlet shares, again until every hospital has some to train on."""
    label = patients["label"].to_numpy()
    train = (patients["split"] == "train").to_numpy(dtype=bool)
    concentration = np.full(data.hospitals, data.partition_alpha)
    for _ in range(DRAWS):
        shares = rng.dirichlet(concentration, size=2)
        if data.partition == "size-skew":
            shares[1] = shares[0]
        number = np.empty(len(patients), dtype=np.int64)
        for value in (0, 1):
            chosen = label == value
            number[chosen] = rng.choice(data.hospitals, size=int(chosen.sum()), p=shares[value])
        if len(np.unique(number[train])) == data.hospitals:
            return number
    raise UserError(
        f"data.partition-alpha = {data.partition_alpha:g} leaves a hospital without training "
        f"images in each of {DRAWS} draws; raise it or lower data.hospitals"
    )


def _check_training(table: pd.DataFrame, hospitals: pd.Series, data: Data) -> None:
    trained = set(hospitals[(table["split"] == "train").to_numpy(dtype=bool)])
    empty = sorted(set(hospitals) - trained)
    if data.partition != "site" and not empty:
        numbered = {f"hospital-{number + 1}" for number in range(data.hospitals)}
        empty = sorted(numbered - trained)
    if empty:
        raise UserError(
            f"hospital '{empty[0]}' has no training images; lower data.hospitals, give it train "
            'rows, or set data.split = "patient"'
        )
