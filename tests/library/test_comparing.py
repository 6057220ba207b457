"""A comparison from Python: the same files as the command's, and tables of them."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import refuses
from support.runs import tiny_text, written

import fedmed
from fedmed.library.forecasting import Forecasts
from fedmed.library.silent import Silent

pytestmark = pytest.mark.usefixtures("tiny_hospitals")
TEXT = tiny_text(["none", "dp-sgd"], '[run]\npolicies = "policies"\n')


@pytest.fixture
def content() -> dict[str, Any]:
    """The tiny experiment as a dict, without policies."""
    found = tomllib.loads(TEXT)
    del found["run"]
    return found


class Heard(Silent):
    """Which runs began, and whether they had been there."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, bool]] = []

    def finished(self, arm: str, seed: int, result: dict[str, Any], cached: bool) -> None:
        self.runs.append((arm, cached))


def test_a_dict_and_its_file_are_one_comparison(content: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, TEXT)
    one = fedmed.run(tmp_path / "tiny.toml", out=tmp_path / "a")
    heard = Heard()
    two = fedmed.run(content, out=str(tmp_path / "b"), progress=heard)
    assert heard.runs == [("none", False), ("dp-sgd", False)]
    plain = [r.table().set_index("arm").loc["none"] for r in (one, two)]
    assert plain[0]["auroc"] == plain[1]["auroc"]
    assert two.folder == tmp_path / "b"
    assert [run["name"] for run in two.runs] == ["none", "dp-sgd"]
    table = two.table()
    assert table["epsilon"].isna().tolist() == [True, False]
    assert table["epsilon"][1] == pytest.approx(8, rel=0.02)
    assert (tmp_path / "b" / "summary.csv").is_file()
    assert "dp-sgd" in two._repr_html_()
    first, second, third = repr(two).splitlines()
    assert first == f"Results in {tmp_path / 'b'}"
    assert second == f"  none, seed 0: AUROC {table['auroc'][0]:.3f}, no guarantee"
    assert third.endswith(" (patient)")
    assert "epsilon 8 " in third
    changes = two.differences()
    (row,) = changes.query("quantity == 'auroc' and attribute.isna()").to_dict("records")
    aurocs = table.set_index("arm")["auroc"]
    assert row["change"] == pytest.approx(aurocs["dp-sgd"] - aurocs["none"])
    assert row["low"] <= row["change"] <= row["high"]
    again = Heard()
    fedmed.run(content, out=tmp_path / "b", progress=again)
    assert again.runs == [("none", True), ("dp-sgd", True)]
    page = two.write_report()
    assert not (tmp_path / "b" / "paper").exists()
    assert page == fedmed.write_report(str(tmp_path / "b"), paper=True)
    assert page == tmp_path / "b" / "report.html"
    assert (tmp_path / "b" / "paper" / "methods.tex").is_file()
    assert "dp-sgd" in page.read_text(encoding="utf-8")


def test_arms_seeds_and_changes_select(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = fedmed.run(content, arms=["none"], seeds=[3], changes={"train.rounds": 1})
    assert found.folder == Path("runs/tiny")
    assert [(r["name"], r["seed"], r["rounds"]) for r in found.runs] == [("none", 3, 1)]
    assert content["train"]["rounds"] == 2, "the caller's dict is as it was"


def test_mistakes_are_told_before_anything_is_written(
    content: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def refused(*words: str, **options: Any) -> None:
        refuses(lambda: fedmed.run(content, out=out, **options), *words)
        assert not out.exists()

    refused("changes: unknown key 'train.round'; did you mean", changes={"train.round": 1})
    refused("engine = 'dask': use 'inline' or 'ray'", engine="dask")
    refused("unknown arm 'dp-sdg'", arms=["dp-sdg"])
    refused("arms = 'none': give a list", arms="none")
    refused("seeds = 3: give a list", seeds=3)
    refused("changes: give a dict", changes=["train.rounds"])
    refused("changes: unknown key '1'", changes={1: 1})
    refuses(lambda: fedmed.run(None), "experiment: give the path")  # type: ignore[arg-type]  # a user's mistake
    content["train"]["rounds"] = 0
    refused("experiment", "train.rounds")
    refuses(lambda: fedmed.run(tmp_path / "absent.toml"), "no such file")
    refuses(lambda: fedmed.write_report(tmp_path / "absent"), "absent")
    assert not (tmp_path / "absent").exists()


def test_a_cohort_that_changed_is_read_anew(content: dict[str, Any], tmp_path: Path) -> None:
    """Sabotage: a notebook whose second run is of the first one's table."""
    films = tmp_path / "films"
    films.mkdir()
    rows = []
    for number in range(80):
        np.save(films / f"{number}.npy", np.full((16, 16), number, dtype=np.uint8))
        rows.append((f"{number}.npy", number % 2, f"p{number}"))
    table = pd.DataFrame(rows, columns=["image", "label", "patient_id"])
    data = {"source": "table", "path": tmp_path / "films.csv", "images": films}
    content["data"] = {**data, "hospitals": 1, "partition": "even", "image-size": 16}
    table.to_csv(tmp_path / "films.csv", index=False)
    first = fedmed.forecast(content, arms=["dp-sgd"])
    table.head(60).to_csv(tmp_path / "films.csv", index=False)
    second = fedmed.forecast(content, arms=["dp-sgd"])
    assert first.table()["sampling_rate"][0] < second.table()["sampling_rate"][0]


def test_a_forecast_says_what_each_hospital_would_spend(content: dict[str, Any]) -> None:
    found = fedmed.forecast(content)
    assert isinstance(found, Forecasts)
    assert found.possible
    assert found.arms[0].seconds is None
    table = found.table()
    assert table["arm"].tolist() == ["none", "none", "dp-sgd", "dp-sgd"]
    assert table["epsilon"].isna().tolist() == [True, True, False, False]
    assert found.epsilon == pytest.approx(table["epsilon"].max(), rel=1e-3)
    assert found.delta == 1e-3
    assert "hospital-1" in found._repr_html_()
    assert len(repr(found).splitlines()) == 5
    content["privacy"]["epsilon"] = 1e-3
    changed = fedmed.forecast(content, changes={"train.batch-size": 1000})
    assert not changed.possible
    assert changed.epsilon is None
    assert "batch" in changed.table().set_index("arm").loc["dp-sgd", "reason"]
