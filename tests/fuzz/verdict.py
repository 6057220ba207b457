"""Whether a command ended as it must: what is wrong, one line for each fault."""

from __future__ import annotations

import fnmatch
import json
import re
import unicodedata
from pathlib import Path

from fuzz.cases import BAD, HARMLESS, Case
from fuzz.running import Outcome

_KEPT = ("home/cache", "home/pseudonym.key", "home/released", "home/flwr")
_HALF = re.compile(r"(^|/)\.[^/]*\.[^/]{6,}$|\.tmp$|\.part$|(^|/)\.(assembling|pseudonym)\.")


def faults(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    """What is wrong; empty where nothing is."""
    if outcome.stopped == "time":
        return [f"hang: {outcome.seconds:.0f} s"]
    if outcome.stopped == "memory":
        return [f"memory: {outcome.peak / 2**30:.1f} GiB"]
    if outcome.code is None or outcome.code < 0:
        return [f"crash: signal {-(outcome.code or 0)}"]
    if "Traceback (most recent call last)" in outcome.err + outcome.out:
        return [f"traceback: {outcome.err.strip().splitlines()[-1][:300]}"]
    found = [*_code(case, outcome), *_left(case, outcome, folder)]
    if "\ufffd" not in outcome.err and _unsafe(outcome.err + outcome.out):
        found.append(f"terminal: {_unsafe(outcome.err + outcome.out)} is printed as it is")
    return found


def _code(case: Case, outcome: Outcome) -> list[str]:
    allowed = {BAD: {2}, HARMLESS: {0}}.get(case.expect, {0, 2}) | set(case.codes)
    if outcome.code not in allowed:
        what = (outcome.err.strip() or outcome.out.strip())[-300:]
        return [f"exit code {outcome.code}, not {sorted(allowed)}: {what!r}"]
    if outcome.code == 0 or case.several_lines:
        return []
    lines = outcome.err.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return [f"message: not one line with 'error: ' but {outcome.err[:400]!r}"]
    line = lines[0]
    if len(line) > 2000:
        return [f"message: of {len(line)} characters"]
    if case.names and not any(name in line for name in case.names):
        return [f"message: names none of {', '.join(case.names)}: {line[:300]}"]
    return []


def _left(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    found = []
    for name, state in outcome.left.items():
        if name in ("out", "err") or state == "folder":
            continue
        inside = name.split("/", 1)[-1]
        if _HALF.search(name):
            found.append(f"half-written: {name}")
        elif name.startswith("tmp/"):
            found.append(f"left behind: {name}")
        elif name.startswith(_KEPT) or any(fnmatch.fnmatch(inside, w) for w in case.writes):
            continue
        elif outcome.code != 0:
            found.append(f"left behind after exit {outcome.code}: {name}")
    for name in outcome.left:
        path = folder / name
        if name.startswith("work/") and name.endswith(".json") and path.is_file():
            try:
                json.loads(path.read_bytes(), parse_constant=_no)
            except (ValueError, RecursionError):
                found.append(f"half-written: {name} is no JSON")
    return found


def _no(name: str) -> None:
    raise ValueError(name)


def _unsafe(text: str) -> str:
    """The first character that a terminal may obey, as an escape; empty where there is none."""
    for letter in text:
        if letter in "\n\t":
            continue
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or (
            unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI",
                                                  "FSI", "PDI")
        ):  # fmt: skip
            return ascii(letter)
    return ""
