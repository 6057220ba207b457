"""Any one of epsilon, noise, length and batch from the others; what is proposed is accepted."""

import math
from dataclasses import replace

import pytest
from support import goes_red, refuses

from fedmed.privacy.accounting import solve
from fedmed.privacy.accounting.solve import Question

QUESTION = Question(units=1000, batch=64, epochs=20, delta=1e-5)


def test_the_convention_of_rate_and_steps() -> None:
    assert QUESTION.rate == 0.064
    assert QUESTION.steps == 312
    assert replace(QUESTION, rounds=4, epochs=0.5).steps_per_round == 8
    assert replace(QUESTION, rounds=4, epochs=0.5).steps == 32
    assert replace(QUESTION, epochs=0.001).steps == 1, "a round has a step"


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_any_one_of_the_four_is_found_from_the_others(target: float) -> None:
    sigma = solve.noise(QUESTION, target)

    def check(sigma: float) -> None:
        assert 0.998 * target < solve.epsilon(QUESTION, sigma) <= target
        assert abs(solve.steps(QUESTION, sigma, target) / QUESTION.steps - 1) < 0.01
        assert abs(solve.batch(QUESTION, sigma, target) / QUESTION.batch - 1) < 0.02
        assert solve.rounds(QUESTION, sigma, target) == 1

    check(sigma)
    goes_red(check, sigma * 1.03)
    goes_red(check, sigma * 0.97)


def test_the_most_rounds_are_whole_rounds_that_fit() -> None:
    question = replace(QUESTION, epochs=1, rounds=20)
    sigma = solve.noise(question, 8.0)
    most = solve.rounds(question, sigma, 4.0)
    assert 0 < most < 20
    assert solve.epsilon(replace(question, rounds=most), sigma) <= 4.0
    assert solve.epsilon(replace(question, rounds=most + 1), sigma) > 4.0


def test_where_one_step_is_too_much_there_is_none() -> None:
    assert solve.steps(QUESTION, 0.1, 0.01) == 0
    assert solve.rounds(QUESTION, 0.1, 0.01) == 0
    assert solve.batch(QUESTION, 0.1, 0.01) == 0
    assert "train." not in solve.nearest_for_noise(QUESTION, 0.1, 0.01)


def test_largest_and_smallest_find_the_edge() -> None:
    assert solve.largest(lambda n: n <= 37, 100) == 37
    assert solve.largest(lambda n: n <= 0, 100) == 0
    assert solve.largest(lambda _: True, 100) == 100
    assert solve.smallest(lambda n: n >= 37, 5, 100) == 37
    assert solve.smallest(lambda n: n >= 101, 5, 100) is None
    assert solve.smallest(lambda _: True, 5, 100) == 5


def test_choices_for_a_weak_signal_each_reach_it_alone() -> None:
    question = replace(QUESTION, epochs=1, rounds=20)

    def ratio(question: Question, target: float) -> float:
        return solve.noise(question, target) * math.sqrt(10_000) / question.batch

    before = ratio(question, 1.0)
    limit = 0.8 * before
    found = solve.nearest_for_signal(question, 1.0, 10_000, limit)
    values = {text.split(" to ")[0]: float(text.split(" to ")[1]) for text in found}
    assert sorted(values) == [
        "lower train.rounds",
        "raise privacy.epsilon",
        "raise train.batch-size",
    ]
    rounds, batch = int(values["lower train.rounds"]), int(values["raise train.batch-size"])
    assert ratio(question, values["raise privacy.epsilon"]) <= limit
    assert ratio(replace(question, rounds=rounds), 1.0) <= limit
    assert ratio(replace(question, batch=batch), 1.0) <= limit
    # Nearest: one round more or one unit less in the batch would not do.
    assert ratio(replace(question, rounds=rounds + 1), 1.0) > limit
    assert ratio(replace(question, batch=batch - 1), 1.0) > limit


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, 11.0])
def test_a_number_out_of_range_is_named(value: float) -> None:
    refuses(lambda: solve.check("epsilon", value, 0, 10), "epsilon = ", "above 0 and at most 10")
    solve.check("epsilon", 10.0, 0, 10)
