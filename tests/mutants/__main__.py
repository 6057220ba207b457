"""``make mutants``: break the privacy code in one place at a time and report what no test sees."""

import argparse
import difflib
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutants.child import ROOT, preload, run_tests
from mutants.covering import KEPT, Covering, covering_tests, recorded
from mutants.judging import KILLED, Judge, Verdict, cold, equivalent, named_mutants
from mutants.mutation import Mutant, mutants_of

MODULES = ["fedmed/privacy", "fedmed/training", "fedmed/hospital"]
Rows = list[dict[str, Any]]


def main() -> int:
    """0, or 1 where a named mutant survived."""
    options = _options()
    preload()
    known = recorded()
    chosen = [
        *(named_mutants() if options.named else []),
        *_sample(options.module, options.count, options.seed),
    ]
    out = Path(options.out)
    kept = json.loads(out.read_text())["mutants"] if options.resume and out.exists() else []
    done = {row["key"]: row for row in kept if row["outcome"] in KILLED}
    rows = [done[mutant.key] for mutant in chosen if mutant.key in done]
    left = [mutant for mutant in chosen if mutant.key not in done]

    def follow(mutants: list[Mutant], judge: Callable[..., Verdict]) -> None:
        for mutant in mutants:
            rows.append(_judged(mutant, judge, known, options.seconds))
            print(f"{len(rows)}/{len(chosen)}", end=" ", flush=True)
            _write(out, options, rows)

    def follow_warm(session: Judge) -> None:
        follow([mutant for mutant in left if mutant.outer], session.judge)
        killers = sorted({row["by"] for row in rows if row["outcome"] == "killed" and row["by"]})
        seconds = sum(known[test].seconds for test in killers if test in known)
        _doubt(rows, session.red_without(killers, seconds))

    follow([mutant for mutant in left if not mutant.outer], cold)
    files = sorted({test.partition("::")[0] for test in known})
    with tempfile.TemporaryDirectory() as folder:
        code = run_tests(files, Path(folder), Judge(follow_warm), "-s")
    _write(out, options, rows)
    _report(rows)
    return code or int(any(row["named"] and row["outcome"] not in KILLED for row in rows))


def _judged(
    mutant: Mutant, judge: Callable[..., Verdict], known: dict[str, Covering], most: float
) -> dict[str, Any]:
    place = {"path": mutant.path, "line": mutant.line, "named": bool(mutant.name)}
    same = equivalent().get(mutant.key)
    tests, seconds = covering_tests(mutant.path, mutant.function, known, most)
    verdict = Verdict("no test", "", 0.0)
    if same:
        verdict = Verdict("equivalent", same, 0.0)
    elif tests:
        verdict = judge(mutant, tests, seconds)
    if not (same or verdict.killed):
        print(f"\n{verdict.outcome}, {len(tests)} tests\n{_diff(mutant)}")
    return {"key": mutant.key, **place, **asdict(verdict)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--module", nargs="*", default=MODULES, help="files or folders to break")
    parser.add_argument("--count", type=int, default=200, help="mutants beside the named; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the mutants")
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests for each mutant")
    parser.add_argument("--out", default=str(KEPT / "result.json"), help="every mutant's fate")
    named = argparse.BooleanOptionalAction
    parser.add_argument("--named", action=named, default=True, help="the named mistakes first")
    parser.add_argument("--resume", action="store_true", help="keep what --out has as killed")
    options = parser.parse_args()
    missing = [module for module in options.module if not (ROOT / module).exists()]
    if missing:
        parser.error(f"{missing[0]} is neither a file nor a folder of the project")
    return options


def _sample(modules: list[str], count: int, seed: int) -> list[Mutant]:
    paths = {
        path for m in modules for path in ((ROOT / m).rglob("*.py") if "." not in m else [ROOT / m])
    }
    names = sorted(str(path.relative_to(ROOT)) for path in paths)
    found = [mutant for name in names for mutant in mutants_of(name, (ROOT / name).read_bytes())]
    return random.Random(seed).sample(found, min(count or len(found), len(found)))


def _write(out: Path, options: argparse.Namespace, rows: Rows) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = {"modules": options.module, "count": options.count, "seed": options.seed}
    temporary = out.with_name(out.name + ".part")
    temporary.write_text(json.dumps({**drawn, "mutants": rows}, indent=1))
    temporary.replace(out)


def _doubt(rows: Rows, red: set[str]) -> None:
    """Take back what was killed by a test that fails on the project as it is."""
    for row in rows:
        if row["outcome"] == "killed" and row["by"] in red:
            row["outcome"] = "error"
    for test in sorted(red):
        print(f"red without any mutant: {test}")


def _diff(mutant: Mutant) -> str:
    source = (ROOT / mutant.path).read_bytes()
    before, after = (text.decode().splitlines() for text in (source, mutant.applied(source)))
    lines = difflib.unified_diff(before, after, mutant.path, mutant.key, lineterm="", n=2)
    return "\n".join(lines)


def _report(rows: Rows) -> None:
    print("\n| module | mutants | equivalent | killed | share killed |\n|---|---|---|---|---|")
    for path in [*sorted({row["path"] for row in rows}), ""]:
        of = Counter(_kind(row) for row in rows if path in ("", row["path"]))
        counted = of["killed"] + of["other"]
        share = f"{of['killed'] / counted:.1%}" if counted else "–"
        total = counted + of["equivalent"]
        print(f"| {path or 'all'} | {total} | {of['equivalent']} | {of['killed']} | {share} |")
    for row in rows:
        if _kind(row) == "other":
            print(f"{row['outcome']}: {row['path']}:{row['line']} {row['key']}")


def _kind(row: dict[str, Any]) -> str:
    if row["outcome"] in KILLED:
        return "killed"
    return "equivalent" if row["outcome"] == "equivalent" else "other"


sys.exit(main())
