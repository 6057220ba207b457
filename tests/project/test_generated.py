"""What the guides and pyproject.toml repeat of the code is made from it, by `make docs`."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import pytest
from pydantic import Field
from support import refuses

from fedmed.config import ARMS, Section, Settings, within
from fedmed.config.names import Unit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stale(make: ModuleType) -> list[str]:
    files = make.made().items()
    return [path.name for path, text in files if path.read_text(encoding="utf-8") != text]


def test_make_docs_would_change_nothing(make: ModuleType) -> None:
    assert stale(make) == [], "run make docs, and commit what it writes"


def test_an_arm_that_says_something_else_makes_its_tables_stale(
    make: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARMS, "dp-sgd", dataclasses.replace(ARMS["dp-sgd"], trusted="nobody"))
    assert stale(make) == ["README.md", "privacy.md"]


def test_a_default_that_changes_makes_table_and_run_config_stale(
    make: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make.sections()["train"].model_fields["rounds"], "default", 5)
    assert stale(make) == ["configuration.md", "pyproject.toml"]


def test_every_key_stands_in_one_table_with_its_meaning(make: ModuleType) -> None:
    text = "".join(make.table_of_keys(name) for name in make.sections())
    listed = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(Settings().to_flat())
    for line in text.splitlines():
        assert not line.startswith("| `") or line.split(" | ")[-1] not in ("", "|"), line


class Example(Section):
    """A table as the generator reads it."""

    share: Annotated[float, within(1e-6, 1e6), Unit("share | part")] = 0.5
    """How much,
    and of what."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 3
    """Where it starts."""

    kind: Literal["", "a", "b"] = "a"
    """Which."""

    flag: bool = False
    unknown: Annotated[int, Field(ge=16, le=1024)] = 16


def test_a_row_has_type_default_range_and_meaning(
    make: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = Example.model_fields
    assert make.values(fields["share"]) == "share | part, 1e-06 to 1,000,000"
    assert make.values(fields["seed"]) == "0 to 2,147,483,647"
    assert make.values(fields["kind"]) == "empty, `a`, `b`"
    assert make.values(fields["flag"]) == "`true`, `false`"
    assert make.values(fields["unknown"]) == "16 to 1024"
    assert [make.kind(field) for field in fields.values()] == [
        *("float", "integer", "string", "boolean", "integer")
    ]
    assert make.meanings(Example) == {
        "share": "How much, and of what.",
        "seed": "Where it starts.",
        "kind": "Which.",
    }
    assert make.table(("key", "meaning"), [("a", "b|c")]) == (
        "\n| key | meaning |\n|---|---|\n| a | b\\|c |\n\n"
    )
    monkeypatch.setattr(make, "sections", lambda: {"example": Example})
    refuses(lambda: make.table_of_keys("example"), "example.flag", "write it below the key")


def test_only_what_stands_between_the_markers_is_written(make: ModuleType) -> None:
    begin, end = "<!-- made by make docs: table of arms -->", "<!-- end of what make docs makes -->"
    text = f"before\n{begin}\nold\n{end}\nafter\n"
    found = make.filled(text, "x.md")
    assert found.startswith(f"before\n{begin}\n\n| arm |")
    assert found.endswith(f"|\n\n{end}\nafter\n")
    assert "old" not in found
    assert make.filled(found, "x.md") == found
    refuses(lambda: make.filled(text.replace("of arms", "of legs"), "x.md"), "x.md", "of legs")
