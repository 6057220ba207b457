"""A site's files: ``site.toml``, policy, connection, key and certificate."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fuzz import bases, damage, formats
from fuzz.cases import BAD, EITHER, Case, kind
from fuzz.kinds_settings import toml_value

GUARD = ("site/state*", "site/run*", "data*", "*guard.sock*")


def doctor() -> list[str]:
    """The command."""
    return ["doctor", "site/site.toml"]


def guard() -> Case:
    """A guard that is told to end once it stands."""
    return Case(arguments=["guard", "site/site.toml"], ends="ready:", writes=GUARD, codes=(1,))


@kind("site: values", 4)
def values(rng: Random, folder: Path) -> Case:
    bases.site(rng, folder)
    file = rng.choice(("site.toml", "site.toml", "policy.toml", "connection.toml"))
    path = folder / "site" / file
    lines = path.read_text().splitlines()
    at = rng.choice([n for n, line in enumerate(lines) if "=" in line.partition("#")[0]])
    key = lines[at].partition("=")[0].strip("# ")
    literal = toml_value(rng)
    lines[at] = f"{key} = {literal}"
    path.write_text("\n".join([*lines, ""]))
    return _case(rng, file, f"{file}: {key} = {literal[:50]}")


@kind("site: damaged", 3)
def damaged(rng: Random, folder: Path) -> Case:
    bases.site(rng, folder)
    file = rng.choice(("site.toml", "policy.toml", "connection.toml", "keys/node", "ca.crt"))
    path = folder / "site" / file
    data, how = damage.cut_or_flip(rng, path.read_bytes())
    if rng.random() < 0.3:
        data, how = damage.encoded(rng, path.read_text())
    path.write_bytes(data)
    return _case(rng, file, f"{file}: {how}")


@kind("site: other files", 3)
def other(rng: Random, folder: Path) -> Case:
    bases.site(rng, folder)
    file = rng.choice(("site.toml", "policy.toml", "connection.toml", "keys/node", "ca.crt"))
    among = tuple(p for p in damage.PLACES if p not in ("long", "through"))
    _, how = damage.placed(rng, folder / "site" / file, among)
    return _case(rng, file, f"{file}: {how}")


def _case(rng: Random, file: str, note: str) -> Case:
    case = guard()
    if file in ("connection.toml", "keys/node", "ca.crt"):
        case = Case(arguments=["site", "join", "site/connection.toml", "--guard=site/none.sock"])
        case.ends = "trying again"
    if rng.random() < 0.5:
        case = Case(arguments=doctor(), several_lines=True, writes=GUARD)
    case.note = f"{case.arguments[0]}, {note}"
    return case


@kind("site: data")
def data(rng: Random, folder: Path) -> Case:
    """``fedmed site init`` on tables and TOML that are none."""
    bases.cohort(rng, folder)
    how = rng.choice(("toml", "table", "placed", "app", "ca", "text"))
    arguments = ["site", "init", "new", "--name=a", "--server=a.example:9092", "--images=images"]
    if how == "toml":
        (folder / "d.toml").write_text(
            f'source = "table"\npath = "table.csv"\nimages = "images"\n'
            f"{rng.choice(('seed', 'positive', 'hospitals', 'x', 'columns', 'split'))} = "
            f"{toml_value(rng)}\n"
        )
        arguments = [*arguments[:-1], "--data=d.toml"]
    elif how == "table":
        table, how = damage.cut_or_flip(rng, (folder / "table.csv").read_bytes())
        (folder / "table.csv").write_bytes(table)
        arguments.append("--data=table.csv")
    elif how == "placed":
        _, how = damage.placed(
            rng, folder / "t.csv", tuple(p for p in damage.PLACES if p != "long")
        )
        arguments.append("--data=t.csv")
    elif how in ("app", "ca"):
        _, told = damage.placed(
            rng, folder / "given", tuple(p for p in damage.PLACES if p != "long")
        )
        how = f"{how}: {told}"
        arguments += ["--data=table.csv", f"--{how[:3].strip(':')}=given"]
    else:
        odd = damage.text(rng).replace("\0", "").replace("\ud800", "\udcff")
        option = rng.choice(("unit", "arm", "app", "name"))
        arguments += ["--data=table.csv", f"--{option}={odd}"]
        how = f"{option}: {odd[:30]!r}"
    return Case(arguments=arguments, writes=("new/*",), note=how)


@kind("site: policies of a simulation", 2)
def policies(rng: Random, folder: Path) -> Case:
    key = rng.choice(("policies", "sites"))
    bases.phantom(folder, f'[run]\n{key} = "{folder / "rules"}"\n')
    (folder / "rules").mkdir()
    text = formats.policy() if key == "policies" else '"privacy.epsilon" = 4.0\n'
    lines = text.splitlines()
    how = rng.choice(("value", "damage", "nest", "name"))
    if how == "value":
        at = rng.randrange(len(lines))
        lines[at] = f"{lines[at].partition('=')[0]} = {toml_value(rng)}"
        made = "\n".join([*lines, ""]).encode()
    elif how == "damage":
        made, how = damage.cut_or_flip(rng, text.encode())
    elif how == "nest":
        made = b"a = " + b"[" * 3000
    else:
        made = f"{json.dumps(damage.text(rng).encode('utf-8', 'replace').decode())} = 1\n".encode()
    (folder / "rules" / "hospital-1.toml").write_bytes(made)
    arguments = ["plan", "mine.toml", "--no-time", "--arm=dp-sgd"]
    return Case(arguments=arguments, note=f"{key}: {how}")


_ = (BAD, EITHER)
