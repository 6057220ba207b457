"""The examples in docstrings run, and give what they say."""

import doctest
import importlib

import pytest

import fedmed

EXAMPLES = {  # modules, and the fewest lines that run
    "fedmed.base.lazy": 3,
    "fedmed.base.rounding": 1,
    "fedmed.config.flat": 1,
    "fedmed.config.reading": 3,
    "fedmed.data.partition": 4,
    "fedmed.data.reading": 6,
    "fedmed.data.split": 6,
    "fedmed.evaluation.calibration": 2,
    "fedmed.evaluation.discrimination": 4,
    "fedmed.evaluation.evaluated": 9,
    "fedmed.evaluation.intervals.delong": 3,
    "fedmed.library.forecasting": 3,
    "fedmed.privacy.accounting.asking": 1,
    "fedmed.privacy.accounting.epsilons": 8,
    "fedmed.privacy.accounting.renyi": 5,
    "fedmed.privacy.accounting.solve": 8,
    "fedmed.privacy.gradients": 4,
    "fedmed.privacy.gradients.alike": 1,
    "fedmed.privacy.gradients.clipping": 2,
    "fedmed.privacy.mechanisms.noise": 2,
    "fedmed.privacy.mechanisms.step": 2,
    "fedmed.privacy.plans.solving": 3,
    "fedmed.training.own": 6,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_module_give_what_they_say(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0, capsys.readouterr().out
    assert found.attempted >= EXAMPLES[name]


def test_a_wrong_example_is_found() -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    module = importlib.import_module("fedmed.evaluation.discrimination")
    (example,) = finder.find(module.auroc, "auroc", globs=vars(module))
    example.examples[0].want = "0.5\n"
    assert runner.run(example, out=lambda _: None).failed == 1


@pytest.mark.parametrize("name", ["plan", "evaluate", "forecast", "read_cohort", "PrivateTraining"])
def test_what_a_newcomer_calls_first_has_an_example(name: str) -> None:
    found = doctest.DocTestFinder().find(getattr(fedmed, name), name)
    assert any(one.examples for one in found)
