"""Notebooks without Jupyter: their code cells in order, in one namespace, each answer shown.

``python -P notebooks.py NOTEBOOK.ipynb`` runs one in the present folder; with -P, as modules beside
this one have names of the standard library's.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def run_cells(cells: list[str]) -> dict[str, Any]:
    """Run them; the last expression of each is shown as a notebook would show it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(cells, start=1):
        tree = ast.parse(source, f"cell {number}")
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            if shown is not None:
                print(shown)
                if hasattr(shown, "_repr_html_"):
                    assert shown._repr_html_()
    return names


if __name__ == "__main__":
    run_cells(code_cells(Path(sys.argv[1])))
