"""Results on the disk: a comparison's files, ledgers and logs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from fuzz import bases, damage, formats
from fuzz.cases import BAD, EITHER, HARMLESS, Case, kind

MADE = ("runs/summary.csv", "runs/comparison.json", "runs/report.html", "runs/figures/*")


def reading(rng: Random) -> list[str]:
    """A command that reads a comparison."""
    return rng.choice(
        (
            ["report", "runs"],
            ["report", "runs"],
            ["evaluate", "runs", "--resamples=50"],
            ["evaluate", "runs", "--resamples=50", "--json"],
        )
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(rng: Random, value: Any) -> tuple[Any, str]:
    """The value with something else at one place, and where."""
    told = []
    for _ in range(rng.choice((1, 1, 2, 5))):
        path = rng.choice(list(places(value)))
        odd = damage.value(rng)
        told.append(f"{'.'.join(map(str, path))} = {odd!r}"[:70])
        if not path:
            return odd, told[-1]
        target = value
        for key in path[:-1]:
            target = target[key]
        if rng.random() < 0.15 and isinstance(target, dict):
            del target[path[-1]]
        else:
            target[path[-1]] = odd
    return value, "; ".join(told)


@kind("results: values", 10)
def values(rng: Random, folder: Path) -> Case:
    runs = bases.comparison(folder)
    file = rng.choice(
        ["experiment.json", "comparison.json"]
        + ["none/seed-0/result.json", "dp-sgd/seed-0/result.json"] * 2
        + ["none/seed-0/privacy.json", "dp-sgd/seed-0/privacy.json"] * 2
        + ["none/seed-0/config.json", "none/seed-0/history.jsonl"]
    )
    path = runs / file
    if file.endswith("jsonl"):
        lines = path.read_text().splitlines()
        entry, note = changed(rng, json.loads(lines[1]))
        lines[1] = json.dumps(entry)
        text = "\n".join(lines) + "\n"
    else:
        value, note = changed(rng, json.loads(path.read_text()))
        text = json.dumps(value)
    path.write_text(text)
    return Case(arguments=reading(rng), writes=MADE, note=f"{file}: {note}")


@kind("results: damaged", 4)
def damaged(rng: Random, folder: Path) -> Case:
    runs = bases.comparison(folder)
    files = sorted(path for path in runs.rglob("*") if path.is_file())
    path = rng.choice(files)
    how = rng.choice(
        ("flip", "flip", "nesting", "integer", "encoding", "placed", "placed", "empty")
    )
    if how == "flip":
        data, how = damage.cut_or_flip(rng, path.read_bytes())
        path.write_bytes(data)
    elif how == "nesting":
        depth = rng.choice((100, 990, 5000, 200_000))
        path.write_bytes(b'{"a":' * depth + b"1" + b"}" * depth)
    elif how == "integer":
        path.write_text('{"round": ' + "9" * rng.choice((400, 4000, 5000, 1_000_000)) + "}")
    elif how == "encoding":
        data, how = damage.encoded(rng, path.read_text(errors="replace"))
        path.write_bytes(data)
    elif how == "placed":
        _, how = damage.placed(
            rng, path, tuple(p for p in damage.PLACES if p not in ("through", "long"))
        )
    else:
        path.write_bytes(b"")
    return Case(arguments=reading(rng), writes=MADE, note=f"{path.relative_to(runs)}: {how}")


@kind("results: large", heavy=True)
def large(rng: Random, folder: Path) -> Case:
    runs = bases.comparison(folder)
    file = rng.choice(("experiment.json", "none/seed-0/result.json", "none/seed-0/history.jsonl"))
    path = runs / file
    with path.open("w") as out:
        if file.endswith("jsonl"):
            for number in range(1_500_000):
                out.write(f'{{"round": {number}, "auroc": 0.5}}\n')
        else:
            out.write('{"a": [' + "1," * (100 << 20) + "1]}")
    return Case(arguments=reading(rng), writes=MADE, note=file)


@kind("results: samples")
def samples(rng: Random, folder: Path) -> Case:
    runs = bases.comparison(folder)
    options: dict[str, Any] = {
        "clean": rng.choice((np.zeros((0, 3, 3)), np.array(1), np.zeros((2, 0, 0)),
                             np.zeros((2, 1, 1)), np.full((2, 4, 4), np.nan), np.array([["a"]]),
                             np.zeros((2, 3, 3), complex), np.zeros((2, 3, 3), "M8[s]"),
                             np.array([[["a"]]]))),
        "label": rng.choice((np.array(1), np.array(["a"]), np.zeros(0), np.full(3, np.nan))),
        f"noisy:{damage.TEXTS[0]}": np.zeros((2, 4, 4)),
    }  # fmt: skip
    np.savez(runs / "samples.npz", **{rng.choice(list(options)): np.zeros((2, 4, 4)), **options})
    return Case(arguments=["report", "runs"], writes=MADE, note=str(options["clean"].shape))


@kind("results: predictions", 2)
def predictions(rng: Random, folder: Path) -> Case:
    from fuzz.kinds_tables import odd_column

    runs = bases.comparison(folder)
    path = runs / rng.choice(("none", "dp-sgd")) / "seed-0" / "predictions.parquet"
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, name, odd_column(rng, len(table))), path)
    return Case(arguments=reading(rng), writes=MADE, note=name)


@kind("results: folders")
def folders(rng: Random, folder: Path) -> Case:
    runs = bases.comparison(folder)
    odd = rng.choice((*damage.TEXTS, "\udcff\udcfe", "a" * 250))
    odd = odd.replace("/", "_").replace("\0", "_").replace("\ud800", "_")[:100] or "_"
    if odd in (".", "..", "..."):
        odd = "dots"
    how = rng.choice(("arm", "seed", "file", "link"))
    if how == "arm":
        shutil.move(runs / "dp-sgd", runs / odd)
    elif how == "seed":
        name = rng.choice(
            ("seed-" + "9" * 200, "seed-²", "seed-٣", "seed--1", "seed-0x", f"seed-{odd}")
        )
        shutil.move(runs / "dp-sgd" / "seed-0", runs / "dp-sgd" / name)
    elif how == "file":
        shutil.rmtree(runs / "dp-sgd" / "seed-0")
        (runs / "dp-sgd" / "seed-0").touch()
    else:
        (runs / odd).mkdir()
        (runs / odd / "seed-0").symlink_to(rng.choice(("..", "seed-0", "/proc/self/fd", "/dev")))
    return Case(arguments=reading(rng), writes=MADE, note=f"{how}: {odd[:30]!r}")


@kind("results: gone on with", 3)
def gone_on(rng: Random, folder: Path) -> Case:
    """``fedmed run`` into a folder with a finished run, of which one file is changed."""
    bases.phantom(folder)
    runs = folder / "runs"
    run = runs / "none" / "seed-0"
    run.mkdir(parents=True)
    value: dict[str, Any] = {
        "name": "mine", "arms": ["none"], "seeds": [0], "runs": [["none", 0]], "base": {},
    }  # fmt: skip
    (runs / "experiment.json").write_text(json.dumps(value))
    file, content = rng.choice(
        (
            ("experiment.json", changed(rng, value)[0]),
            ("experiment.json", damage.value(rng)),
            ("none/seed-0/config.json", damage.value(rng)),
            ("none/seed-0/config.json", {"config": damage.value(rng), "run": damage.value(rng)}),
        )
    )
    (runs / file).write_text(json.dumps(content))
    return Case(arguments=["run", "mine.toml", "-q", "--out=runs", "--arm=none"], expect=BAD,
                names=("runs",), note=f"{file}: {content!r}"[:100])  # fmt: skip


@kind("results: harmless")
def harmless(rng: Random, folder: Path) -> Case:
    bases.comparison(folder)
    return Case(arguments=reading(rng), writes=MADE, expect=HARMLESS)


def looking(rng: Random) -> list[str]:
    """A command that reads ledgers."""
    return ["ledger", rng.choice(("show", "verify", "export")), "ledgers"]


@kind("ledger: damaged", 4)
def ledger_damaged(rng: Random, folder: Path) -> Case:
    found = bases.ledgers(folder)
    path = rng.choice(sorted(path for path in found.iterdir() if path.is_file()))
    data, how = damage.cut_or_flip(rng, path.read_bytes())
    path.write_bytes(data)
    return Case(arguments=looking(rng), codes=(1,), note=f"{path.name}: {how}")


@kind("ledger: rows", 4)
def ledger_rows(rng: Random, folder: Path) -> Case:
    found = bases.ledgers(folder)
    odd: Any = rng.choice(
        (damage.text(rng).replace("\ud800", "?"), "[" * 5000,
         '{"rdp": ' + "[" * 200 + "]" * 200 + "}",
         2**63 - 1, -1, 1e300, b"\xff\0", None, float("inf"), json.dumps(damage.value(rng)),
         "9" * 5000, '{"rdp": [1e400]}')
    )  # fmt: skip
    column = rng.choice(("kind", "time", "account", "run", "round", "steps", "entry", "body",
                         "spent", "previous", "hash"))  # fmt: skip
    how = rng.choice(("update", "update", "insert", "drop", "view", "version", "blob"))
    with contextlib.closing(sqlite3.connect(found / "hospital-1.sqlite")) as db:
        for trigger in ("no_update", "no_delete"):
            db.execute(f"drop trigger if exists {trigger}")
        db.execute("pragma ignore_check_constraints = on")
        with contextlib.suppress(sqlite3.Error, UnicodeError):
            if how == "update":
                db.execute(
                    f"update ledger set {column} = ? where id = ?", (odd, rng.randrange(1, 9))
                )
            elif how == "insert":
                db.execute(
                    "insert into ledger select id + 8, kind, time, account, run, round, model, "
                    "steps, entry, body, spent, previous, hash from ledger where id = 3"
                )
            elif how == "drop":
                db.execute("drop table ledger")
            elif how == "view":
                db.execute("alter table ledger rename to other")
                db.execute(
                    "create view ledger as with recursive c(x) as (select 1 union all select x + 1 "
                    "from c) select x from c"
                )
            elif how == "version":
                db.execute(f"pragma user_version = {rng.choice((0, 2, 99, -1))}")
            else:
                db.execute("update ledger set body = zeroblob(900000000) where id = 1")
        db.commit()
    return Case(arguments=looking(rng), codes=(1,), note=f"{how}: {column} = {odd!r}"[:90])


@kind("ledger: log", 2)
def ledger_log(rng: Random, folder: Path) -> Case:
    found = bases.ledgers(folder)
    log = found / "hospital-1.audit.jsonl"
    lines = log.read_text().splitlines()
    how = rng.choice(("value", "nesting", "long", "nul", "twice", "order", "gone"))
    at = rng.randrange(len(lines))
    if how == "value":
        lines[at] = json.dumps(changed(rng, json.loads(lines[at]))[0])
    elif how == "nesting":
        lines[at] = "[" * rng.choice((900, 100_000))
    elif how == "long":
        lines[at] = '{"rows": ' + "9" * 5000 + "}"
    elif how == "nul":
        lines[at] = "\0" * 10_000
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "order":
        lines.reverse()
    log.write_text("\n".join([*lines, ""]))
    if how == "gone":
        log.unlink()
    return Case(arguments=looking(rng), codes=(1,), note=f"{how} in line {at + 1}")


@kind("ledger: other files")
def ledger_other(rng: Random, folder: Path) -> Case:
    found = bases.ledgers(folder)
    path = rng.choice(sorted(path for path in found.iterdir() if path.is_file()))
    path, how = damage.placed(rng, path)
    arguments = ["ledger", rng.choice(("show", "verify", "export"))]
    arguments.append(str(path.relative_to(folder)) if rng.random() < 0.5 else "ledgers")
    return Case(arguments=arguments, codes=(1,), note=f"{path.name}: {how}")


@kind("ledger: anchor")
def anchor(rng: Random, folder: Path) -> Case:
    bases.ledgers(folder)
    text = rng.choice((*damage.TEXTS, "8:x", f"{'9' * 5000}:a", "²:a", "-1:a", ":", "8:"))
    text = text.replace("\0", "").replace("\ud800", "\udcff")
    return Case(arguments=["ledger", "verify", "ledgers", f"--anchor={text}"], codes=(1,),
                expect=EITHER, note=repr(text)[:50])  # fmt: skip


@kind("ledger: harmless")
def ledger_harmless(rng: Random, folder: Path) -> Case:
    bases.ledgers(folder)
    return Case(arguments=looking(rng), expect=HARMLESS)


_ = (BAD, EITHER, formats)
