"""What every test shares: its order, a home of its own for caches, and the way to the real data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SIMULATIONS = "tests/e2e/simulations/"  # one of them at a time


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Simulations first: begun last, they would be waited for while other cores idle."""
    items.sort(key=lambda item: not item.nodeid.startswith(SIMULATIONS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """File by file, but all simulations in one process, which then never waits for another's."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return SIMULATIONS if nodeid.startswith(SIMULATIONS) else nodeid.split("::", 1)[0]

    return Together(config, log)


@pytest.fixture(scope="session", autouse=True)
def fedmed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that no other run shares, so that no test reads another's cache."""
    home = tmp_path_factory.mktemp("fedmed-home")
    os.environ["FEDMED_HOME"] = str(home)
    return home


@pytest.fixture(scope="session")
def shared_data() -> Callable[..., Path]:
    """``shared_data("nih", "nih.csv")``: a file of the real data beside the project, or a skip."""

    def find(*parts: str) -> Path:
        path = REPOSITORY.parent / "shared" / "data" / Path(*parts)
        if not path.exists():
            pytest.skip(f"real data absent: shared/data/{'/'.join(parts)} beside the project")
        return path

    return find


@pytest.fixture
def tiny_hospitals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small models, and hospitals that no other test has prepared nor will find prepared."""
    from support import use_tiny_models

    from fedmed.hospital import hospital

    def forget() -> None:
        hospital._model.cache_clear()
        hospital.hospital_for.cache_clear()

    use_tiny_models(monkeypatch)
    forget()
    yield
    forget()


@pytest.fixture
def tiny_hospitals_on_one_thread(tiny_hospitals: None) -> Iterator[None]:
    """The same, quicker where many models are trained for a moment each."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def flower_sender() -> None:
    """Flower's messages can be made here: they need a sender, which a grid sets."""
    from fedmed.federation.inline import InlineGrid

    InlineGrid(lambda message, context: message, 1, {})  # type: ignore[arg-type]  # never called
