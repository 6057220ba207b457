"""``fedmed plan``: what the evaluation at the hospitals would cost is part of the plan."""

from pathlib import Path

import pytest
from support_runs import tiny_text

from fedmed.experiment import load_experiment
from fedmed.forecast import forecast
from fedmed.privacy import accounting
from fedmed.tables import print_plans

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
