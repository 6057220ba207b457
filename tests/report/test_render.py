import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from fedmed.base.errors import UserError
from fedmed.evaluation.summary import evaluate
from fedmed.report import build, palette, people
from fedmed.report.words import delta_text

VOID = {"meta", "img", "br", "use", "path", "rect", "link", "input", "hr"}


class Page(HTMLParser):
    """Ids, text, and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.figures: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "svg":
            assert given["aria-hidden"] == "true"
        if given.get("role") == "img":
            self.figures.append(str(given["aria-label"]))
        if tag == "img":
            assert given["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(seven: Path) -> Page:
    return Page(build(seven))


def test_the_report_is_one_small_offline_file(seven: Path, page: Page) -> None:
    assert (seven / "report.html").stat().st_size < 3_000_000
    scripts = re.findall(r"<script>(.*?)</script>", page.source, flags=re.DOTALL)
    assert len(scripts) == 3  # the mark that there is JavaScript, Vega, and what draws the charts
    rest = page.source.replace(max(scripts, key=len), "")
    addresses = set(re.findall(r"https?://[^\"'\s<>)]+", rest))
    assert addresses <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
        "https://vega.github.io/schema/vega-lite/v6.json",
    }
    assert "@import" not in rest
    assert "url(//" not in rest
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', page.source)[0]
    assert policy.startswith("default-src 'none'")
    assert "eval" not in policy
    assert "http" not in policy


def test_every_figure_is_a_file_too(seven: Path, page: Page) -> None:
    stems = re.findall(r'download="([^"]+)\.csv"', page.source)
    stems.remove("rounds")  # every round's cost belongs to no figure
    assert len(stems) == len(set(stems)) == len(page.figures)
    assert {"epsilon-patient", "groups-sex-auroc", "gaps-age", "learning-dp-sgd", "cost"} <= {
        *stems
    }
    for stem in stems:
        svg = (seven / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
        assert svg.startswith("<svg ")
        assert "var(--" not in svg
        assert svg.count('fill="#ffffff"/><g fill="none"') == 1  # one white ground
        png = (seven / "figures" / f"{stem}.png").read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            assert image.width > 700
            assert len(set(image.convert("L").tobytes())) > 20  # something is drawn


def test_the_page_is_well_formed_and_ids_are_unique(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    targets = re.findall(r'(?:href="|url\()#([\w-]+)', page.source)
    assert set(targets) <= set(page.ids)


def test_every_section_is_there(page: Page) -> None:
    names = "answer arms epsilon groups gaps learning samples trust cost settings limits"
    for name in names.split(" "):
        assert name in page.ids
    assert "incomplete" not in page.ids
    assert "Seeds 2 (numbers 0 and 1)" in page.text  # "0" alone reads as none
    assert "SYNTHETIC DATA" in page.text
    assert "Not for clinical use." in page.text
    assert "Four rounds only: arms have not converged." in page.text


def test_one_epsilon_panel_per_unit_never_mixed(page: Page) -> None:
    panels = [label for label in page.figures if "against epsilon" in label]
    assert [re.findall(r"epsilon per (\w+)", label)[0] for label in panels] == [
        "image",
        "patient",
        "hospital",
    ]
    assert "dp-sgd" in panels[1]
    assert "pixel-laplace" not in panels[1]
    assert "central-fixed" in panels[2]
    assert "local-update" in panels[2]
    assert all("none 0." in label and "pooled 0." in label for label in panels)


def test_epsilon_never_stands_without_its_unit(page: Page) -> None:
    found = re.findall(r"ε = [\d.,]+\d( per \w+)?", page.text)
    assert len(found) > 8
    assert all(found)


def test_the_answer_is_computed_from_the_numbers(page: Page, seven: Path) -> None:
    def auroc(arm: str) -> float:
        values = [
            json.loads((seven / arm / f"seed-{seed}/result.json").read_text())["metrics"]["auroc"]
            for seed in (0, 1)
        ]
        return sum(values) / 2

    answer = page.text.split("The answer")[1].split("Arms")[0]
    assert f"(none) reaches a test AUROC of {auroc('none'):.3f}" in answer
    kept = f"dp-sgd (ε = 8 per patient, δ = 1e-5) keeps {auroc('dp-sgd'):.3f}"
    assert kept in answer
    assert "keeps the most" not in answer
    assert "in no ranking: pixel-laplace (ε = 8,192 per image, δ = 0; 16,384 for a" in answer
    loss = f"{auroc('none') - auroc('dp-sgd'):.3f}"
    assert f"(−{loss}, not tested)" in answer
    assert "Not shown to be better than chance (0.5): local-update." in answer


def test_arms_without_meaningful_protection_are_amber(page: Page) -> None:
    rows = re.findall(r'<th scope="row">.*?</tr>', page.source.split('id="arms"')[1], re.DOTALL)
    amber = [row for row in rows[:7] if 'class="whole warn"' in row]
    assert len(amber) == 3
    assert all("no meaningful protection" in row for row in amber)
    assert [name for name in ("pixel-laplace", "central-fixed", "local-update") if any(
        f"</svg>{name}<" in row for row in amber
    )] == ["pixel-laplace", "central-fixed", "local-update"]  # fmt: skip
    trust = page.source.split('id="trust"')[1]
    assert trust.count('class="tag weak"') == 6  # what is claimed and the noise, of three arms
    assert trust.count('class="tag safe"') == 1


def test_figures_follow_the_theme_of_the_page(page: Page) -> None:
    drawings = re.findall(
        r'<div class="still" aria-hidden="true">(<svg.*?</svg>)', page.source, flags=re.DOTALL
    )
    assert len(drawings) == len(page.figures)
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawing)) <= {
            "none", "transparent", *(f"var(--{name})" for name in palette.LIGHT)
        }  # fmt: skip
    assert "prefers-color-scheme: dark" in page.source
    assert "@media print" in page.source


def test_the_same_files_give_the_same_page(seven: Path, page: Page) -> None:
    figure = seven / "figures" / "gaps-sex.svg"
    drawn = figure.read_bytes()
    assert build(seven).read_text(encoding="utf-8") == page.source
    assert figure.read_bytes() == drawn


def test_the_csv_of_a_figure_holds_its_numbers(seven: Path, page: Page) -> None:
    text = re.findall(r'download="epsilon-patient\.csv" href="data:[^,]+,([^"]+)"', page.source)[0]
    table = pd.read_csv(io.BytesIO(base64.b64decode(text))).set_index("arm")
    aurocs = [
        json.loads((seven / f"dp-sgd/seed-{seed}/result.json").read_text())["metrics"]["auroc"]
        for seed in (0, 1)
    ]
    assert table.loc["dp-sgd", "auroc"] == pytest.approx(sum(aurocs) / 2)
    assert list(table.index) == ["dp-sgd", "none", "pooled", "local-only"]
    assert set(table["unit"]) == {"patient", "none"}


def test_samples_are_shown_before_and_after_noise(page: Page) -> None:
    assert page.source.count("data:image/png;base64,") == 12
    assert 'alt="Image 2, disease, pixel-laplace"' in page.source


@pytest.mark.usefixtures("undrawn")
def test_text_from_files_is_escaped(make_runs: ModuleType, tmp_path: Path) -> None:
    name = "<script>alert(1)<b> $x_1$"
    make_runs.ARMS[name] = make_runs.ARMS["dp-sgd"]
    try:
        make_runs.write_arm(tmp_path, "none", 0)
        make_runs.write_arm(tmp_path, name, 0)
        make_runs.write_about(tmp_path, ["none", name], [0], title="<img src=x>", notes=["<i>n"])
    finally:
        del make_runs.ARMS[name]
    page = Page(build(tmp_path))
    assert "<script>alert" not in page.source
    assert "<img src=x>" not in page.source
    assert "<i>n" in page.text
    assert name in page.text


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_finished_or_damaged_is_said(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.write_arm(tmp_path, "none", 0)
    make_runs.write_arm(tmp_path, "dp-sgd", 0)
    (tmp_path / "dp-sgd/seed-0/result.json").unlink()
    make_runs.write_about(tmp_path, ["none", "dp-sgd", "pooled"], [0])
    (tmp_path / "none/seed-0/config.json").write_text("{")
    page = Page(build(tmp_path))
    assert "dp-sgd, seed 0 : not finished, round 4 done" in page.text
    assert "pooled, seed 0 : not finished" in page.text
    assert "none/seed-0/config.json is damaged or half written: skipped" in page.text


@pytest.mark.usefixtures("undrawn")
def test_nothing_finished_yet_still_makes_a_page(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.write_about(tmp_path, ["none"], [0], synthetic=False)
    page = Page(build(tmp_path))
    assert "No arm has a test AUROC yet" in page.text
    assert "SYNTHETIC" not in page.text


def pooled(epsilon: float | None, mean_of_hospitals: float) -> dict[str, Any]:
    """Metrics of a run that hospitals evaluated."""
    noise = None if epsilon is None else {"epsilon": epsilon, "delta": 1e-4}
    return {
        "source": "histograms",
        "auroc": 0.8123,
        "auroc_bounds": [0.8101, 0.8145],
        "auroc_interval": [0.7501, 0.8701],
        "hospital_auroc_mean": mean_of_hospitals,
        "hospitals": ["hospital-1", "hospital-2"],
        "missing": {"hospital-3": "policy"},
        "noise": noise,
        "notes": ["hospital-3 sent no histograms: policy"],
        "groups": {},
        "fairness": {},
    }


@pytest.mark.usefixtures("undrawn")
def test_what_hospitals_evaluated_is_shown_and_not_called_a_bootstrap(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_arm(tmp_path, "none", 0, metrics=pooled(None, 0.8555))
    make_runs.write_arm(tmp_path, "dp-sgd", 0, metrics=pooled(2.0, 0.7444))
    make_runs.write_about(tmp_path, ["none", "dp-sgd"], [0])
    text = Page(build(tmp_path)).text
    assert "bootstrap over test patients" not in text
    assert "from histograms of their scores" in text
    part = text.split("Evaluation at the hospitals")[1]
    assert "0.810 to 0.815" in part  # the bounds of the bins
    assert "0.856" in part  # the mean over hospitals, and not the AUROC
    assert "not protected: exact counts" in part
    assert "ε = 2 per patient δ = 1e-4" in part
    assert "without hospital-3" in part
    assert "AUROC at the server" not in part
    assert "hospitals sent histograms and no predictions" in text
    assert "comparison.json is absent" not in text


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_at_both_places_stands_side_by_side(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_arm(tmp_path, "none", 0, federated_evaluation=pooled(None, 0.8555))
    metrics = json.loads((tmp_path / "none/seed-0/result.json").read_text())["metrics"]
    text = Page(build(tmp_path)).text
    assert "bootstrap over test patients" in text
    part = text.split("Evaluation at the hospitals")[1]
    assert "AUROC at the server" in part
    assert f"0.856 {metrics['auroc']:.3f} 2" in part
    assert "none, at the hospitals: hospital-3 sent no histograms: policy" in part


@pytest.mark.usefixtures("undrawn")
def test_changes_of_gaps_that_cannot_be_measured_leave_a_reason(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    for name in ("none", "dp-sgd"):
        make_runs.write_arm(tmp_path, name, 0, metrics=pooled(None, 0.8))
    make_runs.write_about(tmp_path, ["none", "dp-sgd"], [0])
    page = Page(build(tmp_path))
    assert "gaps" in page.ids
    said = "No change of a gap can be shown: the results hold no groups of patients."
    assert said in page.text
    (tmp_path / "none/seed-0/result.json").unlink()
    make_runs.write_arm(tmp_path, "central-fixed", 0)
    assert "there is no arm without privacy to compare with" in Page(build(tmp_path)).text


@pytest.mark.parametrize("epsilon", [0.001, 8000.0, 12_582_912.0, None])
@pytest.mark.usefixtures("undrawn")
def test_any_epsilon_can_be_shown(
    make_runs: ModuleType, tmp_path: Path, epsilon: float | None
) -> None:
    make_runs.write_arm(tmp_path, "none", 0)
    make_runs.write_arm(tmp_path, "pixel-laplace", 0, epsilon=epsilon)
    make_runs.write_about(tmp_path, ["none", "pixel-laplace"], [0])
    page = Page(build(tmp_path))
    assert ("epsilon" in page.ids) is (epsilon is not None)
    shown = {0.001: "ε = 0.001 per image", 8000.0: "ε = 8,000 per image", None: "no claim"}
    assert shown.get(epsilon, "ε = 12,582,912 per image") in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_group_with_too_few_is_marked(make_runs: ModuleType, tmp_path: Path) -> None:
    metrics = evaluate(make_runs.table(2.0, 0, n=120))
    notes = [row for row in metrics["groups"]["age"] if row["note"] == "too few"]
    assert notes
    make_runs.write_arm(tmp_path, "none", 0, metrics=metrics)
    page = Page(build(tmp_path))
    alone = notes[0]
    group = people.named("age", alone["group"])
    assert group.startswith("patients of ")
    heading = f"{group}: {alone['n']} images, {alone['positives']} ill: too few"
    assert heading in " ".join(page.figures)
    assert f"{group} are not compared: too few" in page.text


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"auroc": 0.5, "auroc_interval": [0.4, 0.6], "groups": {}, "fairness": {}},
        {"auroc": None, "auroc_interval": None, "threshold": None, "threshold_rule": "no rows"},
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_absent_metrics_leave_dashes(
    make_runs: ModuleType, tmp_path: Path, metrics: dict[str, Any]
) -> None:
    make_runs.write_arm(tmp_path, "none", 0)
    make_runs.write_arm(tmp_path, "dp-sgd", 0, metrics=metrics)
    for name in ("privacy.json", "config.json", "history.jsonl"):
        (tmp_path / "dp-sgd/seed-0" / name).unlink()
    page = Page(build(tmp_path))
    assert "Without recorded rounds: dp-sgd." in page.text
    assert "The privacy statement of this arm is absent or damaged." in page.text


@pytest.mark.usefixtures("undrawn")
def test_more_steps_than_accounted_are_a_warning(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.write_arm(tmp_path, "dp-sgd", 0)
    path = tmp_path / "dp-sgd/seed-0/privacy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps_taken": 41}))
    assert "More steps were taken than were accounted" in Page(build(tmp_path)).text


def test_an_empty_folder_is_refused_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("delta", "text"),
    [(1e-5, "1e-5"), (6e-6, "6e-6"), (1.5e-4, "1.5e-4"), (0.02, "0.02"), (0, "0")],
)
def test_delta_is_short(delta: float, text: str) -> None:
    assert delta_text(delta) == text


@pytest.mark.usefixtures("undrawn")
def test_reproducible_noise_claims_only_what_it_can(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.write_arm(tmp_path, "dp-sgd", 0, epsilon=None)
    path = tmp_path / "dp-sgd/seed-0/privacy.json"
    given = {**json.loads(path.read_text()), "epsilon": None}
    path.write_text(json.dumps({**given, "epsilon_without_knowledge_of_the_seed": 7.5}))
    page = Page(build(tmp_path))
    assert "seed no claim against who knows it 7.5 per patient" in page.text
    assert "epsilon" not in page.ids


def processor_time() -> float:
    """Seconds of this process and of those that it has ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@pytest.mark.slow
def test_six_arms_at_five_seeds_are_quick_and_small(make_runs: ModuleType, tmp_path: Path) -> None:
    """The aim is 5 s on two idle cores; processor time, because a test may share its machine."""
    directory = make_runs.largest(tmp_path)
    start = processor_time()
    path = build(directory)
    assert processor_time() - start < 25.0
    assert path.stat().st_size < 8_000_000
    drawn = {path.stem for path in (directory / "figures").glob("*.png")}
    assert drawn == {path.stem for path in (directory / "figures").glob("*.svg")}
    # Three units' epsilon panels, six arms' learning curves, cost with two units' epsilon by round,
    # and per attribute (sex, age, sex and age, hospital) two panels of groups and one of gaps.
    assert len(drawn) == 3 + 6 + 3 + 4 * 3
