"""Parts of requirements.lock, with their hashes, for pip install --require-hashes.

python containers/locked.py torch==2.14.1 rich    # the lines of these packages
python containers/locked.py --report report.json  # of what a dry run of pip would install
python containers/locked.py --wanted              # what an image needs, without versions of torch
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def blocks(lock: str) -> dict[str, str]:
    """Each package of a lock -> its lines, with hashes; several where versions depend on Python."""
    found: dict[str, str] = {}
    for block in re.findall(r"^[a-z0-9].*?(?=^[a-z0-9#]|\Z)", lock, re.DOTALL | re.MULTILINE):
        name = normal(block.split("==")[0])
        found[name] = found.get(name, "") + block
    return found


def normal(name: str) -> str:
    """A package's name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def chosen(lock: str, names: list[str]) -> str:
    """The lines of ``names``; ends with one line where the lock lacks one."""
    known = blocks(lock)
    found = []
    for wish in names:
        name, _, version = wish.partition("==")
        block = known.get(normal(name), "")
        if not block.startswith(f"{normal(name)}=={version}"):
            sys.exit(
                f"requirements.lock lacks {wish}; name a version that it has, or run make lock"
            )
        found.append(block)
    return "".join(found)


def wanted(project: str) -> list[str]:
    """What an image needs: no ray, which is for simulations, and torch as it is there already."""
    tables = tomllib.loads(project)["project"]
    extras = (tables["optional-dependencies"][name] for name in ("imagenet", "opacus"))
    lines = [*tables["dependencies"], *(line for extra in extras for line in extra)]
    lines = [line.replace("[simulation]", "") for line in lines]
    lines = [line.partition("==")[0] if line.startswith("torch") else line for line in lines]
    return [*lines, "hatchling", "editables"]


def main() -> None:
    """Print what the arguments ask for."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    arguments = sys.argv[1:]
    if arguments == ["--wanted"]:
        print("\n".join(wanted((ROOT / "pyproject.toml").read_text(encoding="utf-8"))))
    elif arguments[:1] == ["--report"]:
        report = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
        print(chosen(lock, [entry["metadata"]["name"] for entry in report["install"]]), end="")
    else:
        print(chosen(lock, arguments), end="")


if __name__ == "__main__":
    main()
