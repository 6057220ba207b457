"""The network: every image has one place, and what the server holds out nobody trains on."""

import numpy as np
import pandas as pd
import pytest
from support import goes_red, make, refuses

from fedmed.config import Data, Settings
from fedmed.data import network as module
from fedmed.data.cohort import Cohort, validate
from fedmed.data.network import POOLED, load_network, member_names, training_shard
from fedmed.data.split import known_patients
from fedmed.data.stores import ArrayStore

SETTINGS = make(data={"patients": 120, "hospitals": 3})


def rows(cohort: Cohort) -> set[str]:
    return set(cohort.table["image"])


def test_every_image_is_in_one_hospital_or_held_out() -> None:
    network = load_network(SETTINGS.data)
    assert network.names == ["hospital-1", "hospital-2", "hospital-3"]
    parts = [rows(network.training(name)) for name in network.names]
    held_out, hospitals = network.held_out()
    assert len(held_out) == len(hospitals)
    assert sum(map(len, parts)) + len(held_out) == len(network.cohort)
    assert set().union(*parts, rows(held_out)) == rows(network.cohort)
    assert rows(network.training(POOLED)) == set().union(*parts)
    assert set(held_out.table["split"]) == {"val", "test"}


def test_no_patient_is_in_two_hospitals_or_in_training_and_held_out() -> None:
    """Pitfall 26."""
    network = load_network(SETTINGS.data)
    parts = [network.training(name) for name in network.names] + [network.held_out()[0]]
    patients = [set(part.table["patient_id"]) for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients))


def test_the_training_seed_does_not_move_images() -> None:
    other = SETTINGS.replaced({"run.seed": 5, "train.rounds": 9})
    assert load_network(other.data) is load_network(SETTINGS.data)
    moved = SETTINGS.replaced({"data.seed": 5})
    assert rows(load_network(moved.data).training("hospital-1")) != rows(
        load_network(SETTINGS.data).training("hospital-1")
    )


def test_members_follow_the_scheme() -> None:
    assert member_names(SETTINGS) == ["hospital-1", "hospital-2", "hospital-3"]
    assert member_names(SETTINGS.replaced({"train.scheme": "pooled"})) == [POOLED]


def test_a_shard_is_read_once_by_a_process() -> None:
    first = training_shard(SETTINGS.data, "hospital-1")
    assert training_shard(SETTINGS.data, "hospital-1") is first
    assert len(first) == len(load_network(SETTINGS.data).training("hospital-1"))
    assert first.images.shape[1:] == (16, 16)


def test_a_cap_keeps_at_most_so_many_images_of_each_patient() -> None:
    network = load_network(SETTINGS.data)
    whole = network.training("hospital-1").table

    def check(cap: int, kept: pd.DataFrame) -> None:
        counts = whole.groupby("patient_id").size().clip(upper=cap)
        pd.testing.assert_series_equal(kept.groupby("patient_id").size(), counts)
        assert set(kept["image"]) <= set(whole["image"])

    for cap in (1, 2, 100):
        check(cap, network.training("hospital-1", cap).table)
        check(cap, network.training("hospital-1", cap).table)
    pd.testing.assert_frame_equal(network.training("hospital-1", 0).table, whole)
    goes_red(check, 1, whole)
    assert training_shard(SETTINGS.data, "hospital-1", 1).key != (
        training_shard(SETTINGS.data, "hospital-1").key
    )


def test_images_of_unknown_patients_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": ["x/0", "x/1", "x/2"], "label": [0, 1, 0], "split": "train"}
    for given, count in ((["a", None, "b"], 1), (["a", "a", "b"], 0), (None, 3)):
        table = pd.DataFrame(rows)
        if given is not None:
            table["patient_id"] = pd.Series(given, dtype="string")
        data = of_table(table, ["hospital-1"] * 3, monkeypatch)
        assert load_network(data).unknown_patients == count
    load_network.cache_clear()


def test_images_of_unknown_patients_are_left_out_of_training_and_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"x/{row}" for row in range(6)]
    splits = ["train", "train", "val", "val", "test", "test"]
    patients = ["a", None, "b", None, "c", None]
    table = pd.DataFrame({"image": names, "label": [0, 1] * 3, "split": splits})
    table["patient_id"] = pd.Series(patients, dtype="string")
    data = of_table(table, ["hospital-1"] * 6, monkeypatch)
    monkeypatch.setattr(module, "assign_splits", named)

    def check(data: Data) -> None:
        load_network.cache_clear()
        network = load_network(data)
        assert list(network.cohort.table["image"]) == ["x/0", "x/2", "x/4", "x/5"]
        assert network.unknown_patients == 0  # so that a guarantee per patient can be given

    check(data.model_copy(update={"unknown_patients": "leave-out"}))
    goes_red(check, data.model_copy(update={"unknown_patients": "separate"}))
    load_network.cache_clear()


def named(cohort: Cohort, data: Data) -> Cohort:
    patients = known_patients(cohort.table, cohort.images, data, cohort.name)
    return cohort.with_table(cohort.table.assign(patient_id=patients))


def of_table(table: pd.DataFrame, hospital: list[str], monkeypatch: pytest.MonkeyPatch) -> Data:
    pixels = np.zeros((len(table), 8, 8), dtype=np.uint8)
    cohort = Cohort("made", validate(table, "made"), ArrayStore({"x": pixels}))
    monkeypatch.setattr(module, "load", lambda data: cohort)
    monkeypatch.setattr(module, "assign_splits", lambda cohort, data: cohort)
    monkeypatch.setattr(
        module, "assign_hospitals", lambda table, data: pd.Series(hospital[: len(table)])
    )
    load_network.cache_clear()
    return Settings().data


def test_a_hospital_without_training_images_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame(
        {"image": ["x/0", "x/1", "x/2"], "label": [0, 1, 0], "split": ["train", "train", "test"]}
    )
    data = of_table(table, ["hospital-1", "hospital-1", "hospital-2"], monkeypatch)
    refuses(lambda: load_network(data), "hospital-2 has no training images", "data.hospitals")
    load_network.cache_clear()


def test_hospital_10_comes_after_hospital_2(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["hospital-10", "hospital-2", "hospital-1"]
    table = pd.DataFrame({"image": ["x/0", "x/1", "x/2"], "label": [0, 1, 0], "split": "train"})
    network = load_network(of_table(table, names, monkeypatch))
    assert network.names == ["hospital-1", "hospital-2", "hospital-10"]
    load_network.cache_clear()


def test_a_site_cannot_take_the_name_of_all_sites_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else that hospital would be handed everybody's images."""
    table = pd.DataFrame({"image": ["x/0", "x/1"], "label": [0, 1], "split": "train"})
    data = of_table(table, ["pooled", "hospital-1"], monkeypatch)
    refuses(lambda: load_network(data), "may not be called 'pooled'")
    load_network.cache_clear()
