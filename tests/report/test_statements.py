"""The report's privacy statements: every part of privacy.json, and nothing that is not in it."""

import json
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import goes_red

from fedmed.privacy.statement.contents import check
from fedmed.report import arms, build
from fedmed.report.arms import summarise
from fedmed.report.load import load
from fedmed.report.statements import statement, totals

pytestmark = pytest.mark.usefixtures("undrawn")

KEYS = (
    "version", "arm", "name", "unit", "epsilon", "delta", "neighbouring", "trust", "mechanism",
    "accountant", "sampling", "noise_source", "steps_planned", "steps_taken", "epsilon_per_pixel",
    "released", "not_covered", "summary",
)  # fmt: skip


def one_arm(make_runs: ModuleType, folder: Path, name: str, *seeds: dict[str, Any]) -> Path:
    """A comparison of one arm whose seeds' statements have these changes."""
    for seed, changes in enumerate(seeds):
        given = make_runs.statement(name, **changes)
        epsilon, refused = given["epsilon"], given["refused"]
        make_runs.write_arm(folder, name, seed, epsilon=epsilon, refused=refused)
        make_runs.write(folder / name / f"seed-{seed}" / "privacy.json", given)
    return folder


def shown(folder: Path) -> dict[str, Any]:
    return statement(summarise(load(folder))[0])


def test_the_fabricated_statements_keep_the_schema(make_runs: ModuleType) -> None:
    for name in make_runs.ARMS:
        check(make_runs.statement(name))


def test_every_figure_stands_with_its_unit_and_its_meaning(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    found = shown(one_arm(make_runs, tmp_path, "dp-sgd", {"epsilon_patient": 19.08}))
    assert {name: value for name, value, _ in found["numbers"]} == {
        "ε": "8 per patient, δ = 1e-5",
        "ε by Rényi accounting": "9.4 per patient, δ = 1e-5",
        "ε if data are replaced": "11.9 per patient, δ = 1e-5",
        "ε for a whole patient": "19.1 per patient, δ = 1e-5",
        "μ (Gaussian DP)": "1.5",
        "Attacker's advantage": "0.51",
        "Right alarms at 1 % false alarms": "20 %",  # 19.31 %, rounded to the attacker's favour
        "Noise to signal": "213",
    }
    assert all(reading for _, _, reading in found["numbers"])
    facts = dict(found["facts"])
    assert facts["Steps taken of planned"] == "40 of 40"
    assert facts["Accountant"] == "PLD, dp-accounting 0.6.0"
    assert facts["Sampling really used"] == "Poisson, rate 0.1"
    assert facts["Images of one patient"] == "at most 2"
    assert facts["Sizes"] == "exact sizes, treated as public"
    assert facts["Random generators"] == "Philox, not cryptographic"


def test_an_image_arm_shows_pixel_and_image_apart(make_runs: ModuleType, tmp_path: Path) -> None:
    changes = {"epsilon_by_pixels": {"pixel": 0.5, "neighbourhood": 8.0}}
    numbers = shown(one_arm(make_runs, tmp_path, "pixel-laplace", changes))["numbers"]
    found = {name: value for name, value, _ in numbers}
    assert found["ε"] == "8,192 per image, δ = 0"
    assert found["ε for one pixel"] == "0.5 per pixel, δ = 0"
    assert found["ε for a neighbourhood"] == "8 per neighbourhood, δ = 0"
    assert found["ε at the δ of the settings"] == "7,000 per image"
    assert "ε if data are replaced" not in found  # it is the same figure


def test_the_page_holds_every_word_of_the_statements(make_runs: ModuleType, tmp_path: Path) -> None:
    one_arm(make_runs, tmp_path, "dp-sgd", {"refused": ["hospital-3"]})
    page = unescape(build(tmp_path).read_text(encoding="utf-8"))
    given = make_runs.statement("dp-sgd")

    def whole(text: str) -> None:
        for key in ("summary", "trust", "mechanism", "neighbouring", "noise_source", "public_data"):
            assert given[key] in text, key
        for line in [*given["released"], *given["not_covered"]]:
            assert line in text, line
        assert "without hospital-3, whose policy refuses" in text
        assert "ε = 31.3 per patient, δ = 1e-5" in text  # the total
        assert "none/seed-0, pixel-laplace/seed-0" in text  # runs that bound nothing
        assert "is held to nothing: some runs bound nothing" in text
        assert "Whoever sees the results of all of them meets" not in text  # that would be false

    whole(page)
    for part in (
        "choice of settings",
        "without hospital-3, whose policy refuses",
        "none: the model",
        "ε = 31.3 per",
    ):
        goes_red(whole, page.replace(part, ""))


def test_hospitals_that_differ_get_a_table_and_equal_ones_a_line(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    differing = shown(one_arm(make_runs, tmp_path / "a", "dp-sgd", {}))["hospitals"]
    assert [name for name, _ in differing["rows"]] == [f"hospital-{h}" for h in range(1, 5)]
    first = dict(zip(differing["titles"], differing["rows"][0][1], strict=True))
    assert first["ε per patient"] == "8"
    assert first["Noise multiplier"] == "1.200"
    assert first["Size"] == "161 declared"
    assert differing["rows"][1][1][-1] == "162 exact"
    same = [
        {**record, "noise_multiplier": 1.2, "size": 160, "size_declared": True}
        for record in make_runs.statement("dp-sgd")["hospitals"]
    ]
    equal = shown(one_arm(make_runs, tmp_path / "b", "dp-sgd", {"hospitals": same}))["hospitals"]
    assert equal["rows"] == []
    assert equal["same"] == "hospital-1, hospital-2, hospital-3, hospital-4"


def test_the_weakest_seed_is_shown(make_runs: ModuleType, tmp_path: Path) -> None:
    seeds = ({"epsilon": 3.0}, {"epsilon": 9.0, "steps_taken": 39}, {"epsilon": 4.0})
    found = shown(one_arm(make_runs, tmp_path / "a", "dp-sgd", *seeds))
    assert found["numbers"][0][1] == "9 per patient, δ = 1e-5"
    assert dict(found["facts"])["Steps taken of planned"] == "39 of 40"
    assert not found["overrun"]
    # A seed that claims nothing takes the claim from all of them, and an overrun is never hidden.
    seeds = ({"epsilon": 3.0, "steps_taken": 41}, {"epsilon": None})
    found = shown(one_arm(make_runs, tmp_path / "b", "dp-sgd", *seeds))
    assert "ε" not in [name for name, _, _ in found["numbers"]]
    assert found["overrun"]


@pytest.mark.parametrize("name", ["dp-sgd", "pixel-laplace", "none"])
def test_a_statement_is_shown_without_the_parts_it_lacks(
    make_runs: ModuleType, tmp_path: Path, name: str
) -> None:
    make_runs.write_arm(tmp_path, name, 0)
    given = make_runs.statement(name)
    old = {key: given[key] for key in KEYS}
    old["hospitals"] = [
        {
            "hospital": "north",
            "epsilon": 8.0,
            "delta": 1e-5,
            "noise_multiplier": 1.2,
            "sampling_rate": 0.1,
            "steps": 40,
        }
    ]
    make_runs.write(tmp_path / name / "seed-0" / "privacy.json", old)
    found = shown(tmp_path)
    known = {"dp-sgd": {"ε"}, "pixel-laplace": {"ε", "ε for one pixel"}, "none": set()}
    assert {row[0] for row in found["numbers"]} == known[name]
    assert found["hospitals"]["titles"][2:] == ["Noise multiplier", "Sampling rate", "Steps"]
    assert found["total"] == totals(summarise(load(tmp_path))) == []
    page = build(tmp_path).read_text(encoding="utf-8")
    assert given["summary"] in unescape(page)
    for absent in ("Rényi", "Attacker", "Total over arms", "Random generators"):
        assert absent not in page


def test_each_figure_is_the_worst_of_the_seeds(
    make_runs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed with the largest epsilon need not be the one that an attacker finds most in."""
    records = make_runs.statement("dp-sgd")["hospitals"]
    seeds = (
        {"epsilon": 9.0, "tpr_at_fpr_001": 0.1, "epsilon_replace_one": 12.0},
        {"epsilon": 4.0, "tpr_at_fpr_001": 0.3, "epsilon_replace_one": 15.0},
    )
    for changes, epsilon, tpr in zip(seeds, (9.0, 4.0), (0.1, 0.3), strict=True):
        own = {"epsilon": epsilon, "tpr_at_fpr_001": tpr}
        changes["hospitals"] = [{**record, **own} for record in records]  # type: ignore[assignment]  # a list

    def check() -> None:
        found = shown(one_arm(make_runs, tmp_path, "dp-sgd", *seeds))
        numbers = {name: value for name, value, _ in found["numbers"]}
        assert numbers["ε"] == "9 per patient, δ = 1e-5"
        assert numbers["Right alarms at 1 % false alarms"] == "30 %"
        assert numbers["ε if data are replaced"] == "15 per patient, δ = 1e-5"
        first = dict(
            zip(found["hospitals"]["titles"], found["hospitals"]["rows"][0][1], strict=True)
        )
        assert (first["ε per patient"], first["TPR at 1 % FPR"]) == ("9", "30 %")

    check()
    monkeypatch.setattr(arms, "worst", lambda records, keys: {})
    goes_red(check)


def test_a_hospitals_own_delta_stands_beside_the_runs(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    records = make_runs.statement("dp-sgd")["hospitals"]
    records[1] |= {"own_delta": 1e-3, "epsilon_at_own_delta": 3.2}
    found = shown(one_arm(make_runs, tmp_path, "dp-sgd", {"hospitals": records}))["hospitals"]
    second = dict(zip(found["titles"], found["rows"][1][1], strict=True))
    assert (second["δ"], second["ε at its own δ"], second["own δ"]) == ("1e-5", "3.2", "0.001")


def test_a_brightness_shift_claims_nothing_and_is_no_answer(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    shift = ("brightness-shift", "federated", "none", None, None, 2.6, "the hospital")
    make_runs.ARMS["brightness-shift"] = shift
    try:
        for name in ("none", "brightness-shift", "dp-sgd", "central-fixed"):
            make_runs.write_arm(tmp_path, name, 0)
        make_runs.write_about(tmp_path, ["none", "brightness-shift", "dp-sgd"], [0])
    finally:
        del make_runs.ARMS["brightness-shift"]
    page = build(tmp_path).read_text(encoding="utf-8")
    found = {arm.name: arm for arm in summarise(load(tmp_path))}
    assert (found["brightness-shift"].auroc or 0) > (found["dp-sgd"].auroc or 0)
    assert statement(found["brightness-shift"])["guarantee"] == "no DP claim"
    answer = page.split("The answer")[1].split("</section>")[0]
    assert "dp-sgd (ε = 8 per patient, δ = 1e-5) keeps 0." in answer
    assert "in no ranking: brightness-shift (no DP claim)" in answer
    # Patients are added or removed under every arm; hospitals are replaced under some.
    assert found["dp-sgd"].axis_epsilon == 8.0
    assert found["central-fixed"].axis_epsilon == 41.7


def test_totals_are_those_of_the_files(seven: Path) -> None:
    path = seven / "dp-sgd/seed-0/privacy.json"
    given = json.loads(path.read_text(encoding="utf-8"))["total"]
    assert [
        {**total, "relation": "add-or-remove"} for total in totals(summarise(load(seven)))
    ] == given
