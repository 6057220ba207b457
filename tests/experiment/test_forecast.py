"""``fedmed plan``: what the evaluation at the hospitals would cost is part of the plan."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import goes_red
from support.runs import tiny_text

from fedmed.cli.tables import print_plans
from fedmed.experiment import forecast as module
from fedmed.experiment.file import Experiment, load_experiment
from fedmed.experiment.forecast import Forecast, forecast, patient_total
from fedmed.privacy import accounting

TEXT = tiny_text(
    ["none", "dp-sgd"], '[evaluation]\nwhere = "{where}"\nepsilon = 2.0\n', patients=160
)


def planned(folder: Path, where: str) -> dict[str, object]:
    path = folder / "tiny.toml"
    path.write_text(TEXT.format(where=where))
    found = forecast(load_experiment(path), folder / "out", timed=False)
    print_plans(found)
    return {one.arm: one.evaluation for one in found}


@pytest.mark.parametrize("where", ["hospitals", "both"])
def test_histograms_are_planned_with_their_own_epsilon(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(tmp_path, where)
    assert found["none"] is None, "exact counts: nothing is protected, so nothing is charged"
    cost = found["dp-sgd"]
    assert cost is not None
    assert 1.99 < cost.epsilon <= 2.0  # type: ignore[attr-defined]  # a mechanism
    assert cost.epsilon == accounting.epsilon(cost.noise_multiplier, 1.0, 1, 1e-3)  # type: ignore[attr-defined]  # a mechanism
    lines = [line for line in capsys.readouterr().out.splitlines() if "evaluation" in line]
    assert len(lines) == 1
    assert "delta 0.001 for one evaluation patient, sigma" in lines[0]


def test_an_evaluation_at_the_server_costs_patients_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(tmp_path, "server") == {"none": None, "dp-sgd": None}
    assert "evaluation" not in capsys.readouterr().out


def check_own_settings_are_planned(
    find: Callable[[Experiment, Path], list[Forecast]], folder: Path
) -> None:
    """The first hospital has a stricter epsilon and delta of its own: the worst is another."""
    own = folder / "own"
    own.mkdir(parents=True)
    (own / "hospital-1.toml").write_text('"privacy.epsilon" = 3.0\n"privacy.delta" = 1e-4\n')
    path = folder / "tiny.toml"
    path.write_text(TEXT.format(where="server"))
    loaded = load_experiment(path, assignments=[f"run.sites={own}"])
    _, private = find(loaded, folder / "out")
    first, second, *_ = private.hospitals
    assert (first.delta, second.delta) == (1e-4, 1e-3)
    assert first.epsilon is not None
    assert second.epsilon is not None
    assert first.epsilon <= 3 < second.epsilon
    total = patient_total(loaded)
    assert total is not None
    assert total == (max(row.epsilon or 0.0 for row in private.hospitals), 1e-3)
    (own / "hospital-1.toml").write_text('"privacy.delta" = 2e-3\n')
    _, private = find(loaded, folder / "out")
    assert not private.possible
    assert "hospital-1 has privacy.delta = 0.002 of its own, weaker" in private.reason


def test_each_hospitals_own_settings_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(loaded: Experiment, out: Path) -> list[Forecast]:
        return forecast(loaded, out, timed=False)

    check_own_settings_are_planned(find, tmp_path / "a")
    monkeypatch.setattr(module, "_own", lambda settings, member: settings)
    goes_red(check_own_settings_are_planned, find, tmp_path / "b")
