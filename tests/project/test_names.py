"""A name says what it holds; ``found`` says of anything that somebody looked for it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import goes_red

ROOT = Path(__file__).resolve().parents[2]
NAMED = (
    "clients", "docs", "experiments", "server",
    "fedmed/base", "fedmed/cli", "fedmed/config", "fedmed/coordinator", "fedmed/data",
    "fedmed/experiment", "fedmed/federation", "fedmed/hospital", "fedmed/library", "fedmed/models",
    "fedmed/privacy", "fedmed/report", "fedmed/site", "fedmed/trackers", "fedmed/training",
)  # fmt: skip
NOT_YET = ("fedmed/cli/commands.py", "fedmed/cli/evaluate.py")


def sources() -> Iterator[tuple[str, str]]:
    """Place and text of every module whose names are held to this."""
    for folder in NAMED:
        paths = sorted((ROOT / folder).rglob("*.py"))
        assert paths, f"{folder} has no module"
        for path in paths:
            place = path.relative_to(ROOT).as_posix()
            if place not in NOT_YET:
                yield place, path.read_text(encoding="utf-8")


def bound(node: ast.AST) -> str | None:
    """The name that a node gives to something, if it does."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return name
        case ast.MatchMapping(rest=name) | ast.alias(asname=name):
            return name
    return None


def vague_names(place: str, source: str) -> set[str]:
    """Where something is called ``found``, as ``place:line``; fields of classes are left alone."""
    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = {
        item.target for one in classes for item in one.body if isinstance(item, ast.AnnAssign)
    }
    return {
        f"{place}:{getattr(node, 'lineno', 0)}"
        for node in ast.walk(tree)
        if node not in fields and (bound(node) or "").strip("_").lower() == "found"
    }


def test_nothing_is_called_found() -> None:
    vague = set[str]().union(*(vague_names(place, source) for place, source in sources()))

    def check(more: str) -> None:
        assert vague | vague_names("fedmed/new.py", more) == set()

    check(
        "class A:\n    found: int\n    def f(self, x):\n        x.found = {'found': self.found}\n"
    )
    goes_red(check, "def f(x):\n    found = x\n")


@pytest.mark.parametrize(
    "line",
    [
        "found: int = 1",
        "found += 1",
        "first, (second, *found) = x",
        "found_ = x",
        "for found in x: pass",
        "[1 for found in x]",
        "(found := x)",
        "lambda found: 1",
        "def _found(): pass",
        "def g(*, found=1): pass",
        "async def g(*found): pass",
        "class Found: pass",
        "with x as found: pass",
        "from os import path as found",
        "if x:\n try: pass\n except OSError as found: pass",
        "match x:\n case 1:\n  pass\n case [1, *found]: pass",
        "match x:\n case 1:\n  pass\n case {1: 1, **found}: pass",
    ],
)
def test_every_way_to_name_something_is_seen(line: str) -> None:
    last = 1 + line.count("\n")
    assert vague_names("m.py", line) == {f"m.py:{last}"}
    assert vague_names("m.py", line.replace("found", "found_above").replace("Found", "X")) == set()
