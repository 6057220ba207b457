"""The benchmark of a large table: what it makes, and what it says of it."""

import argparse

import pytest

from experiments.benchmarks import evaluation


def test_the_table_is_the_one_that_is_told() -> None:
    table = evaluation.large_table(2000)
    assert len(table) == 2000
    assert table["patient_id"].nunique() == 800
    assert len(table.groupby(["sex", "age"])) == 4
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()


@pytest.mark.slow
def test_every_format_has_seconds_and_memory() -> None:
    told = evaluation.large(argparse.Namespace(rows=2000, resamples=30))
    assert (told["rows"], told["patients"]) == (2000, 800)
    for run in ("parquet, 0 resamples", "parquet, 30 resamples", "csv, 0 resamples"):
        assert told[run]["seconds"] > 0
        assert 0.05 < told[run]["peak_gb"] < 2
