"""Which hospital holds which patient: by the site column, or drawn from a seed."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.draws import uniform
from fedmed.data.split import patient_labels

EVENLY = 0.05
"""Share of the patients that hospitals have alike, whatever the skew, so that none is left out."""


def assign_hospitals(table: pd.DataFrame, data: Data) -> pd.Series:
    """The hospital of each row, text, aligned with ``table``; a patient is in one hospital only.

    ``site``: the values of the column ``site``. Otherwise ``hospital-1`` to ``hospital-N``, each
    patient drawn alone by a hash of its own name keyed by ``data.seed``, so that a patient more or
    less moves nobody else. ``even``: every hospital has the same chance. ``label-skew`` draws each
    label's shares of the hospitals, ``size-skew`` the hospitals' sizes, from a Dirichlet
    distribution with concentration ``data.partition-alpha`` (Hsu et al., 2019), but for a twentieth
    that all have alike; shares come from the settings alone, never from the data. ``table`` has
    ``patient_id`` and ``split`` in every row.

    Raises :class:`UserError` where a hospital would have no training images.

    >>> films = pd.DataFrame(
    ...     {"patient_id": ["a", "a", "b"], "label": [1, 0, 0], "site": ["x", "x", "y"],
    ...      "split": ["train"] * 3}
    ... )
    >>> assign_hospitals(films, Data(hospitals=2, partition="site")).tolist()
    ['x', 'x', 'y']
    """
    if data.partition == "site":
        hospitals = _by_site(table, data)
    else:
        labels = patient_labels(table)
        if data.hospitals > len(labels):
            raise UserError(
                f"data.hospitals = {data.hospitals} is more than the {len(labels)} patients; "
                "lower it"
            )
        number = _drawn(labels, data)
        of_patient = dict(zip(labels.index, number, strict=True))
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
    named = int(sites.nunique())
    if named != data.hospitals:
        raise UserError(
            f"data.hospitals = {data.hospitals}, but the column 'site' has {named} values; set "
            f"data.hospitals = {named}"
        )
    first = sites.groupby(table["patient_id"]).transform("first")
    differs = (first != sites).to_numpy(dtype=bool)
    if differs.any():
        raise UserError(
            f"row {int(differs.argmax()) + 1}: its patient is also at another site; give the "
            "patient one site, or set data.partition to even, label-skew or size-skew"
        )
    return sites


def _drawn(labels: pd.Series, data: Data) -> NDArray[np.int64]:
    """Number of each patient's hospital, from 0: where its own draw falls in its label's shares."""
    bounds = np.cumsum(shares(data), axis=1)[:, :-1]
    draw = uniform(labels.index, data.seed, "partition")
    number: NDArray[np.int64] = (draw[:, None] >= bounds[labels.to_numpy()]).sum(axis=1)
    return number


def shares(data: Data) -> NDArray[np.float64]:
    """Each hospital's share of the patients of label 0 and of label 1, (2, hospitals).

    From ``data.seed`` and the other settings alone: a Dirichlet draw, of which every hospital has
    at least ``EVENLY`` / hospitals.

    >>> shares(Data(hospitals=4, partition="even")).tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    >>> shares(Data(hospitals=2, partition="label-skew", partition_alpha=0.1)).round(2).tolist()
    [[0.95, 0.05], [0.04, 0.96]]
    """
    even = np.full((2, data.hospitals), 1 / data.hospitals)
    if data.partition == "even":
        return even
    concentration = np.full(data.hospitals, data.partition_alpha)
    drawn = np.random.default_rng([data.seed, 12]).dirichlet(concentration, size=2)
    if data.partition == "size-skew":
        drawn[1] = drawn[0]
    skewed: NDArray[np.float64] = (1 - EVENLY) * drawn + EVENLY * even
    return skewed


def _check_training(table: pd.DataFrame, hospitals: pd.Series, data: Data) -> None:
    trained = set(hospitals[(table["split"] == "train").to_numpy(dtype=bool)])
    empty = sorted(set(hospitals) - trained)
    if data.partition != "site" and not empty:
        numbered = {f"hospital-{number + 1}" for number in range(data.hospitals)}
        empty = sorted(numbered - trained)
    if empty:
        raise UserError(
            f"hospital '{empty[0]}' has no training images; lower data.hospitals, give more "
            'patients or train rows, set data.split = "patient", or choose another data.seed'
        )
