"""Hospitals: disjoint by patient, never empty, skewed as asked, fixed by the seed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.partition import EVENLY, assign_hospitals, shares


def films(patients: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = (rng.random(patients) < 0.4).astype(int)
    split = rng.choice(["train", "val", "test"], patients, p=[0.6, 0.15, 0.25])
    site = rng.choice(["north", "south", "west"], patients)
    rows = np.repeat(np.arange(patients), rng.integers(1, 3, patients))
    return pd.DataFrame(
        {
            "patient_id": [f"p{row:04d}" for row in rows],
            "label": label[rows],
            "split": split[rows],
            "site": site[rows],
        }
    )


def hospitals(table: pd.DataFrame, **keys: Any) -> pd.Series:
    return assign_hospitals(table, Data.model_validate(keys))


@pytest.mark.parametrize("partition", ["even", "label-skew", "size-skew"])
def test_every_patient_has_one_hospital_and_every_hospital_training_images(partition: str) -> None:
    table = films()
    given = hospitals(table, partition=partition, hospitals=5)
    assert given.index.equals(table.index)
    assert sorted(given.unique()) == [f"hospital-{n}" for n in range(1, 6)]
    assert given.groupby(table["patient_id"]).nunique().max() == 1
    assert set(given[table["split"] == "train"]) == set(given)
    pd.testing.assert_series_equal(given, hospitals(table, partition=partition, hospitals=5))
    other = hospitals(table, partition=partition, hospitals=5, seed=9)
    assert (given != other).mean() > 0.3


def test_the_order_of_rows_does_not_matter() -> None:
    table = films()
    given = hospitals(table, partition="label-skew", hospitals=3)
    shuffled = table.sample(frac=1, random_state=1)
    again = hospitals(shuffled, partition="label-skew", hospitals=3)
    assert (again.reindex(table.index) == given).all()


def test_even_hospitals_have_one_chance_each_per_label() -> None:
    """Four standard deviations for each of 14 sizes: 9e-4 by chance."""
    table = films(4000)
    patients = table.assign(hospital=hospitals(table, partition="even", hospitals=7))
    for _, here in patients.drop_duplicates("patient_id").groupby("label"):
        sizes = here["hospital"].value_counts()
        assert (sizes - len(here) / 7).abs().max() < 4 * (len(here) * 6 / 49) ** 0.5


def test_shares_come_from_the_settings_alone() -> None:
    """Patients follow them: four standard deviations, 6e-5 by chance for each."""
    data = Data.model_validate({"partition": "label-skew", "hospitals": 3, "seed": 4})
    table = films(4000).drop_duplicates("patient_id")
    given, wanted = assign_hospitals(table, data), shares(data)
    assert wanted.sum(axis=1) == pytest.approx([1, 1])
    for label in (0, 1):
        here = given[table["label"] == label]
        for number, share in enumerate(wanted[label], start=1):
            found = (here == f"hospital-{number}").mean()
            assert abs(found - share) < 4 * (share * (1 - share) / len(here)) ** 0.5


def test_every_hospital_has_a_part_of_what_it_would_have_if_all_were_alike() -> None:
    for seed in range(20):
        keys = {"partition": "size-skew", "hospitals": 4, "seed": seed, "partition_alpha": 0.3}
        found = shares(Data.model_validate(keys))
        assert (found[0] == found[1]).all()
        assert found[0].min() >= EVENLY / 4
    drawn = [np.random.default_rng([s, 12]).dirichlet([0.3] * 4).min() for s in range(20)]
    assert min(drawn) < EVENLY / 4, "which the draw alone would not give"


def prevalences(given: pd.Series, table: pd.DataFrame) -> pd.Series:
    return table.groupby(given)["label"].mean()


def test_label_skew_skews_labels_and_a_large_alpha_does_not() -> None:
    table = films(1500)
    keys: dict[str, Any] = {"partition": "label-skew", "hospitals": 4, "seed": 2}
    skewed = prevalences(hospitals(table, partition_alpha=0.5, **keys), table)
    flat = prevalences(hospitals(table, partition_alpha=1e4, **keys), table)
    assert skewed.max() - skewed.min() > 0.3
    assert flat.max() - flat.min() < 0.15


def test_size_skew_skews_sizes_and_keeps_the_prevalence() -> None:
    table = films(3000)
    given = hospitals(table, partition="size-skew", hospitals=3, partition_alpha=1.0, seed=0)
    sizes = given.value_counts()
    assert sizes.max() > 1.5 * sizes.min()
    large = prevalences(given, table)[sizes[sizes > 500].index]
    assert large.max() - large.min() < 0.1


def test_sites_keep_their_names() -> None:
    table = films()
    given = hospitals(table, partition="site", hospitals=3)
    assert (given == table["site"]).all()


@pytest.mark.parametrize(
    ("change", "keys", "words"),
    [
        ({}, {"partition": "site", "hospitals": 4}, r"data\.hospitals = 4, .* has 3 values"),
        ({"site": None}, {"partition": "site", "hospitals": 3}, "row 1: site is empty"),
        ({"split": "test"}, {"partition": "even", "hospitals": 3}, "'hospital-1' has no training"),
        ({}, {"partition": "even", "hospitals": 900}, "more than the 400 patients"),
        (
            {},
            {"partition": "label-skew", "hospitals": 100, "partition_alpha": 0.01},
            r"hospital 'hospital-\d+' has no training images; .* another data\.seed",
        ),
    ],
)
def test_partitions_that_cannot_be(
    change: dict[str, Any], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        hospitals(films().assign(**change), **keys)


def test_a_patient_at_two_sites_is_named_by_row() -> None:
    table = films()
    twice = int(np.flatnonzero(table["patient_id"].duplicated())[0])
    other = {"north": "south", "south": "west", "west": "north"}
    table.loc[twice, "site"] = other[table.loc[twice, "site"]]
    with pytest.raises(UserError, match=rf"^row {twice + 1}: .*another site") as caught:
        hospitals(table, partition="site", hospitals=3)
    assert table.loc[twice, "patient_id"] not in str(caught.value)


def test_no_site_column() -> None:
    with pytest.raises(UserError, match=r"needs a column 'site'; .*data\.columns\.site"):
        hospitals(films().drop(columns="site"), partition="site", hospitals=3)


def test_a_site_without_training_images_is_named() -> None:
    table = films()
    table.loc[table["site"] == "west", "split"] = "test"
    with pytest.raises(UserError, match="hospital 'west' has no training images"):
        hospitals(table, partition="site", hospitals=3)
