"""A plan from numbers: what is left out is solved for, in the words of the library."""

import pytest
from support import refuses

from fedmed.cli.solving import Asked, solved
from fedmed.privacy import accounting, plan

GIVEN = {"patients": 1000, "batch": 64, "delta": 1e-5}


def test_training_and_accounting_read_the_same_numbers() -> None:
    found = plan(**GIVEN, epochs=20, epsilon=8)
    assert found.epsilon() == accounting.epsilon(found.noise_multiplier, 64 / 1000, 312, 1e-5)
    assert 7.9 < found.epsilon() <= 8
    assert (found.sampling_rate, found.steps, found.clipping_norm) == (0.064, 312, 1.0)


@pytest.mark.parametrize("missing", ["batch", "epochs", "epsilon", "noise_multiplier"])
def test_it_is_the_plan_of_the_command(missing: str) -> None:
    numbers = {"batch": 64, "epochs": 2.0, "epsilon": 3.0, "noise_multiplier": 0.9}
    numbers[missing] = None  # type: ignore[assignment]  # any of them may be absent
    told = solved(Asked(patients=1000, delta=1e-5, **numbers))  # type: ignore[arg-type]  # by name
    found = plan(patients=1000, delta=1e-5, **numbers)  # type: ignore[arg-type]  # by name
    assert told["steps"] == found.steps
    assert told["noise_multiplier"] == found.noise_multiplier
    assert told["epsilon"] == found.epsilon()
    assert told["batch"] == found.expected_batch


def test_its_errors_name_arguments_and_those_of_the_command_options() -> None:
    refuses(lambda: plan(**GIVEN, epsilon=8), "plan: epochs, noise_multiplier are missing")
    refuses(lambda: plan(patients=10, batch=20, epochs=1, epsilon=8), "batch 20: give 1 to 10")
    refuses(
        lambda: plan(**GIVEN, epochs=20, epsilon=8, noise_multiplier=0.8),
        "raise epsilon to 12.26; or lower batch to 29; or raise noise_multiplier to 0.98",
    )
    asked = Asked(patients=1000, batch=64, epochs=20, epsilon=8, noise_multiplier=0.8, delta=1e-5)
    refuses(
        lambda: solved(asked),
        "raise --epsilon to 12.26; or lower --batch to 29; or raise --noise-multiplier to 0.98",
    )
    refuses(lambda: plan(**GIVEN, epochs=1, noise_multiplier=1, clipping_norm=-1), "clipping-norm")
