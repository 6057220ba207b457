"""Replies and failures: what a round counts, whom it names, and when it is none."""

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message
from support import refuses
from support.strategies import (
    EMPTY,
    MEMBERS,
    SIZES,
    answer,
    answers,
    averaging,
    code,
    model,
    start,
    train,
    updates,
)

from fedmed.base.errors import RunError
from fedmed.coordinator.strategies import Averaging, BudgetSpent, Start
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Reply

pytestmark = pytest.mark.usefixtures("flower_sender")


def test_a_policys_no_is_no_fault_and_the_round_goes_on() -> None:
    """Also where faults stop the run; and where everybody refuses, the run ends."""
    strategy = averaging(**{"on-failure": "stop"})
    strategy.aggregate_train(1, answers(code(3, "policy")))
    assert model(strategy) == [-2.0, 4.5, 14.5]
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": "policy"}]
    with pytest.raises(BudgetSpent):
        averaging().aggregate_train(1, [code(node, "policy") for node in MEMBERS])
    refuses(
        lambda: averaging(**{"minimum-hospitals": 3}).aggregate_train(
            1, answers(code(3, "policy"))
        ),
        "2 of 3 hospitals",
        "train.minimum-hospitals = 3",
        error=RunError,
    )


def with_nan(node: int) -> Message:
    update = start() | {"b": torch.tensor([float("nan")])}
    return answer(node, messages.update_content(Reply("", update)))


FAILURES = [
    (lambda: code(3, "data"), "data"),
    (lambda: with_nan(3), "bad-update"),
    (lambda: answer(3, Error(code=1, reason="patient 123")), "no-answer"),
    (lambda: 3, "no-answer"),
]


def test_a_round_counts_the_bytes_of_every_array_that_travels() -> None:
    """A refused update has travelled too; codes are no arrays. Numbers are 4 bytes each."""
    strategy = averaging(**{"on-failure": "continue"})
    numbers = 4 * (2 + 1)
    sent = [
        messages.size_of(message)
        for message in strategy.configure_train(1, EMPTY, ConfigRecord(), InlineGrid(None, 1, {}))  # type: ignore[arg-type]  # never called
    ]
    assert len(set(sent)) == 1
    overhead = sent[0] - numbers  # names and headers of the arrays
    assert 0 < overhead < 400
    strategy.aggregate_train(1, answers(with_nan(3), code(4, "data")))
    assert strategy.report.sent == 3 * sent[0]
    assert strategy.report.received == 2 * (numbers + overhead)
    strategy.aggregate_train(2, answers())
    assert strategy.report.received == 3 * (numbers + overhead)


def test_replies_in_any_order_give_the_same_model() -> None:
    strategy = averaging()
    strategy.aggregate_train(1, answers())
    assert model(strategy) == [-1.0, 5.0, 13.0]
    assert strategy.report.hospitals == 3
    assert strategy.report.failures == []


@pytest.mark.parametrize(("failing", "name"), FAILURES)
def test_a_failure_stops_the_run_with_hospital_and_code(failing: Any, name: str) -> None:
    strategy = averaging(**{"on-failure": "stop"})
    refuses(
        lambda: strategy.aggregate_train(1, answers(failing())),
        f"hospital-2: {name}",
        "train.on-failure",
        error=RunError,
    )
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": name}]
    assert model(strategy) == [1.0, 2.0, 10.0], "the model is as before"


@pytest.mark.parametrize(("failing", "name"), FAILURES)
def test_or_the_round_goes_on_without_it_and_says_so(
    failing: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = averaging(**{"on-failure": "continue"})
    strategy.aggregate_train(1, answers(failing()))
    assert model(strategy) == [-2.0, 4.5, 14.5]
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": name}]
    assert strategy.report.hospitals == 2
    assert name in caplog.text
    assert "patient" not in caplog.text


def test_too_few_hospitals_are_no_round() -> None:
    strategy = averaging(**{"on-failure": "continue", "minimum-hospitals": 2})
    refuses(
        lambda: strategy.aggregate_train(1, answers(2, 4)),
        "1 of 3 hospitals",
        "train.minimum-hospitals = 2",
        error=RunError,
    )
    strategy = averaging(**{"on-failure": "continue"})
    refuses(lambda: strategy.aggregate_train(1, []), "0 of 3", error=RunError)


def test_one_hospitals_spent_budget_drops_it_and_no_one_else() -> None:
    """A hostile one says so in round 1, when the others have paid: they go on, also with 'stop'."""
    strategy = averaging(**{"on-failure": "stop"})
    strategy.aggregate_train(1, answers(code(3, "budget")))
    assert model(strategy) == [-2.0, 4.5, 14.5]
    assert strategy.report.failures == [{"hospital": "hospital-2", "code": "budget"}]


def test_a_budget_that_everybody_has_spent_ends_the_run() -> None:
    strategy = averaging(**{"on-failure": "stop"})
    with pytest.raises(BudgetSpent):
        strategy.aggregate_train(1, [code(2, "budget"), code(3, "budget"), code(4, "policy")])
    assert model(strategy) == [1.0, 2.0, 10.0]


def test_the_mean_loss_is_known_only_where_everybody_tells() -> None:
    def told(count: int) -> list[Message]:
        return [
            answer(n, messages.update_content(Reply("", r.update, 0.5 + n if i < count else None)))
            for i, (n, r) in enumerate(zip(MEMBERS, updates(), strict=True))
        ]

    strategy = averaging()
    strategy.aggregate_train(1, told(3))
    assert strategy.report.loss == 3.5
    strategy.aggregate_train(2, told(2))
    assert strategy.report.loss is None


def test_every_member_gets_the_model_and_the_round_after_those_completed() -> None:
    strategy = Averaging(Start(train(), MEMBERS, EMPTY, 5), start(), SIZES)
    grid = InlineGrid(lambda message, context: message, 3, {})  # type: ignore[arg-type]  # never called
    sent = list(strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid))
    assert [m.metadata.dst_node_id for m in sent] == [2, 3, 4]
    for message in sent:
        assert message.content.config_records["request"]["round"] == 7
        decoded = messages.decode_arrays(message.content.array_records["model"])
        assert torch.equal(decoded["w"], start()["w"])
    assert list(strategy.configure_evaluate(2, ArrayRecord(), ConfigRecord(), grid)) == []
