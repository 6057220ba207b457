"""What becomes of a mutant: its tests run in a child that imports the changed module."""

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from mutants.child import ROOT, change_module, forked, run_tests
from mutants.covering import Covering, covering_tests
from mutants.mutation import Mutant, function_at

HERE = Path(__file__).resolve().parent
KILLED: Final = ("killed", "killed by import", "killed by time")


@dataclass(frozen=True)
class Verdict:
    """``outcome``: of ``KILLED``, or "survived", "no test", "error"; ``by``: the first to fail."""

    outcome: str
    by: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether some test went red."""
        return self.outcome in KILLED


class _Chosen:
    """A pytest plugin that runs the given tests alone, in their order, and notes who fails."""

    def __init__(self, tests: Sequence[str], answer: Path) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}
        self._answer = answer

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._rank]
        items.sort(key=lambda item: self._rank[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self._answer.open("a") as file:
                file.write(f"{report.nodeid}\n")


def judge(mutant: Mutant, known: dict[str, Covering], most_seconds: float) -> Verdict:
    """Run the tests of ``mutant`` until one fails or they take three times as long as they did."""
    tests, seconds = covering_tests(mutant.path, mutant.function, known, most_seconds)
    if not tests:
        return Verdict("no test", "", 0.0)
    source = mutant.applied((ROOT / mutant.path).read_bytes())

    def work(folder: Path) -> int:
        change_module(mutant.path, source)
        return _run(tests, folder, "-x")

    start = time.monotonic()
    code, text = forked(work, 30 + 3 * seconds)
    taken = round(time.monotonic() - start, 1)
    by = text.partition("\n")[0]
    if code is None:
        return Verdict("killed by time", by, taken)
    # pytest: 0 all passed, 1 some failed, 2 could not import, 3 and 4 its own errors, 5 no test
    outcomes = {0: "survived", 1: "killed", 2: "killed by import", 5: "no test"}
    return Verdict(outcomes.get(code, "killed" if code < 0 else "error"), by, taken)


def red_without(tests: Sequence[str], seconds: float) -> set[str]:
    """Those of ``tests`` that fail on the project as it is: what they killed is not known."""
    if not tests:
        return set()
    code, text = forked(lambda folder: _run(tests, folder), 60 + 3 * seconds)
    return set(text.splitlines()) if code in (0, 1) else set(tests)


def _run(tests: Sequence[str], folder: Path, *more: str) -> int:
    files = sorted({test.partition("::")[0] for test in tests})
    return run_tests(files, folder, _Chosen(tests, folder / "answer"), *more)


def named_mutants(file: Path = HERE / "named.toml") -> list[Mutant]:
    """The mistakes that reviews have made by hand; raises ``ValueError`` where one fits no more."""
    found: list[Mutant] = []
    for entry in tomllib.loads(file.read_text())["mutant"]:
        source = (ROOT / entry["path"]).read_bytes()
        before = entry["find"].encode()
        if source.count(before) != 1:
            raise ValueError(
                f"named.toml: '{entry['name']}': its text stands {source.count(before)} times in "
                f"{entry['path']}, not once; write what the code says now"
            )
        start = source.index(before)
        line = source[:start].count(b"\n") + 1
        function = function_at(source, line)
        place = (line, start, start + len(before))
        found.append(
            Mutant(entry["path"], function, *place, entry["find"], entry["put"], name=entry["name"])
        )
    return found


def equivalent(file: Path = HERE / "equivalent.toml") -> dict[str, str]:
    """Keys of mutants that change nothing a user could see, and why."""
    return {e["key"]: e["why"] for e in tomllib.loads(file.read_text()).get("equivalent", [])}
