"""The server's optimiser: Reddi et al. 2021 by hand, state that survives, noise before it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import goes_red, make
from torch import Tensor

from fedmed.coordinator.optimizers import ServerOptimizer
from fedmed.coordinator.strategies import Averaging, LocalOnly, Start
from fedmed.experiment.directory import RunDirectory
from fedmed.federation import messages
from fedmed.federation.messages import Reply

ADAM = {
    "server-optimizer": "adam",
    "server-learning-rate": 0.1,
    "server-momentum": 0.5,
    "server-second-moment": 0.75,
    "server-tau": 0.2,
}
EMPTY = messages.encode_arrays({})


def train(**keys: Any) -> Any:
    return make(train=keys).train


def one(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([value], dtype=torch.float64)}


def test_adam_is_fedadam() -> None:
    """m = .5 m + .5 d, v = .75 v + .25 d^2 from tau^2, x + .1 m / (sqrt(v) + .2)."""
    optimizer = ServerOptimizer(train(**ADAM))
    x, m, v = 1.0, 0.0, 0.04
    model = one(x)
    for d in (2.0, -1.0, 0.5):
        model = optimizer.step(model, one(d))
        m, v = 0.5 * m + 0.5 * d, 0.75 * v + 0.25 * d * d
        x += 0.1 * m / (v**0.5 + 0.2)
        assert model["w"].item() == pytest.approx(x, rel=1e-9)


def test_momentum_adds_what_went_before() -> None:
    optimizer = ServerOptimizer(
        train(**{"server-optimizer": "momentum", "server-learning-rate": 0.5})
    )
    model = optimizer.step(one(0.0), one(1.0))
    assert model["w"].item() == pytest.approx(0.5)
    assert optimizer.step(model, one(1.0))["w"].item() == pytest.approx(0.5 + 0.5 * 1.9)


def test_an_interrupted_run_goes_on_with_the_state_of_its_checkpoint(tmp_path: Path) -> None:
    def strategy(kept: dict[str, Any], initial: dict[str, Tensor]) -> Averaging:
        return Averaging(Start(train(**ADAM), {1: "h"}, EMPTY, state=kept), initial, {})

    whole = strategy({}, one(1.0))
    whole.combine(1, [Reply("h", one(2.0))])
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(1, whole.models(), 1, None, whole.state())
    kept = directory.load_checkpoint()
    assert kept is not None
    assert kept[2].keys() == {"global"}
    resumed = strategy(directory.server_state(), kept[2]["global"])
    forgetful = strategy({}, kept[2]["global"])
    whole.combine(2, [Reply("h", one(-1.0))])

    def check(other: Averaging) -> None:
        other.combine(2, [Reply("h", one(-1.0))])
        assert torch.equal(other.parameters["w"], whole.parameters["w"])

    check(resumed)
    goes_red(check, forgetful)


def test_local_only_gives_every_hospital_an_optimiser_of_its_own(tmp_path: Path) -> None:
    members = {1: "a", 2: "site/b"}
    initial = {name: one(0.0) for name in members.values()}
    strategy = LocalOnly(Start(train(**ADAM), members, EMPTY), initial)
    strategy.combine(1, [Reply("a", one(2.0)), Reply("site/b", one(-1.0))])
    alone = ServerOptimizer(train(**ADAM))
    assert torch.equal(strategy.own["site/b"]["w"], alone.step(one(0.0), one(-1.0))["w"])
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(1, strategy.models(), 1, None, strategy.state())
    kept = directory.load_checkpoint()
    assert kept is not None
    again = LocalOnly(
        Start(train(**ADAM), members, EMPTY, 1, state=directory.server_state()), kept[2]
    )
    for one_of_them in (strategy, again):
        one_of_them.combine(2, [Reply("site/b", one(0.25))])
    assert torch.equal(again.own["site/b"]["w"], strategy.own["site/b"]["w"])
    assert again.own.keys() == {"a", "site/b"}
