"""A function fits on a screen, and an object has all its attributes from the start."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support import goes_red

ROOT = Path(__file__).resolve().parents[2]
LINES = 60  # of a function, from ``def`` to its last line; branches are ruff's, in pyproject.toml
MAKERS = ("__init__", "__post_init__", "__new__")


def sources() -> Iterator[tuple[str, str]]:
    """Place and text of every module of the library and the two apps."""
    for folder in ("fedmed", "clients", "server"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def long_functions(place: str, source: str) -> set[str]:
    """Functions and methods with more lines than fit, as ``place:name``."""
    return {
        f"{place}:{node.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or node.lineno) - node.lineno + 1 > LINES
    }


def assigned(node: ast.AST) -> set[str]:
    """Attributes of ``self`` that are set anywhere in a method."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    }


def declared(node: ast.ClassDef) -> set[str]:
    """What a class says it has: fields, class attributes, methods, and what its maker sets."""
    found: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            found |= {item.name} | (assigned(item) if item.name in MAKERS else set())
        elif isinstance(item, ast.AnnAssign):
            found.add(ast.unparse(item.target))
        elif isinstance(item, ast.Assign):
            found |= {ast.unparse(target) for target in item.targets}
    return found


def late_attributes(place: str, source: str) -> set[str]:
    """Attributes that first appear in another method, as ``place:Class.attribute``."""
    classes = {n.name: n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)}
    late = set()
    for name, node in classes.items():
        bases = [classes[b] for base in node.bases if (b := ast.unparse(base)) in classes]
        known = set[str]().union(*(declared(one) for one in (node, *bases)))
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        found = set[str]().union(*(assigned(method) for method in methods))
        late |= {f"{place}:{name}.{attribute}" for attribute in found - known}
    return late


def test_every_function_fits_on_a_screen() -> None:
    def check(more: str) -> None:
        found = long_functions("fedmed/new.py", more)
        for place, source in sources():
            found |= long_functions(place, source)
        assert found == set()

    body = "".join(f"    {number}\n" for number in range(LINES - 1))
    check(f"def f():\n{body}")
    goes_red(check, f"def f():\n{body}    60\n")
    inner = body.replace("    ", "        ")
    goes_red(check, f"class A:\n    async def f(self):\n{inner}        60\n")


def test_no_attribute_is_born_outside_a_constructor() -> None:
    """Half-made objects: a method that is called too early finds no such attribute."""

    def check(more: str) -> None:
        found = late_attributes("fedmed/new.py", more)
        for place, source in sources():
            found |= late_attributes(place, source)
        assert found == set()

    made = "class A:\n    x: int\n    def __init__(self):\n        self.y, self.z = 0, 1\n"
    check(f"{made}    def f(self):\n        self.x = self.y = 1\n")
    check(f"{made}class B(A):\n    def f(self):\n        self.z += 1\n")
    goes_red(check, f"{made}    def f(self):\n        self.later = 1\n")
    goes_red(
        check, "class B:\n    def f(self):\n        for self.n in range(3):\n            pass\n"
    )
