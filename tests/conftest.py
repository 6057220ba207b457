"""What every test shares: a home of its own for caches, and the way to the real data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
