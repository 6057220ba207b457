import numpy as np
import pandas as pd
import pytest

from fedmed.evaluation.groups import age_band, members


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
