"""Every known pitfall has a test, and every such test has been seen to fail on broken code."""

import ast
from pathlib import Path

from support import goes_red

PITFALLS = (*range(1, 47),)
SOURCES = [
    path.read_text(encoding="utf-8")
    for path in sorted(Path(__file__).parent.glob("test_pitfalls_*.py"))
    if path.name != Path(__file__).name
]


def numbers(sources: list[str]) -> list[int]:
    """Numbers of the tests named ``test_pitfall_07_...`` that hold a sabotage half."""
    found = []
    for tree in map(ast.parse, sources):
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_pitfall_"):
                called = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                if "goes_red" in called:
                    found.append(int(node.name.split("_")[2]))
    return found


def check_every_pitfall_has_a_test(sources: list[str]) -> None:
    assert sorted(set(numbers(sources))) == list(PITFALLS)


def test_every_pitfall_has_a_test_that_can_go_red() -> None:
    check_every_pitfall_has_a_test(SOURCES)
    goes_red(check_every_pitfall_has_a_test, SOURCES[1:])
    one = "def test_pitfall_07_a_mistake():\n    check()\n"
    assert numbers([one]) == []
    assert numbers([one + "    goes_red(check)\n"]) == [7]
