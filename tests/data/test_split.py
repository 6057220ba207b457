"""Splits: disjoint by patient, stratified, fixed by the seed, honest about unknown patients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import goes_red

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.cohort import Cohort, validate
from fedmed.data.sources import load
from fedmed.data.split import assign_splits
from fedmed.data.stores import FolderStore


def cohort(table: pd.DataFrame) -> Cohort:
    """Names of images are those of files in a folder that nobody looks into."""
    return Cohort("t.csv", validate(table, "t.csv"), FolderStore(Path("films")))


def within(found: float, share: float, count: int) -> None:
    """A share of ``count`` independent draws: four standard deviations, 6e-5 by chance."""
    assert abs(found - share) < 4 * (share * (1 - share) / count) ** 0.5


def films(patients: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """One to three films per patient; a patient's films may differ in label."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    table = pd.DataFrame({"image": np.arange(len(ids)).astype(str), "patient_id": ids.astype(str)})
    table["label"] = (rng.random(len(ids)) < 0.3).astype(int)
    return table.assign(**columns)


def split(table: pd.DataFrame, **keys: Any) -> pd.DataFrame:
    return assign_splits(cohort(table), Data.model_validate(keys)).table


def test_a_table_without_splits_is_drawn_by_patient_at_one_chance_for_each_label() -> None:
    table = split(films(3000), validation_fraction=0.1, test_fraction=0.2, seed=5)
    assert table.groupby("patient_id")["split"].nunique().max() == 1
    per_patient = table.groupby("patient_id").agg({"split": "first", "label": "max"})
    for _, patients in per_patient.groupby("label"):
        shares = patients["split"].value_counts(normalize=True)
        within(shares["test"], 0.2, len(patients))
        within(shares["val"], 0.1, len(patients))


def test_the_seed_fixes_the_split_whatever_the_order_of_rows() -> None:
    table = films(200)
    first = split(table, seed=1).set_index("image")["split"]
    shuffled = split(table.sample(frac=1, random_state=0), seed=1).set_index("image")["split"]
    assert (first == shuffled.reindex(first.index)).all()
    assert (first != split(table, seed=2).set_index("image")["split"]).mean() > 0.2


def test_a_patients_label_has_no_say_in_its_split() -> None:
    table = films(200)
    turned = split(table.assign(label=1 - table["label"]))
    assert turned["split"].tolist() == split(table)["split"].tolist()


def smoothed(table: pd.DataFrame, uncertain: Any) -> Cohort:
    made = cohort(table)
    soft = pd.Series(0.5, index=made.table.index, dtype="Float32").mask(~uncertain)
    return made.with_table(made.table.assign(soft=soft))


def test_uncertain_labels_are_for_training_alone() -> None:
    table = films(300)
    uncertain = np.random.default_rng(1).random(len(table)) < 0.3

    def check(done: pd.DataFrame) -> None:
        assert not (done["soft"].notna() & (done["split"] != "train")).any()

    done = assign_splits(smoothed(table, uncertain), Data())
    check(done.table)
    assert done.table.groupby("patient_id")["split"].nunique().max() == 1
    trained = done.table["soft"].notna().sum()
    note = "images with an uncertain label left out of validation and test"
    assert done.notes == (note,), "how many there are is for the terminal alone"
    assert done.remarks == (f"{uncertain.sum() - trained} {note}",)
    # A patient with uncertain images alone is not drawn away from training.
    alone = pd.Series(uncertain).groupby(table["patient_id"].to_numpy()).all()
    kept = done.table[done.table["patient_id"].isin(alone.index[alone])]
    assert kept["patient_id"].nunique() == alone.sum() > 10
    # Sabotage: split as if all labels were certain.
    blind = assign_splits(cohort(table), Data()).table
    goes_red(check, blind.assign(soft=smoothed(table, uncertain).table["soft"]))


def test_given_splits_keep_uncertain_labels_out_of_the_test_images() -> None:
    table = films(60)
    table["split"] = np.array(["train", "val", "test"])[table["patient_id"].astype(int) % 3]
    uncertain = np.arange(len(table)) % 5 == 0
    done = assign_splits(smoothed(table, uncertain), Data()).table
    assert done["soft"].notna().sum() == (uncertain & (table["split"] == "train")).sum() > 0
    assert len(done) == len(table) - (uncertain & (table["split"] != "train")).sum()


def test_each_site_gets_its_share_of_each_split() -> None:
    table = films(2000)
    table["site"] = "s" + (table["patient_id"].astype(int) % 4).astype(str)
    done = split(table).drop_duplicates("patient_id")
    shares = done.groupby("site")["split"].value_counts(normalize=True).unstack()
    for site in shares.index:
        within(shares.loc[site, "test"], 0.25, 500)
        within(shares.loc[site, "val"], 0.15, 500)


@settings(max_examples=25, deadline=None)
@given(
    patients=st.integers(100, 200),
    seed=st.integers(0, 2**31 - 1),
    how=st.sampled_from(["given", "patient"]),
)
def test_no_patient_is_ever_in_two_splits(patients: int, seed: int, how: str) -> None:
    table = split(films(patients, seed), seed=seed, split=how)
    assert table["split"].isin(["train", "val", "test"]).all()
    assert table.groupby("patient_id")["split"].nunique().max() == 1


def with_given(validation: bool) -> pd.DataFrame:
    table = films(1000)
    number = table["patient_id"].astype(int)
    table["split"] = np.where(number % 5 == 0, "test", "train")
    if validation:
        table.loc[number % 5 == 1, "split"] = "val"
    return table


def test_given_splits_are_kept() -> None:
    table = with_given(validation=True)
    assert split(table)["split"].tolist() == table["split"].tolist()


@pytest.mark.parametrize("how", ["given", "given-test"])
def test_validation_is_drawn_from_train_and_test_is_kept(how: str) -> None:
    table = with_given(validation=how == "given-test")
    done = split(table, split=how, validation_fraction=0.25)
    assert ((done["split"] == "test") == (table["split"] == "test")).all()
    rest = done[done["split"] != "test"].groupby("patient_id")["split"].agg(["first", "nunique"])
    assert rest["nunique"].max() == 1
    within((rest["first"] == "val").mean(), 0.25, len(rest))


def test_a_patient_in_two_splits_is_an_error_with_the_row_and_without_the_name() -> None:
    table = with_given(validation=True).assign(patient_id=lambda t: "Jane-Doe-" + t["patient_id"])
    row = int(np.flatnonzero(table["split"] == "train")[3])
    table.loc[row, "patient_id"] = table.loc[table["split"] == "val", "patient_id"].iloc[0]
    with pytest.raises(UserError, match=r"t\.csv, row \d+: .*\"given-test\" or \"patient\"") as e:
        split(table)
    assert "Jane" not in str(e.value)
    assert split(table, split="given-test")["split"].notna().all()
    table.loc[row, "patient_id"] = table.loc[table["split"] == "test", "patient_id"].iloc[0]
    with pytest.raises(UserError, match=r'data\.split = "patient"'):
        split(table, split="given-test")
    assert split(table, split="patient").groupby("patient_id")["split"].nunique().max() == 1


def test_unknown_patients_are_refused_or_kept_apart() -> None:
    table = films(100)
    table.loc[[0, 7], "patient_id"] = None
    table.loc[3, "patient_id"] = "unknown:0"  # as the first image would be called
    table.loc[4, "patient_id"] = "known:unknown:0"  # and as that patient would be
    with pytest.raises(UserError, match=r"2 of \d+ images have no patient_id; .*unknown-patients"):
        split(table)
    done = split(table, unknown_patients="separate")
    assert done["patient_id"].notna().all()
    assert (done["patient_id"] == done["patient_id"].iloc[0]).sum() == 1
    assert done["patient_id"].nunique() == table["patient_id"].nunique() + 2
    later = split(table.iloc[5:], unknown_patients="separate").set_index("image")
    assert later.loc["7", "patient_id"] == done["patient_id"].iloc[7], "whatever row it is in"
    nobody = split(table.drop(columns="patient_id"), unknown_patients="separate")
    assert nobody["patient_id"].is_unique
    with pytest.raises(UserError, match="images have no patient_id"):
        split(table.drop(columns="patient_id"))


@pytest.mark.parametrize(
    ("change", "keys", "words"),
    [
        ({"split": "train"}, {}, "no row has split 'test'"),
        ({}, {"split": "given-test"}, "needs a column 'split'"),
        ({}, {"test_fraction": 0.7, "validation_fraction": 0.4}, "leave nothing to train on"),
        ({"label": [1] + [0] * 999}, {}, "no image of one class"),
    ],
)
def test_splits_that_cannot_be(change: dict[str, Any], keys: dict[str, Any], words: str) -> None:
    table = films(60)
    change = {k: v[: len(table)] if isinstance(v, list) else v for k, v in change.items()}
    with pytest.raises(UserError, match=words):
        split(table.assign(**change), **keys)


def test_no_one_patient_decides_whether_validation_is_drawn() -> None:
    table = with_given(validation=False)
    table.loc[len(table)] = {"image": "a", "patient_id": "a", "label": 0, "split": "val"}
    table.loc[len(table)] = {"image": "b", "patient_id": "a", "label": 1, "split": "val"}
    with pytest.raises(UserError, match="split 'val' has one patient only"):
        split(table)
    assert (split(table[table["patient_id"] != "a"])["split"] == "val").sum() > 100


def test_a_half_filled_split_is_named() -> None:
    table = with_given(validation=True)
    table.loc[4, "split"] = None
    with pytest.raises(UserError, match="row 5: split is empty"):
        split(table)


def test_real_pneumoniamnist_validation_shares_patients_with_train(
    shared_data: Callable[..., Path],
) -> None:
    keys = {
        "source": "medmnist",
        "path": str(shared_data("pneumoniamnist", "pneumoniamnist.npz")),
        "index": str(shared_data("pneumoniamnist", "pneumoniamnist_index.csv")),
        "unknown_patients": "separate",
    }
    loaded = load(Data.model_validate(keys))
    with pytest.raises(UserError, match='"given-test"'):
        assign_splits(loaded, Data.model_validate(keys))
    table = assign_splits(loaded, Data.model_validate(keys | {"split": "given-test"})).table
    assert (table["split"] == "test").sum() == 624
    assert table.groupby("patient_id")["split"].nunique().max() == 1
