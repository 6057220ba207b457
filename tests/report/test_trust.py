"""Who trusts whom: where noise enters and who sees what before it."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import goes_red

from fedmed.privacy.statement import meaning
from fedmed.report.arms import summarise
from fedmed.report.load import load
from fedmed.report.trust import Stage, chains


def one(make_runs: ModuleType, folder: Path, name: str, **changes: Any) -> dict[str, Stage]:
    make_runs.write_arm(folder, name, 0)
    if changes:
        given = {**make_runs.statement(name), **changes}
        make_runs.write(folder / name / "seed-0" / "privacy.json", given)
    return {stage.name: stage for stage in chains(summarise(load(folder)))[0].stages}


@pytest.mark.parametrize(
    ("arm", "protected", "trusted", "noise", "bare"),
    [
        (
            "none",
            [],
            ["Hospital", "Server", "Everyone else"],
            [],
            ["Hospital", "Patient", "Server"],
        ),
        ("pixel-laplace", ["Patient"], [], ["Hospital"], ["Patient"]),
        ("dp-sgd", ["Patient"], ["Hospital"], ["Hospital"], ["Patient"]),
        ("local-update", ["Hospital"], [], ["Hospital"], ["Patient"]),
        ("central-fixed", ["Hospital"], ["Server"], ["Server"], ["Hospital", "Patient"]),
    ],
)
def test_each_model_of_trust(
    make_runs: ModuleType,
    tmp_path: Path,
    arm: str,
    protected: list[str],
    trusted: list[str],
    noise: list[str],
    bare: list[str],
) -> None:
    """`bare` are those whose hand passes on what no guarantee covers."""
    stages = one(make_runs, tmp_path, arm)
    assert list(stages) == ["Patient", "Hospital", "Server", "Everyone else"]
    assert [name for name, stage in stages.items() if stage.protected] == protected
    assert [name for name, stage in stages.items() if stage.trusted] == trusted
    assert [name for name, stage in stages.items() if stage.noise] == noise
    passing = [name for name, stage in stages.items() if stage.passes and not stage.noised]
    assert sorted(passing) == bare


def test_under_a_secure_sum_the_server_sees_no_hospital_alone(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    stages = one(make_runs, tmp_path, "distributed")
    assert list(stages) == ["Patient", "Hospital", "Other hospitals", "Server", "Everyone else"]
    trusted = [name for name, stage in stages.items() if stage.trusted]
    assert trusted == ["Hospital", "Other hospitals"]
    assert stages["Server"].sees == "sees the noised sum of all, and of no hospital alone"
    assert stages["Hospital"].noise == ("a share of the noise on its clipped sum, in every step",)
    assert stages["Hospital"].noised
    assert stages["Patient"].protected == "patient"
    assert not stages["Server"].noise


def test_a_server_that_adds_the_noise_sees_exact_sums(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    stages = one(make_runs, tmp_path, "central")
    assert [name for name, stage in stages.items() if stage.trusted] == ["Hospital", "Server"]
    assert stages["Server"].sees == "sees each hospital's exact sum, adds up"
    assert stages["Server"].noise == ("noise on the sum of clipped gradients, in every step",)
    assert not stages["Hospital"].noised
    assert stages["Server"].noised


def test_the_server_of_a_central_arm_sees_exact_updates(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    stages = one(make_runs, tmp_path, "central-fixed")
    assert stages["Server"].sees == "sees exact updates, averages"
    assert stages["Server"].passes == "noised model"


def test_noise_without_a_claim_protects_nothing(make_runs: ModuleType, tmp_path: Path) -> None:
    shift = ("brightness-shift", "federated", "none", None, None, 2.6, "everyone")
    make_runs.ARMS["brightness-shift"] = shift
    try:
        stages = one(make_runs, tmp_path, "brightness-shift")
        (chain,) = chains(summarise(load(tmp_path)))
    finally:
        del make_runs.ARMS["brightness-shift"]
    assert not any(stage.noise or stage.noised or stage.protected for stage in stages.values())
    assert [name for name, stage in stages.items() if stage.trusted] == [
        "Hospital", "Server", "Everyone else",
    ]  # fmt: skip
    assert stages["Hospital"].sees == "sees its images, shifts their brightness, trains"
    assert (stages["Hospital"].passes, stages["Server"].passes) == ("exact update", "exact model")
    assert "gives no guarantee" in chain.warning


def test_stacked_noise_enters_twice(make_runs: ModuleType, tmp_path: Path) -> None:
    both = {**make_runs.facts("dp-sgd"), "noise": ["images", "gradients"]}
    stages = one(make_runs, tmp_path, "dp-sgd", facts=both)
    assert [text.split(",")[0] for text in stages["Hospital"].noise] == [
        "noise on every image",
        "noise on the clipped gradients",
    ]


def test_who_is_trusted_is_read_from_facts_and_not_from_words(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    """Pitfall 41: the sentence says one thing and the facts another."""
    stages = one(make_runs, tmp_path, "dp-sgd", trust="everyone, and the server")
    assert [name for name, stage in stages.items() if stage.trusted] == ["Hospital"]
    facts = {**make_runs.facts("dp-sgd"), "trusted": ["server"]}
    stages = one(make_runs, tmp_path, "dp-sgd", facts=facts)
    assert [name for name, stage in stages.items() if stage.trusted] == ["Server"]


def test_hospitals_that_differ_have_no_common_chain(make_runs: ModuleType, tmp_path: Path) -> None:
    assert one(make_runs, tmp_path, "dp-sgd", facts=None) == {}


def test_a_statement_of_an_earlier_version_is_left_out_by_name(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    assert one(make_runs, tmp_path, "dp-sgd", version=2) == {}
    (problem,) = load(tmp_path).problems[-1:]
    assert "privacy.json: version 2 (this fedmed reads 3)" in problem


def test_pooled_data_and_lone_hospitals_have_no_server(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    assert list(one(make_runs, tmp_path / "a", "pooled")) == [
        "Patient", "Data pool", "Everyone else",
    ]  # fmt: skip
    assert "Server" not in one(make_runs, tmp_path / "b", "local-only")


def test_arms_with_the_same_trust_share_a_chain(make_runs: ModuleType, tmp_path: Path) -> None:
    make_runs.ARMS["dp-sgd-2"] = make_runs.ARMS["dp-sgd"]
    try:
        for name in ("none", "dp-sgd", "dp-sgd-2"):
            make_runs.write_arm(tmp_path, name, 0)
        make_runs.write_about(tmp_path, ["none", "dp-sgd", "dp-sgd-2"], [0])
    finally:
        del make_runs.ARMS["dp-sgd-2"]
    assert [chain.arms for chain in chains(summarise(load(tmp_path)))] == [
        ["none"],
        ["dp-sgd", "dp-sgd-2"],
    ]


def test_noise_too_small_is_no_protection_in_the_diagram(
    make_runs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixel noise at 8,192 per image, trusting nobody, was drawn as green as any other."""
    for name in ("dp-sgd", "pixel-laplace"):
        make_runs.write_arm(tmp_path, name, 0)

    def check() -> None:
        weak = {chain.arms[0]: chain.weak for chain in chains(summarise(load(tmp_path)))}
        assert weak["dp-sgd"] == ""
        assert weak["pixel-laplace"] == (
            "No meaningful protection: pixel-laplace (ε = 8,192 per image, δ = 0; 16,384 for a "
            "patient's images together). Whoever sees what is handed on is trusted in effect."
        )

    check()
    monkeypatch.setattr(meaning, "MOST", 1e9)
    goes_red(check)
