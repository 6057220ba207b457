"""The public face: what is exported exists, is documented, shows, and costs nothing to import."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fedmed

ROOT = Path(__file__).resolve().parents[2]
FACES = (
    *("fedmed", "fedmed.data", "fedmed.evaluation", "fedmed.privacy"),
    *("fedmed.privacy.gradients", "fedmed.report"),
)


def face(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", FACES)
def test_every_public_name_is_there_has_a_docstring_and_shows(name: str) -> None:
    package = face(name)
    assert package.__doc__
    assert len(package.__all__) == len(set(package.__all__))
    for public in package.__all__:
        found = getattr(package, public)
        assert public in dir(package)
        if public != "__version__":
            assert inspect.getdoc(found), f"{name}.{public} says nothing"
            assert not (inspect.getdoc(found) or "").startswith(f"{public}("), "a generated one"


@pytest.mark.parametrize("name", FACES)
def test_no_public_function_or_class_has_the_name_of_a_module_beside_it(name: str) -> None:
    """Sabotage: fedmed.report as a function, which importing the package would replace."""
    package = face(name)
    folder = Path(str(package.__file__)).parent
    beside = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    clash = {
        p for p in package.__all__ if p in beside and not inspect.ismodule(getattr(package, p))
    }
    assert clash == set()


@pytest.mark.parametrize("name", FACES)
def test_an_unknown_name_is_an_attribute_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'{name}' has no attribute 'nothing'"):
        _ = face(name).nothing


def test_the_short_names_are_those_of_the_modules() -> None:
    from fedmed.evaluation.discrimination import auroc
    from fedmed.evaluation.evaluated import evaluate

    assert fedmed.evaluate is fedmed.evaluation.evaluate is evaluate
    assert fedmed.evaluation.auroc is auroc
    assert fedmed.plan is fedmed.privacy.plan


def test_a_plan_and_an_evaluation_need_neither_torch_nor_flower() -> None:
    code = (
        "import sys, fedmed\n"
        "plan = fedmed.plan(patients=100, batch=10, epochs=1, noise_multiplier=2.0, delta=1e-3)\n"
        "assert 0 < plan.epsilon() < 2, plan\n"
        "fedmed.evaluate\n"
        "print(*(n for n in ('torch', 'flwr') if n in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []
