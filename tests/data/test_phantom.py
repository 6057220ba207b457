"""The synthetic cohort: reproducible, quick, with the effects that it documents."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.cohort import Cohort
from fedmed.data.decode import to_square
from fedmed.data.sources import load
from fedmed.data.sources.phantom import EFFECTS, Effects
from fedmed.data.sources.phantom import load as draw


def phantom(**keys: object) -> Cohort:
    return load(Data.model_validate({"patients": 1200, "hospitals": 4, "seed": 3} | keys))


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return phantom()


def test_says_that_it_is_synthetic(cohort: Cohort) -> None:
    assert cohort.synthetic
    assert "synthetic" in cohort.name


def test_a_seed_fixes_table_and_pixels(cohort: Cohort) -> None:
    again, other = phantom(), phantom(seed=4)
    pd.testing.assert_frame_equal(cohort.table, again.table)
    name = "phantom/000005"
    assert (cohort.images.read(name) == again.images.read(name)).all()
    assert cohort.images.digest(name) == again.images.digest(name)
    assert cohort.images.digest(name) != other.images.digest(name)
    assert (cohort.images.read(name) != other.images.read(name)).mean() > 0.5


def test_the_drawing_of_this_version_has_not_changed() -> None:
    """Where this fails, raise phantom.VERSION: cached shards would hold the old pixels."""
    image = load(Data(patients=20, hospitals=2, seed=0)).images.read("phantom/000003")
    assert image.shape == (128, 128)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    assert float(image.mean()) == pytest.approx(0.42267, abs=2e-4)
    assert float(image.std()) == pytest.approx(0.32306, abs=2e-4)


def test_a_patient_does_not_depend_on_how_many_there_are() -> None:
    few, many = (draw(Data(patients=count, hospitals=3, seed=2)) for count in (40, 55))
    pd.testing.assert_frame_equal(few.table, many.table.iloc[: len(few)])
    for name in few.table["image"]:
        assert few.images.digest(name) == many.images.digest(name)


def test_another_truth_keeps_the_patients_and_changes_what_it_names() -> None:
    data = Data(patients=300, hospitals=3, seed=2)
    given, same = draw(data), draw(data, EFFECTS)
    fainter, none = draw(data, Effects(contrast=0.19)), draw(data, Effects(log_odds_per_decade=0))
    pd.testing.assert_frame_equal(given.table, same.table)
    pd.testing.assert_frame_equal(given.table, fainter.table)
    for number, label in enumerate(given.table["label"]):
        name = f"phantom/{number:06d}"
        assert given.images.digest(name) == same.images.digest(name)
        assert (given.images.digest(name) == fainter.images.digest(name)) == (label == 0)
    kept = ["patient_id", "age", "sex", "site", "comorbidities"]
    pd.testing.assert_frame_equal(given.table[kept], none.table[kept])
    assert (given.table["label"] != none.table["label"]).any()


def test_patients_have_one_site_and_label_and_some_have_several_films(cohort: Cohort) -> None:
    by_patient = cohort.table.groupby("patient_id")
    assert by_patient["site"].nunique().max() == 1
    assert by_patient["label"].nunique().max() == 1
    assert len(cohort) / 1200 == pytest.approx(1.15, abs=0.04)
    assert sorted(cohort.table["site"].unique()) == [f"hospital-{n}" for n in range(1, 5)]
    assert cohort.table["age"].between(18, 90).all()


def test_prevalence_rises_with_age_and_differs_between_hospitals(cohort: Cohort) -> None:
    table = cohort.table
    assert table["label"].mean() == pytest.approx(0.4, abs=0.06)
    old, young = table["age"] >= 65, table["age"] < 45
    assert table.loc[old, "label"].mean() > table.loc[young, "label"].mean() + 0.08
    by_site = table.groupby("site")["label"].mean()
    assert by_site["hospital-4"] > by_site["hospital-1"] + 0.1


def test_the_task_can_be_learnt_and_is_harder_in_the_groups_it_documents(cohort: Cohort) -> None:
    table = cohort.table
    images = np.stack([to_square(cohort.images.read(name), 32) for name in table["image"]])
    pixels = images.reshape(len(images), -1) / 255
    label = table["label"].to_numpy(dtype=int)
    train = (table["patient_id"].str[-6:].astype(int) < 800).to_numpy()
    scale = StandardScaler().fit(pixels[train])
    model = LogisticRegression(C=1e-3, max_iter=200).fit(
        scale.transform(pixels[train]), label[train]
    )
    score = model.decision_function(scale.transform(pixels))

    def auroc(rows: np.ndarray) -> float:
        return float(roc_auc_score(label[rows & ~train], score[rows & ~train]))

    everyone = np.ones(len(table), dtype=bool)
    age, female = table["age"].to_numpy(float), (table["sex"] == "F").to_numpy(bool)
    assert 0.75 < auroc(everyone) < 0.99
    assert auroc((age < 60) & ~female) > auroc((age >= 70) & female) + 0.02
    assert EFFECTS.contrast_in_women < 1


def test_scanners_differ_between_hospitals_and_not_within(cohort: Cohort) -> None:
    table = cohort.table
    frames = {}
    for site, rows in table.groupby("site"):
        corner = [cohort.images.read(name)[30:60, 1:4].mean() for name in rows["image"].head(5)]
        frames[site] = (np.mean(corner), np.std(corner))
    assert np.std([mean for mean, _ in frames.values()]) > 0.005


def test_bad_requests() -> None:
    with pytest.raises(UserError, match=r"data\.hospitals = 30 is more than data\.patients = 20"):
        phantom(patients=20, hospitals=30)
    with pytest.raises(UserError, match="no image 'phantom/999999'"):
        phantom().images.read("phantom/999999")
