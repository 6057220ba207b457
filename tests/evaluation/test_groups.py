import numpy as np
import pandas as pd
import pytest

from fedmed.evaluation.tables import groups
from fedmed.evaluation.tables.groups import age_band, members


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "0-29"),
        (29.99, "0-29"),
        (30, "30-59"),
        (59, "30-59"),
        (60, "60-69"),
        (70, "70-79"),
        (79.9, "70-79"),
        (80, "80+"),
        (110, "80+"),
    ],
)
def test_bands_are_closed_on_the_left(age: float, band: str) -> None:
    assert age_band(pd.Series([age])).tolist() == [band]


def test_unknown_and_impossible_ages_have_no_band() -> None:
    ages = pd.Series([np.nan, None, -1.0, np.inf, 40.0], index=[7, 8, 9, 10, 11])
    bands = age_band(ages)
    assert bands.isna().tolist() == [True, True, True, True, False]
    assert list(bands.index) == [7, 8, 9, 10, 11]


def test_nullable_integers_and_empty_series_are_read() -> None:
    assert age_band(pd.Series([65, None], dtype="Int64")).fillna("-").tolist() == ["60-69", "-"]
    assert len(age_band(pd.Series([], dtype=float))) == 0


def test_missing_group_is_called_unknown() -> None:
    assert members(pd.Series(["F", None])).tolist() == ["F", "unknown"]


def demographics(**columns: object) -> pd.DataFrame:
    base = {"label": [0, 1, 0, 1], "age": [61.0, None, 20.0, 85.0], "sex": ["F", "F", None, "M"]}
    empty = dict.fromkeys(("hospital", "view"))
    return pd.DataFrame({**base, **empty, **columns})


def test_sex_and_age_band_together_need_both() -> None:
    found = groups.of(demographics())
    assert list(found) == ["sex", "age", "sex_age"]
    assert found["sex_age"].tolist() == ["F 60-69", "unknown", "unknown", "M 80+"]
    assert found["age"].tolist() == ["60-69", "unknown", "0-29", "80+"]


def test_comorbidities_are_counted_up_to_three() -> None:
    found = groups.of(demographics(comorbidities=pd.array([0, 2, 7, None], dtype="Int16")))
    assert found["comorbidities"].tolist() == ["0", "2", "3+", "unknown"]
    assert groups.of(demographics(comorbidities=[3, 1, 0, 0]))["comorbidities"][0] == "3+"


def test_a_finding_that_decides_the_label_is_no_group() -> None:
    assert "finding" not in groups.of(demographics(finding=["none", "viral", "none", "bacterial"]))
    found = groups.of(demographics(finding=["effusion", "effusion", None, "nodule"]))
    assert found["finding"].tolist() == ["effusion", "effusion", "unknown", "nodule"]


def test_rare_findings_are_put_together() -> None:
    many = [f"f{i}" for i in range(groups.FINDINGS + 3)]
    finding = ["common"] * 4 + many
    rows = {"age": None, "sex": None, "hospital": None, "view": None}
    table = pd.DataFrame({"label": [0, 1] + [0] * (len(finding) - 2), "finding": finding, **rows})
    found = groups.of(table)["finding"]
    assert found.nunique() == groups.FINDINGS + 1
    assert (found == "other").sum() == 4


def test_names_keep_their_natural_order() -> None:
    bands = ["M 80+", "unknown", "F 30-59", "F 0-29", "M 0-29", "other"]
    assert sorted(bands, key=groups.order) == [
        "F 0-29",
        "F 30-59",
        "M 0-29",
        "M 80+",
        "other",
        "unknown",
    ]
    assert sorted(["80+", "30-59", "0-29"], key=groups.order) == ["0-29", "30-59", "80+"]
    assert sorted(["3+", "0", "2"], key=groups.order) == ["0", "2", "3+"]
    hospitals = ["hospital-10", "hospital-2", "unknown"]
    assert sorted(hospitals, key=groups.order) == ["hospital-2", "hospital-10", "unknown"]
