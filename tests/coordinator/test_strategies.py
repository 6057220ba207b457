"""From updates to the next model: exact averages, and models kept apart."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord
from support import goes_red
from support.strategies import (
    EMPTY,
    MEMBERS,
    NAMES,
    answers,
    averaging,
    model,
    start,
    train,
    updates,
)

from fedmed.coordinator.strategies import FederationStrategy, LocalOnly, Start
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid

pytestmark = pytest.mark.usefixtures("flower_sender")


def test_equal_weights_are_the_plain_mean() -> None:
    strategy = averaging(weighting="equal")
    strategy.combine(1, updates())
    assert model(strategy) == [-1.0, 5.0, 13.0]


def test_weights_by_size_are_shares_of_the_images() -> None:
    strategy = averaging(weighting="size")
    strategy.combine(1, updates())
    expected = [1 + (1000 - 70) / 1020, 2 + (40 + 50) / 1020, 10 + (3000 + 60) / 1020]
    assert model(strategy) == pytest.approx(expected)


def test_the_mean_is_over_those_who_answered() -> None:
    strategy = averaging(weighting="equal")
    strategy.combine(1, updates()[:2])
    assert model(strategy) == [1.5, 4.0, 11.5]


def test_the_servers_learning_rate_scales_the_mean() -> None:
    strategy = averaging(**{"server-learning-rate": 0.5})
    strategy.combine(1, updates())
    assert model(strategy) == [0.0, 3.5, 11.5]


def test_updates_and_the_old_model_are_not_changed() -> None:
    strategy, replies, before = averaging(), updates(), start()
    strategy.parameters = before
    strategy.combine(1, replies)
    assert before["w"].tolist() == [1.0, 2.0]
    assert replies[0].update is not None
    assert replies[0].update["w"].tolist() == [1.0, 0.0]


def test_local_only_keeps_the_models_apart() -> None:
    def check(strategy: FederationStrategy) -> None:
        grid = InlineGrid(lambda message, context: message, 3, {})  # type: ignore[arg-type]  # never called
        strategy.aggregate_train(1, answers())
        sent = list(strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid))
        found = [messages.decode_arrays(m.content.array_records["model"])["b"][0] for m in sent]
        assert [float(b) for b in found] == [13.0, 10.0, 16.0]

    own = {name: start() for name in NAMES}
    strategy = LocalOnly(Start(train(), MEMBERS, EMPTY), own)
    check(strategy)
    assert model(strategy, "hospital-3") == [-6.0, 7.0, 16.0]
    goes_red(check, averaging())


def test_local_only_leaves_a_failed_hospitals_model_as_it_was() -> None:
    own = {name: start() for name in NAMES}
    strategy = LocalOnly(Start(train(**{"on-failure": "continue"}), MEMBERS, EMPTY), own)
    strategy.aggregate_train(1, answers(3))
    assert model(strategy, "hospital-2") == [1.0, 2.0, 10.0]
    assert model(strategy, "hospital-1") == [2.0, 2.0, 13.0]
