"""The fabricated comparison that report tests share."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fedmed.report import vega
from fedmed.report.vega import Drawing


@pytest.fixture(scope="session")
def make_runs() -> Iterator[ModuleType]:
    """The module that fabricates run directories."""
    path = Path(__file__).with_name("make_runs.py")
    spec = importlib.util.spec_from_file_location("make_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_runs"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_runs"]


@pytest.fixture(scope="session")
def seven(make_runs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven arms at two seeds; read only."""
    return make_runs.comparison(tmp_path_factory.mktemp("seven"))


@pytest.fixture(scope="session")
def compared(make_runs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven arms at two seeds with their comparison.json; read only."""
    directory = make_runs.comparison(tmp_path_factory.mktemp("compared"))
    make_runs.write_comparison(directory)
    return directory


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes seconds: a report without its script and with empty drawings."""

    def render(specifications: list[object], replaced: object) -> tuple[str, list[Drawing]]:
        empty = '<svg width="1" height="1"></svg>'
        return "void 0;", [Drawing(empty, empty, b"") for _ in specifications]

    monkeypatch.setattr(vega, "render", render)
