"""Settings: TOML files, ``--set``, and numbers on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bases, damage, formats
from fuzz.cases import BAD, EITHER, HARMLESS, Case, kind

SHEET = ("*sheet*.png", "runs/*")


def toml_value(rng: Random) -> str:
    """A TOML value of any kind."""
    return rng.choice(
        (
            lambda: json.dumps(damage.text(rng).encode("utf-8", "replace").decode()),
            lambda: str(rng.choice((0, -1, 2**31, 2**63, 2**64, 10**30, 10**400))),
            lambda: "1" + "0" * rng.choice((300, 4000, 5000, 100_000)),
            lambda: "0x" + "f" * rng.choice((16, 17, 300, 50_000)),
            lambda: rng.choice(
                ("nan", "inf", "-inf", "1e400", "1e308", "5e-324", "4.4e-45", "-0.0")
            ),
            lambda: rng.choice(("true", "false", "[]", "{}", "[[]]", "[true]", "{a = 1}", '[""]')),
            lambda: rng.choice(("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "9999-12-31")),
            lambda: rng.choice(("0000-01-01", "1979-99-99", "1979-05-27T07:32:00+99:99")),
            lambda: "[" * 3 + "1" + "]" * 3,
            lambda: rng.choice(('"', "'''", "[1,", "{", "1_", "0o9", "+-1", "")),
        )
    )()


def settings() -> dict[str, Any]:
    """Every key with its default."""
    from fedmed.config import Settings

    return dict(Settings().to_flat())


def command(rng: Random, file: str = "mine.toml") -> list[str]:
    """A command that reads an experiment, and does little where it is right."""
    return rng.choice(
        (
            ["data", "inspect", file, "--sheet", "sheet.png"],
            ["data", "inspect", file, "--sheet", "sheet.png"],
            ["plan", file, "--no-time", "--arm=none"],
            ["plan", file, "--no-time", "--arm=none"],
            ["plan", file, "--no-time", "--json"],
        )
    )


@kind("toml: nesting", 2)
def nesting(rng: Random, folder: Path) -> Case:
    depth = rng.choice((65, 300, 990, 3000, 50_000, 200_000))
    how = rng.choice(("array", "table", "dotted", "header", "array of tables"))
    made = {
        "array": f"seeds = {'[' * depth}{']' * depth}\n",
        "table": f"train = {'{a=' * min(depth, 50_000)}1{'}' * min(depth, 50_000)}\n",
        "dotted": f"{'.'.join('a' * depth)} = 1\n",
        "header": f"[{'.'.join('a' * depth)}]\nx = 1\n",
        "array of tables": f"[[{'.'.join('a' * min(depth, 3000))}]]\n" * 3,
    }[how]
    (folder / "mine.toml").write_text(made)
    return Case(arguments=["run", "mine.toml", "-q"], expect=BAD, names=("mine.toml",),
                note=f"{how} of depth {depth}")  # fmt: skip


@kind("toml: a value of another kind", 6)
def other_value(rng: Random, folder: Path) -> Case:
    keys = [*settings(), "seeds", "arms", "name", "title", "description", "paper", "arm",
            "pretrain", "data", "train", "privacy", "run"]  # fmt: skip
    key, literal = rng.choice(keys), toml_value(rng)
    table, _, last = key.rpartition(".")
    lines = f"[{table}]\n{last} = {literal}\n" if table else f"{last} = {literal}\n"
    if rng.random() < 0.5:
        path = bases.phantom(folder)
        kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{last} ")]
        text = "\n".join(kept) + "\n"
        text = (
            text.replace(f"[{table}]\n", lines)
            if f"[{table}]\n" in text
            else (text + lines if table else lines + text)
        )
        path.write_text(text)
    else:
        (folder / "mine.toml").write_text(lines)
    return Case(arguments=command(rng), names=("mine.toml", key, table or key, last),
                writes=SHEET, note=f"{key} = {literal[:60]}")  # fmt: skip


@kind("toml: encodings")
def encodings(rng: Random, folder: Path) -> Case:
    data, how = damage.encoded(rng, formats.PHANTOM)
    (folder / "mine.toml").write_bytes(data)
    return Case(arguments=["plan", "mine.toml", "--no-time"], names=("mine.toml",),
                expect=EITHER if how in ("bom", "cr") else BAD, note=how)  # fmt: skip


@kind("toml: damaged", 3)
def damaged(rng: Random, folder: Path) -> Case:
    data, how = damage.cut_or_flip(rng, formats.PHANTOM.encode())
    (folder / "mine.toml").write_bytes(data)
    return Case(arguments=command(rng), writes=SHEET, note=how)


@kind("toml: large", heavy=True)
def large(rng: Random, folder: Path) -> Case:
    how = rng.choice(("keys", "comment", "text", "numbers", "dots", "headers"))
    made = {
        "keys": lambda: "".join(f"k{n} = {n}\n" for n in range(300_000)),
        "comment": lambda: "#" + "x" * (30 << 20) + "\n",
        "text": lambda: 'title = "' + "x" * (30 << 20) + '"\n',
        "numbers": lambda: "seeds = [" + "1, " * 2_000_000 + "]\n",
        "dots": lambda: "".join(".".join(["a"] * 2000) + f".k{n} = 1\n" for n in range(400)),
        "headers": lambda: "".join(f"[{'.'.join(['b'] * 3000)}.k{n}]\n" for n in range(300)),
    }[how]()
    (folder / "mine.toml").write_text(made)
    return Case(arguments=["run", "mine.toml", "-q"], expect=BAD, names=("mine.toml",), note=how)


@kind("toml: names")
def names(rng: Random, folder: Path) -> Case:
    text = damage.text(rng).encode("utf-8", "replace").decode()
    key = rng.choice(("name", "title", "arms", "paper", "arm", "unknown", "key"))
    literal = json.dumps(text)
    line = {
        "arms": f"arms = [{literal}]", "arm": f"[arm.{literal}]\nx = 1", "key": f"{literal} = 1",
        "unknown": f"[data]\n{literal} = 1",
    }.get(key, f"{key} = {literal}")  # fmt: skip
    (folder / "mine.toml").write_text(line + "\n")
    return Case(arguments=command(rng), writes=SHEET, note=f"{key}: {text[:40]!r}")


@kind("--set", 4)
def assignments(rng: Random, folder: Path) -> Case:
    bases.phantom(folder)
    keys = settings()
    key = rng.choice([*keys, *keys, "", "a." * 300 + "b", "pretrain.train.rounds", "data", "x"])
    if rng.random() < 0.1:
        key = damage.text(rng).replace("\0", "").encode("utf-8", "replace").decode()
    value = toml_value(rng)
    if rng.random() < 0.3:
        value = rng.choice(("a\nb = 1", "1\n[x]", "=", "'", '"a" # c', "[" * 2000))
    value = value.replace("\0", "")[:50_000]
    arguments = [*command(rng), f"--set={key}={value}"]
    return Case(arguments=arguments, writes=SHEET, note=f"{key[:60]}={value[:60]!r}")


@kind("numbers on the command line", 3)
def numbers(rng: Random, folder: Path) -> Case:
    number = str(rng.choice((*damage.NUMBERS, "", "x", "1e400", "-", "1" * 5000, "٣", "0x10")))
    fields = ("patients", "batch", "epochs", "epsilon", "noise-multiplier", "delta")
    good = {"patients": "500", "batch": "20", "epochs": "3", "epsilon": "4"}
    what = rng.choice(
        ("plan", "plan", "plan", "evaluate", "ledger", "certs", "join", "init", "run")
    )
    if what == "plan":
        changed = rng.choice(fields)
        given = {**good, changed: number}
        given.pop(rng.choice([name for name in good if name not in (changed, "patients")]))
        arguments = ["plan", *(f"--{name}={value}" for name, value in given.items())]
    elif what == "evaluate":
        (folder / "p.parquet").write_bytes(formats.parquet(formats.scores(rng)))
        option = rng.choice(("resamples", "seed"))
        arguments = ["evaluate", "p.parquet", f"--{option}={number}"]
        if option == "seed":
            arguments.append("--resamples=50")
    elif what == "ledger":
        bases.ledgers(folder)
        arguments = ["ledger", "show", "ledgers", f"--delta={number}"]
    elif what == "certs":
        arguments = ["site", "certs", "certs", "--host=a.example", f"--days={number}"]
    elif what == "join":
        bases.site(rng, folder)
        arguments = [
            "site",
            "join",
            "site/connection.toml",
            "--guard=mine.toml",
            f"--port={number}",
        ]
    elif what == "init":
        bases.cohort(rng, folder)
        option = rng.choice(("epsilon", "delta", "minimum-cohort", "public-size"))
        arguments = ["site", "init", "new", "--name=a", "--server=a.example:9092",
                     "--data=table.csv", "--images=images", f"--{option}={number}"]  # fmt: skip
    else:
        bases.phantom(folder)
        arguments = ["data", "inspect", "mine.toml", f"--set=data.patients={number}"]
    return Case(arguments=arguments, writes=("certs/*", "new/*", *SHEET), ends="trying again",
                note=f"{what}: {arguments[-1][:60]}")  # fmt: skip


@kind("words on the command line")
def words(rng: Random, folder: Path) -> Case:
    bases.phantom(folder)
    text = rng.choice((damage.text(rng), "\udcff\udcfe", "--help2", "-", "--", "\x7f"))
    text = text.replace("\0", "").replace("\ud800", "\udcff")
    arguments: list[str] = rng.choice(
        (
            [text],
            ["run", "mine.toml", "-q", f"--arm={text}"],
            ["run", "mine.toml", "-q", f"--engine={text}x"],
            ["run", f"{text}.toml", "-q"],
            ["report", f"{text}/nowhere"],
            ["ledger", "verify", f"{text}.sqlite"],
            ["evaluate", f"{text}.csv"],
            ["evaluate", f"{text}.txt"],
            ["doctor", f"{text}.toml"],
            ["site", "certs", "certs", f"--host={text}"],
            ["site", "init", "new", f"--name={text}", "--server=a.example:1", "--data=table.csv"],
            ["site", "init", "new", "--name=a", f"--server={text}", "--data=table.csv"],
            [f"--{text}"],
            ["plan", f"--unknown={text}"],
        )
    )
    harmless = arguments == ["site", "certs", "certs", f"--host={text}"]
    return Case(arguments=arguments, expect=EITHER if harmless or len(arguments) < 2 else BAD,
                writes=("certs/*",), several_lines=arguments[0] == "doctor",
                note=f"{arguments!r}"[:100])  # fmt: skip


@kind("harmless: settings")
def harmless(rng: Random, folder: Path) -> Case:
    bases.phantom(folder)
    rows = rng.choice((["--set=train.rounds=2"], ["--set=privacy.epsilon=2"], ["--arm=none"], []))
    arguments = ["plan", "mine.toml", "--no-time", *rows]
    return Case(arguments=arguments, expect=HARMLESS, note=str(rows))
