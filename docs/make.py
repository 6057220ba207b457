"""Write the parts of the documentation that the code already knows; ``make docs`` runs it.

A part stands between two marker comments, the first of which names it. Everything outside the
markers is written by hand and stays as it is.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fedmed.base.errors import UserError
from fedmed.config import ARMS, Section, Settings
from fedmed.config.names import Unit, kebab
from fedmed.privacy.statement import whole
from fedmed.privacy.statement.contents import schema

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(
    r"(?P<open>^(?:<!--|#) made by make docs: (?P<name>[^\n>]*?)(?: -->)?\n)"
    r".*?"
    r"(?P<close>^(?:<!--|#) end of what make docs makes)",
    re.DOTALL | re.MULTILINE,
)
BAR = "\\|"  # within a cell
TYPES = {str: "string", int: "integer", float: "float", bool: "boolean"}


def main() -> None:
    """Write every file that is not as it would be made, and say which."""
    stale = [path for path, text in made().items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        path.write_text(made()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


def made() -> dict[Path, str]:
    """Every file with a part of ours -> its text with those parts as the code has them now."""
    schemas = {"privacy": schema(), "privacy-total": whole.schema()}
    texts = {
        ROOT / "docs" / f"{name}.schema.json": json.dumps(content, indent=2) + "\n"
        for name, content in schemas.items()
    }
    for name in ("README.md", "docs/configuration.md", "docs/privacy.md", "pyproject.toml"):
        path = ROOT / name
        texts[path] = filled(path.read_text(encoding="utf-8"), name)
    return texts


def filled(text: str, where: str) -> str:
    """``text`` with each part between its markers made again."""

    def part(match: re.Match[str]) -> str:
        make = PARTS.get(match["name"])
        if make is None:
            known = ", ".join(PARTS)
            raise UserError(f"{where}: no part is named '{match['name']}'; use one of {known}")
        return f"{match['open']}{make()}{match['close']}"

    return PART.sub(part, text)


def sections() -> dict[str, type[Section]]:
    """Every table of the configuration by its dotted name."""
    tables: dict[str, type[Section]] = {}

    def enter(name: str, section: type[Section]) -> None:
        tables[name] = section
        for key, field in section.model_fields.items():
            if isinstance(field.default, Section):
                enter(f"{name}.{kebab(key)}", type(field.default))

    for key, field in Settings.model_fields.items():
        enter(key, type(field.default))
    return tables


def keys(name: str) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of one table, without those of tables inside it."""
    for key, field in sections()[name].model_fields.items():
        if f"{name}.{kebab(key)}" not in sections():
            yield key, field


def table_of_keys(name: str) -> str:
    """The rows of docs/configuration.md for one table of the configuration."""
    told = meanings(sections()[name])
    rows = []
    for key, field in keys(name):
        if key not in told:
            raise UserError(f"{name}.{kebab(key)}: it has no meaning; write it below the key")
        cells = (f"`{name}.{kebab(key)}`", kind(field), f"`{json.dumps(field.default)}`")
        rows.append((*cells, values(field), told[key]))
    return table(("key", "type", "default", "unit, range or values", "meaning"), rows)


def meanings(section: type[Section]) -> dict[str, str]:
    """What stands below each key of a table, in one line."""
    (tree,) = ast.parse(inspect.getsource(section)).body
    by_key = {}
    for key, below in pairwise(getattr(tree, "body", [])):
        match key, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                by_key[name] = " ".join(text.split())
    return by_key


def kind(field: FieldInfo) -> str:
    """A key's type in TOML's words."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return TYPES[type(choices[0]) if choices else type(field.default)]


def values(field: FieldInfo) -> str:
    """A key's unit, and its choices or its range."""
    unit = [entry.words for entry in field.metadata if isinstance(entry, Unit)]
    if get_origin(field.annotation) is Literal:
        choices = (
            f"`{choice}`" if choice != "" else "empty" for choice in get_args(field.annotation)
        )
        return ", ".join([*unit, *choices])
    if field.annotation is bool:
        return "`true`, `false`"
    low, high = end(field, "ge"), end(field, "le")
    below = end(field, "lt")
    high = below - 1 if high is None and below is not None else high
    return ", ".join([*unit, *([f"{number(low)} to {number(high)}"] if low is not None else [])])


def end(field: FieldInfo, name: str) -> Any:
    """One end of a key's range; None where it has none."""
    ends = (getattr(entry, name, None) for entry in field.metadata)
    return next((value for value in ends if value is not None), None)


def number(value: float) -> str:
    """A number as people write it: 1024, 1,000,000, 1e15, 0.001."""
    if abs(value) >= 1e12:
        return f"{value:g}".replace("e+", "e")
    return f"{value:,.12g}" if abs(value) >= 10_000 else f"{value:.12g}"


def run_config() -> str:
    """The Flower app's run config in pyproject.toml: every key with its default."""
    blocks = []
    for name in sections():
        lines = [f"{kebab(key)} = {json.dumps(field.default)}" for key, field in keys(name)]
        blocks.append("\n".join([f"[tool.flwr.app.config.{name}]", *lines, ""]))
    return "\n".join(blocks)


def table_of_arms() -> str:
    """README's table: where each arm's noise enters, whom it protects, whom it trusts."""
    rows = [(f"`{arm.name}`", arm.enters, arm.unit, arm.trusted) for arm in ARMS.values()]
    head = ("arm", "where noise enters", "unit that epsilon protects", "who is trusted")
    return table(head, rows)


def table_of_relations() -> str:
    """The same in docs/privacy.md, with what may differ between neighbouring data sets."""
    rows = [
        (f"`{arm.name}`", arm.enters, arm.unit, arm.relation, arm.trusted) for arm in ARMS.values()
    ]
    return table(("arm", "where noise enters", "unit", "neighbouring relation", "trusted"), rows)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table, with the empty lines around it that Markdown needs."""
    lines = [
        f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |\n" for line in (head, *rows)
    ]
    return "".join(["\n", lines[0], "|", "---|" * len(head), "\n", *lines[1:], "\n"])


PARTS: dict[str, Callable[[], str]] = {
    "table of arms": table_of_arms,
    "table of arms and relations": table_of_relations,
    "run config": run_config,
    **{f"keys of {name}": partial(table_of_keys, name) for name in sections()},
}

if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
