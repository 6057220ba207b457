"""What a hostile server reads from a guard's answers: numbers under noise, and nothing else.

Short forms of ``python -m experiments.distinguish``, which asks 10,000 pairs and 2 x 1,000 trials
for each arm. Of the 16 trials that count here a bound above the claim of 1 needs nearly all apart,
which noise at the claim gives with a chance below 1e-6.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import goes_red

from experiments import distinguish
from experiments import guard_pairs as pairs
from experiments.distinguish import Bound, Compared, bound, check, compare, lower_bound
from experiments.guard_broken import noise_divided


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with pairs.small_models():
        yield


def test_hostile_requests_get_the_same_forms_with_and_without_a_patient(tmp_path: Path) -> None:
    found = compare(30, 3, tmp_path, ("absent",))
    assert check(found, []) == []
    assert found.requests == 30
    assert found.answered >= 8
    assert sum(found.codes.values()) == 30
    wrong = Compared(30, 20, found.codes, ["absent: train"])
    assert check(wrong, []) == ["another form: absent: train"]


@pytest.mark.parametrize("arm", ["dp-sgd", "evaluation"])
def test_no_patient_is_told_apart_better_than_epsilon_allows(arm: str, tmp_path: Path) -> None:
    # The bound fails a right guard in less than 5 of 100 runs by its own level, and as epsilon is
    # far from reached, in hardly any. A broken guard may err once in its 24 and is found out still.
    def check_bound(attack: distinguish.Attack) -> None:
        assert check(None, [bound(arm, attack, 48, tmp_path)]) == []

    check_bound("aligned")
    with noise_divided(100):
        goes_red(check_bound, "aligned")


def test_a_lower_bound_is_that_of_two_shares_and_their_intervals() -> None:
    assert lower_bound(500, 500, 1000) == 0
    # Shares of 0 and 1: 1.25 % limits are 0.0125^(1/n) and 1 - 0.0125^(1/n).
    low = 0.0125 ** (1 / 100)
    assert lower_bound(100, 0, 100, 0.0) == pytest.approx(3.1057, abs=1e-3)
    assert lower_bound(100, 0, 100, 0.0) == pytest.approx(
        float(torch.log(torch.tensor(low / (1 - low)))), abs=1e-4
    )
    assert lower_bound(0, 100, 100, 0.0) == pytest.approx(lower_bound(100, 0, 100, 0.0))
    assert 0 < lower_bound(700, 300, 1000) < 0.8474 < lower_bound(800, 300, 1000)
    too_much = Bound("dp-sgd", "trap", 10, 1.0, 1.2, "code", (1.0, 0.0))
    assert "at least epsilon 1.20" in check(None, [too_much])[0]
