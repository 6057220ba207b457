"""Published figures beside ours: which arm is which row, and what the ceiling is."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import goes_red, refuses

from fedmed.report import build, papers, published
from fedmed.report.arms import Arm, summarise
from fedmed.report.load import load


def change(directory: Path, arm: str, name: str, edit: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file of an arm's only seed."""
    path = directory / arm / "seed-0" / name
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


@pytest.fixture
def directory(make_runs: ModuleType, tmp_path: Path) -> Path:
    """A comparison with a shift of scale 2 and DP-SGD at 1, scored on three sets."""
    folder: Path = make_runs.comparison(tmp_path / "runs", seeds=(0,), arms=6)
    about = json.loads((folder / "experiment.json").read_text()) | {"paper": "singh2020"}
    (folder / "experiment.json").write_text(json.dumps(about))
    sets = {
        "train": {"accuracy": 0.81, "auroc": 0.9, "majority": 0.7, "images": 300},
        "test": {"accuracy": 0.77, "auroc": 0.8, "majority": 0.6, "images": 200},
        "noised": {"accuracy": 0.66, "auroc": 0.7, "majority": 0.6, "images": 200},
    }
    for arm in ("none", "pixel-laplace", "dp-sgd", "pooled"):
        change(folder, arm, "result.json", lambda found: found | {"at_half": sets})
        history = folder / arm / "seed-0" / "history.jsonl"
        lines = [json.loads(line) for line in history.read_text().splitlines()]
        for line in lines:
            line["curves"] = {
                n: v | {"accuracy": 0.5 + line["round"] / 50} for n, v in sets.items()
            }
        lines[1]["curves"]["test"]["accuracy"] = 0.95
        history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shift = {"privacy.laplace-scale": 2.0, "privacy.clip-released": True}
    change(folder, "pixel-laplace", "result.json", lambda f: f | {"arm": "brightness-shift"})
    change(folder, "pixel-laplace", "config.json", lambda f: f | {"config": f["config"] | shift})
    budget = {"privacy.epsilon": 1.0}
    change(folder, "dp-sgd", "config.json", lambda f: f | {"config": f["config"] | budget})
    return folder


def arms_of(directory: Path) -> dict[str, Arm]:
    """Arms by name."""
    return {arm.name: arm for arm in summarise(load(directory))}


def test_the_ceiling_is_what_constant_images_leave() -> None:
    """Against a simulation of the published code; tolerance 5 standard errors of 20,000 draws."""
    paper = published.load("singh2020")
    assert paper.majority_train is not None
    found = [round(papers.ceiling(scale, paper.majority_train), 3) for scale in (1, 2, 4)]
    assert found == [0.905, 0.844, 0.8]

    def check(formula: Callable[[float, float], float]) -> None:
        rng = np.random.default_rng(7)
        for scale in (1.0, 2.0, 4.0):
            # Pixels from 0 to 1: a shift beyond the range leaves one colour.
            constant = np.abs(rng.laplace(0, scale, 20_000)) >= 1
            best = 0.743 * constant.mean() + 1 - constant.mean()
            assert abs(formula(scale, 0.743) - best) < 5 * 0.257 * 0.5 / np.sqrt(20_000)

    check(papers.ceiling)
    goes_red(check, lambda scale, share: papers.ceiling(1 / scale, share))


def test_published_training_accuracies_stay_under_their_ceiling() -> None:
    paper = published.load("singh2020")
    shifts = [row for row in paper.rows if row.scale is not None]
    assert len(shifts) == 3
    for row in shifts:
        assert row.scale is not None
        assert paper.majority_train is not None
        gap = papers.ceiling(row.scale, paper.majority_train) - row.values["train_accuracy"]
        assert 0 < gap < 0.015


def test_arms_are_matched_by_treatment_not_by_name(directory: Path) -> None:
    arms, paper = arms_of(directory), published.load("singh2020")
    titles = {name: getattr(papers.row_of(paper, arm), "title", None) for name, arm in arms.items()}
    assert titles == {
        "none": "no noise",
        "pixel-laplace": "LDP, scale 2",
        "dp-sgd": "DP-SGD, epsilon .994",
        "central-fixed": None,
        "local-update": None,
        "pooled": "no noise",
    }
    change(
        directory,
        "dp-sgd",
        "config.json",
        lambda f: f | {"config": f["config"] | {"privacy.epsilon": 8.0}},
    )
    assert papers.row_of(paper, arms_of(directory)["dp-sgd"]) is None


def test_the_section_shows_theirs_ours_and_the_best_round(directory: Path) -> None:
    found = papers.section("singh2020", list(arms_of(directory).values()))
    assert found is not None
    shift = found["rows"][1]
    assert shift["pairs"] == [(0.837, 0.81), (0.896, 0.77), (0.912, 0.95)]
    ceiling = shift["beside"][found["beside"].index("Ceiling of train accuracy")]
    assert ceiling.value == pytest.approx(0.7 * np.exp(-0.5) + 1 - np.exp(-0.5))
    assert found["unmatched"] == [
        "LDP, scale 1",
        "LDP, scale 4",
        "DP-SGD, epsilon .5",
        "DP-SGD, epsilon .25",
    ]
    assert found["majority"] == [("theirs", 0.743, 0.625), ("ours", 0.7, 0.6)]
    assert papers.section("", list(arms_of(directory).values())) is None


def test_the_report_has_the_section_its_figures_and_their_files(directory: Path) -> None:
    page = build(directory).read_text(encoding="utf-8")
    assert (
        "The papers&#39; figures beside ours" in page or "The papers' figures beside ours" in page
    )
    assert "LDP, scale 2" in page
    assert "no epsilon covers them" in page
    names = {path.stem for path in (directory / "figures").glob("papers-*.svg")}
    assert {"papers-figures", "papers-ceiling", "papers-curve-none"} <= names
    assert "0.844" in page  # their ceiling at scale 2


def test_the_gap_by_sex_is_women_less_men(directory: Path) -> None:
    """The fabricated films of women are scored worse."""
    arm = arms_of(directory)["none"]
    by_sex = {g.name: g.metrics["auroc"].value or 0.0 for g in arm.groups("sex")}
    found = papers.OURS["auroc_women_less_men"](arm)
    assert found == pytest.approx(by_sex["F"] - by_sex["M"])
    assert found < 0
    section = papers.section("tayebi2024-ct", [arm])
    assert section is not None
    assert section["rows"][0]["pairs"] == [(0.997, arm.auroc), (-0.010, found)]


def test_an_unknown_paper_is_refused_and_an_older_report_still_opens(directory: Path) -> None:
    refuses(lambda: published.load("singh2021"), "singh2021", "singh2020")
    about = json.loads((directory / "experiment.json").read_text()) | {"paper": "gone"}
    (directory / "experiment.json").write_text(json.dumps(about))
    assert 'id="papers"' not in build(directory).read_text(encoding="utf-8")
