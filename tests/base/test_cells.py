"""No cell of a CSV is a formula; numbers stay numbers."""

import base64
import csv
import io

import numpy as np
import pandas as pd
import pytest

from fedmed.base.cells import csv_text, harmless
from fedmed.report import chart

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "\ufeff=1")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_starts_a_formula_gets_an_apostrophe(text: str) -> None:
    assert harmless(text) == f"'{text}"


def test_everything_else_stays() -> None:
    for value in ("none", "dp-sgd", "a=1", "", None, -0.5, -1, True, "'=1"):
        assert harmless(value) is value


def test_numbers_are_read_back_as_they_were_and_texts_are_not_run() -> None:
    frame = pd.DataFrame(
        {
            "arm": ["=HYPERLINK(1)", "none", None],
            "change": [-0.5, np.nan, 1e-9],
            "seed": [-1, 0, 1],
            "mixed": [-0.25, "-0.25", None],
            "=name": pd.Categorical(["+a", "b", "+a"]),
        }
    )
    rows = list(csv.reader(io.StringIO(csv_text(frame))))
    assert rows[0] == ["arm", "change", "seed", "mixed", "'=name"]
    assert rows[1] == ["'=HYPERLINK(1)", "-0.5", "-1", "-0.25", "'+a"]
    assert rows[2] == ["none", "", "0", "'-0.25", "b"]
    assert rows[3] == ["", "1e-09", "1", "", "'+a"]
    assert list(frame.columns)[-1] == "=name"  # the table itself is not changed


def test_the_reports_downloads_are_harmless() -> None:
    address = chart.address(pd.DataFrame({"arm": ["@arm"], "value": [-1.5]}))
    text = base64.b64decode(address.partition(",")[2]).decode()
    assert text == "arm,value\r\n'@arm,-1.5\r\n"
