"""One list of what is missing, one reading of numbers and ages."""

import numpy as np
import pandas as pd
import pytest

from fedmed.base.entries import MISSING, NOBODY, missing, numbers, text, years


def test_missing_words_hold_in_any_case_and_names_keep_theirs() -> None:
    words = pd.Series(["NA", " n/a ", "NULL", "None", "", None, "Nana", "0", "-"])
    assert missing(words).tolist() == [True] * 6 + [False] * 3
    assert missing(words, NOBODY).tolist() == [True] * 6 + [False, False, True]
    assert text(words).fillna("<nothing>").tolist()[:6] == [
        "NA",
        "n/a",
        "NULL",
        "None",
        "<nothing>",
        "<nothing>",
    ]
    assert set(MISSING) < set(NOBODY)


@pytest.mark.parametrize("kind", ["str", "object", "string"])
def test_numbers_of_text_are_those_of_numbers(kind: str) -> None:
    entries = pd.Series(["1", " 2.5", "1e3", "NA", "x", None, "TRUE"], dtype=kind)
    expected = [1.0, 2.5, 1000.0, np.nan, np.nan, np.nan, 1.0]
    np.testing.assert_array_equal(numbers(entries), expected)
    plain = pd.Series(["0.1", "7", None], dtype=kind)  # read at once
    np.testing.assert_array_equal(numbers(plain), [0.1, 7.0, np.nan])
    np.testing.assert_array_equal(numbers(pd.Series([True, False])), [1.0, 0.0])
    np.testing.assert_array_equal(numbers(pd.Series([3, None], dtype="Int8")), [3.0, np.nan])


def test_ages_in_the_words_of_dicom_are_years() -> None:
    given = pd.Series(["058Y", "036M", "045D", "026W", "7", "7.5", "NA", None, "0", "120"])
    age, wrong = years(given)
    expected = [58, 3, 45 / 365.2425, 26 / 52.1775, 7, 7.5, np.nan, np.nan, 0, 120]
    np.testing.assert_allclose(age, expected)
    assert not wrong.any()


@pytest.mark.parametrize("entry", ["121", "-1", "414Y", "old", "12 years", "1400M", "inf", "90+"])
def test_what_is_no_age_is_wrong(entry: str) -> None:
    _, wrong = years(pd.Series(["40", entry]))
    assert wrong.tolist() == [False, True]
