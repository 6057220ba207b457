"""Imports go one way, and importing one part does not drag in the others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEDMED = ROOT / "fedmed"
ORDER = (  # each uses only those before it
    *("base", "config", "models", "evaluation", "secure_sum", "privacy", "data", "federation"),
    "training",
    *(
        "site",
        "report",
        "experiment",
        "hospital",
        "coordinator",
        "launch",
        "trackers",
        "library",
        "cli",
    ),
)
APART = {("hospital", "coordinator"), ("coordinator", "hospital")}


def part_of(module: str) -> str:
    """The folder, or loose module, of ``fedmed`` that a name lies in; empty: fedmed's own."""
    names = module.split(".")
    return names[1] if names[0] == "fedmed" and len(names) > 1 else ""


def imported(source: str) -> set[str]:
    """Names that a module imports anywhere, in functions too; ``a.b`` of ``from a import b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def against(part: str, names: set[str]) -> list[str]:
    """Those of ``names`` that ``part`` may not import."""
    wrong = []
    for name in sorted(names):
        if name.split(".")[0] in ("clients", "server"):
            wrong.append(name)  # they name the apps, and nothing rests on them
        other = part_of(name)
        if other not in ORDER or other == part:  # a name of fedmed/__init__.py, or its own
            continue
        if ORDER.index(other) > ORDER.index(part) or (part, other) in APART:
            wrong.append(name)
    return wrong


def test_each_folder_uses_only_those_before_it() -> None:
    """Sabotage: a report that starts a run, a guard that asks the server."""
    wrong = {}
    for path in sorted(FEDMED.rglob("*.py")):
        place = path.relative_to(FEDMED)
        part = place.parts[0].removesuffix(".py")
        if part != "__init__":
            assert part in ORDER, f"{place}: give the folder its place in the order"
            found = against(part, imported(path.read_text(encoding="utf-8")))
            wrong |= {str(place): found} if found else {}
    assert wrong == {}
    assert against("privacy", {"fedmed.data.shard.Shard"})
    assert against("report", imported("def f():\n    from fedmed.experiment import run"))
    assert against("hospital", {"fedmed.coordinator.bounds.Bounds"})
    assert against("site", {"server.app.app"})
    assert not against("hospital", {"fedmed.site.wire", "fedmed.config", "torch"})


def test_two_modules_are_loose() -> None:
    assert {path.name for path in FEDMED.glob("*.py")} == {"__init__.py", "launch.py"}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("fedmed.config", ("torch", "flwr", "pandas")),
        ("fedmed", ("torch", "flwr", "pandas", "scipy", "numpy")),
        ("fedmed.evaluation", ("torch", "flwr", "pandas", "scipy")),
        ("fedmed.secure_sum", ("torch", "flwr", "pandas", "scipy", "fedmed.privacy")),
        ("fedmed.evaluation.evaluated", ("torch", "flwr")),
        ("fedmed.privacy", ("torch", "flwr", "pandas", "scipy")),
        ("fedmed.privacy.plans.solving", ("torch", "flwr", "pandas")),
        ("fedmed.data", ("torch", "flwr", "pandas", "scipy")),
        ("fedmed.evaluation.comparison.compare", ("torch", "flwr")),
        ("fedmed.cli.solving", ("torch", "flwr", "pandas")),
        ("fedmed.privacy.ledger.report", ("torch", "flwr", "pandas", "scipy", "dp_accounting")),
        ("fedmed.cli.tables", ("torch", "flwr", "pandas")),
        ("fedmed.experiment.file", ("torch", "flwr", "pandas")),
        ("fedmed.data.inspect", ("torch", "flwr")),
        # A deployed app's process is a new one for each message.
        ("fedmed.hospital.relay", ("torch", "pandas", "scipy", "pydantic")),
        ("fedmed.federation.messages", ("torchvision", "pandas")),
        ("fedmed.report.published", ("torch", "flwr", "pandas", "jinja2")),
        ("fedmed.hospital.relay", ("fedmed.data", "fedmed.privacy.ledger", "fedmed.coordinator")),
    ],
)
def test_importing_a_part_does_not_drag_in(module: str, without: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(n for n in {without!r} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []
