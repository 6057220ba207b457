"""What rounds spent: bytes and epsilon, where they were recorded and where they were not."""

import base64
import io
import json
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from fedmed.report import build, costs, spending
from fedmed.report.arms import Arm, summarise
from fedmed.report.load import load


@pytest.fixture(scope="module")
def arms(compared: Path) -> dict[str, Arm]:
    return {arm.name: arm for arm in summarise(load(compared))}


def test_bytes_are_means_of_a_round_and_sums_of_a_run(arms: dict[str, Arm]) -> None:
    """Round 0 trains nothing and is in no mean."""
    row = costs.cost(arms["dp-sgd"])
    assert (row["sent"], row["received"]) == (180.0, 170.0)
    assert row["traffic"] == 4 * (180.0 + 170.0)


def test_epsilon_by_round_has_a_panel_per_unit_and_only_where_it_grows(
    arms: dict[str, Arm],
) -> None:
    figures = {figure.name: figure for figure in spending.panels(list(arms.values()))}
    assert list(figures) == ["cost-epsilon-patient", "cost-epsilon-hospital"]
    patient = figures["cost-epsilon-patient"].data
    assert list(patient["epsilon"]) == pytest.approx(
        [0, *(8 * (r / 4) ** 0.6 for r in (1, 2, 3, 4))]
    )
    assert set(figures["cost-epsilon-hospital"].data["arm"]) == {"central-fixed", "local-update"}
    told = costs.told(costs.cost(arms["dp-sgd"]))
    assert told == "3.49 in round 1, 8 per patient in all"  # 3.482, rounded up
    assert costs.told(costs.cost(arms["pixel-laplace"])).endswith("once, before round 1")


def test_the_largest_seed_counts(make_runs: ModuleType, tmp_path: Path) -> None:
    for seed, factor in ((0, 1.0), (1, 1.5)):
        make_runs.write_arm(tmp_path, "dp-sgd", seed, epsilon=8.0 * factor)
        path = tmp_path / f"dp-sgd/seed-{seed}/history.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["epsilon_spent"] = line["round"] * factor
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (arm,) = summarise(load(tmp_path))
    assert spending.curve(arm) == {0: 0.0, 1: 1.5, 2: 3.0, 3: 4.5, 4: 6.0}


@pytest.mark.usefixtures("undrawn")
def test_runs_of_earlier_versions_have_the_average_and_no_bytes(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_arm(tmp_path, "dp-sgd", 0)
    path = tmp_path / "dp-sgd/seed-0/history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = ("bytes_sent", "bytes_received", "epsilon_spent")
    kept = [{k: v for k, v in line.items() if k not in keys} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    (arm,) = summarise(load(tmp_path))
    assert spending.panels([arm]) == []
    row = costs.cost(arm)
    assert (row["sent"], row["traffic"], row["first"]) == (None, None, None)
    assert costs.told(row) == "2 per patient on average"
    text = build(tmp_path).read_text()
    assert "Bytes sent were not recorded." in text
    assert "MB a round" not in text


@pytest.mark.usefixtures("undrawn")
def test_every_round_is_in_the_table_that_can_be_saved(
    make_runs: ModuleType, tmp_path: Path
) -> None:
    for seed in (0, 1):
        make_runs.write_arm(tmp_path, "dp-sgd", seed)
    page = build(tmp_path).read_text()
    (text,) = re.findall(r'download="rounds\.csv" href="data:[^,]+,([^"]+)"', page)
    table = pd.read_csv(io.BytesIO(base64.b64decode(text)))
    assert len(table) == 2 * 5
    last = table.iloc[-1]
    assert (last["seed"], last["round"], last["bytes_received"]) == (1, 4, 170_000_000)
    assert last["epsilon_spent"] == 8.0
