"""What a paper gets: exact numbers, text that LaTeX prints as it is, references that are cited."""

import io
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from support import goes_red
from support.answer_cases import EVEN, NONE, WIDE, grouped, pixels, sgd
from support.planted import plant, write

from fedmed.cli import commands as cli
from fedmed.report import chart, vega
from fedmed.report.arms import Arm, summarise
from fedmed.report.load import Comparison, load
from fedmed.report.manuscript import latex
from fedmed.report.manuscript.methods import cited, methods
from fedmed.report.manuscript.references import bibliography
from fedmed.report.manuscript.tables import Table, tables
from fedmed.report.manuscript.writing import write as write_paper
from fedmed.report.render import _figures

SETTINGS = {
    "data.hospitals": 4, "data.image-size": 32, "data.dimensions": 2, "model.name": "resnet18",
    "train.rounds": 3, "train.local-epochs": 5.0, "train.batch-size": 16,
    "train.optimizer": "sgd", "train.learning-rate": 0.01,
}  # fmt: skip
ARMS = [
    grouped(NONE, EVEN),
    grouped(pixels(), EVEN),
    grouped(sgd("dp_sgd & co"), WIDE, 0.16, 0.06, 0.26, 0.001, 0.002),
]


def planted(folder: Path, **about: Any) -> tuple[Comparison, list[Arm]]:
    plant(folder, ARMS)
    given = {
        "arms": [arm.name for arm in ARMS], "seeds": [0], "title": "Planted", "base": SETTINGS,
        "cohort": "A&B_50%", **about,
    }  # fmt: skip
    write(folder / "experiment.json", given)
    comparison = load(folder)
    return comparison, summarise(comparison)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Comparison, list[Arm]]:
    return planted(tmp_path)


def named(arms: list[Arm]) -> dict[str, Table]:
    return {table.name: table for table in tables(arms)}


def test_the_table_of_arms_has_the_planted_numbers(made: tuple[Comparison, list[Arm]]) -> None:
    table = named(made[1])["arms"]
    assert table.rows == [
        ("none", "no differential privacy", "everyone", "0.850 (0.800 to 0.900)", *["–"] * 4),
        (
            "pixel-laplace",
            "ε = 2,048 per image, δ = 0 (no meaningful protection)",
            "nobody",
            "0.840 (0.790 to 0.890)",
            "–",
            "−0.010 (−0.040 to +0.020)",
            "0.50",
            "1.00",
        ),
        (
            "dp_sgd & co",
            "ε = 8 per patient, δ = 1e-5",
            "the hospital",
            "0.800 (0.750 to 0.850)",
            "–",
            "−0.050 (−0.080 to −0.020)",
            "0.001",
            "0.004",
        ),
    ]
    data = table.data.set_index("arm").loc["dp_sgd & co"]
    assert (data["epsilon"], data["epsilon_replaced"], data["delta"]) == (8.0, 12.0, 1e-5)
    assert (data["auroc"], data["auroc_low"], data["change_high"]) == (0.8, 0.75, -0.02)
    assert table.data["meaningful"].tolist() == [None, False, True]


def test_groups_and_gaps_have_tables_of_their_own(made: tuple[Comparison, list[Arm]]) -> None:
    found = named(made[1])
    assert found["groups"].rows[0] == ("women", "100", "40", "none", "0.800 (0.720 to 0.880)")
    gaps = found["gaps"].rows[-1]
    assert gaps[:5] == ("AUROC gap", "sex", "dp_sgd & co", "0.020", "0.180")
    assert gaps[5:] == ("+0.160 (+0.060 to +0.260)", "0.002")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A&B_50%", r"A\&B\_50\%"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x^2$ #1 ~", r"\$x\textasciicircum{}2\$ \#1 \textasciitilde{}"),
        ("ε < 8, δ > 0", r"$\varepsilon$ \textless{} 8, $\delta$ \textgreater{} 0"),
        ("−0.05–0.1", "$-$0.05--0.1"),
        ("a\nb\x00", "ab"),
        ("Würzburg", "Würzburg"),
    ],
)
def test_what_latex_would_take_for_a_command_is_escaped(text: str, told: str) -> None:
    assert latex.escaped(text) == told


def test_a_table_is_escaped_cell_by_cell_and_has_no_column_too_many() -> None:
    text = latex.table(
        ("A & B", "%"), [("x_1", "50 %")], caption="C # 1", label="tab:x", note="n_1"
    )
    assert text.splitlines() == [
        r"\begin{table}", r"\caption{C \# 1}", r"\label{tab:x}", r"\begin{tabular}{ll}",
        r"\toprule", r"A \& B & \% \\", r"\midrule", r"x\_1 & 50 \% \\", r"\bottomrule",
        r"\end{tabular}", r"\par\smallskip n\_1", r"\end{table}",
    ]  # fmt: skip


def test_methods_say_the_settings_and_cite_what_they_name(
    made: tuple[Comparison, list[Arm]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = methods(*made)
    for part in (
        r"The cohort was A\&B\_50\%, divided among 4 hospitals.",
        "Images had a side of 32 pixels.",
        "The test set held 100 images of 100 patients, none of whom was in training.",
        "The model was resnet18.",
        r"federated training \cite{mcmahan2017} on Flower \cite{beutel2020} took 3 rounds, 5 local "
        "epochs and 16 images in a batch, by sgd at a learning rate of 0.01.",
        "Arm none trained together, without privacy.",
        r"Arm pixel-laplace was pixel-laplace \cite{dwork2006}: $\varepsilon$ = 2,048 per image, "
        r"$\delta$ = 0. This is no meaningful protection ($\varepsilon$ above 20, or none).",
        r"Arm dp\_sgd \& co was dp-sgd \cite{abadi2016}: $\varepsilon$ = 8 per patient, $\delta$ = "
        "1e-5; trusted: the hospital.",
        "Each arm was trained once (seed 0), so that no interval holds the luck of training.",
        r"bias-corrected and accelerated (BCa) bootstrap intervals \cite{efron1987} over patients, "
        "2,000 resamples, paired between arms; where few events were seen those of rates are after "
        r"Agresti and Coull \cite{agresti1998}, and those of AUROC after Newcombe "
        r"\cite{newcombe2006}.",
        r"The p-values of the 3 headline differences from none were adjusted after Holm "
        r"\cite{holm1979}.",
    ):
        assert part in text, part
    keys = cited(text)
    assert keys == [
        "mcmahan2017", "beutel2020", "dwork2006", "abadi2016", "efron1987", "agresti1998",
        "newcombe2006", "holm1979", "fedmed",
    ]  # fmt: skip
    entries = re.findall(r"^@\w+\{([^,]+),$", bibliography(keys), re.MULTILINE)
    assert entries == keys


def test_methods_name_the_settings_that_are_an_arm_s_own(
    made: tuple[Comparison, list[Arm]],
) -> None:
    comparison, arms = made
    run = arms[-1].runs[0]
    own = {"train.learning-rate": 0.05, "train.rounds": 3, "model.name": "x_1", "run.seed": 7}
    changed = replace(arms[-1], runs=[replace(run, config=own)])
    shared = replace(comparison, base={"train.learning-rate": 0.01, "train.rounds": 3,
        "model.name": "resnet18", "run.seed": 1})  # fmt: skip
    text = methods(shared, [*arms[:-1], changed])
    assert r" Its own settings: learning-rate 0.05 and name x\_1." in text
    assert text.count("Its own settings") == 1


def test_methods_say_nothing_that_was_not_recorded(tmp_path: Path) -> None:
    plant(tmp_path, [NONE, replace(sgd(), auroc=0.8)], baseline="")
    comparison = load(tmp_path)
    text = methods(comparison, summarise(comparison))
    assert "Differences between arms were not tested." in text
    for absent in ("The cohort", "Images had", "The model", "rounds", "Holm", "resamples", "None"):
        assert absent not in text


def test_the_folder_holds_figures_tables_methods_and_references(
    made: tuple[Comparison, list[Arm]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*address: object) -> None:
        raise AssertionError("a paper asks nothing of a network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    comparison, arms = made
    figures = {name: one for name, one in _figures(arms).items() if name == "epsilon-patient"}
    _, drawn = chart.draw(figures)
    folder = write_paper(comparison, arms, drawn)
    assert folder == comparison.directory / "paper"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "figures/epsilon-patient.pdf",
        "figures/epsilon-patient.png",
        "methods.tex",
        "references.bib",
        *(
            f"tables/{name}.{kind}"
            for name in ("arms", "gaps", "groups")
            for kind in ("csv", "tex")
        ),
    ]
    assert (folder / "figures/epsilon-patient.pdf").read_bytes().startswith(b"%PDF-")
    with Image.open(io.BytesIO((folder / "figures/epsilon-patient.png").read_bytes())) as image:
        assert image.width == int(chart.WIDTH / 72 * vega.INCH) == 1666
        assert [round(dots) for dots in image.info["dpi"]] == [300, 300]
        assert len(set(image.convert("L").tobytes())) > 20  # something is drawn
    assert pd.read_csv(folder / "tables/arms.csv").loc[2, "auroc_low"] == 0.75
    assert r"dp\_sgd \& co &" in (folder / "tables/arms.tex").read_text(encoding="utf-8")


def test_an_arm_too_weak_is_marked_in_the_paper_too(
    made: tuple[Comparison, list[Arm]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> None:
        assert "(no meaningful protection)" in named(made[1])["arms"].rows[1][1]

    check()
    monkeypatch.setattr(Arm, "weak", False)
    goes_red(check)


@pytest.mark.usefixtures("undrawn")
def test_the_folder_is_made_on_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vega, "prints", lambda papers: [(b"", b"")] * len(papers))
    planted(tmp_path)
    for options, made in (([], False), (["--paper"], True)):
        with pytest.raises(SystemExit) as caught:
            cli.main(["report", str(tmp_path), *options])
        assert caught.value.code in (0, None)
        assert (tmp_path / "paper" / "methods.tex").exists() is made
        assert (f"paper:   {tmp_path / 'paper'}" in capsys.readouterr().out) is made
