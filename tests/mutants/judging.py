"""What becomes of a mutant: the tests that reach it run in a process that has its change."""

import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from mutants.child import (
    ROOT,
    Functions,
    change_function,
    change_module,
    forked,
    functions_here,
    run_tests,
)
from mutants.covering import forget
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


class Judge:
    """A pytest plugin: a session that has collected all tests, and forks for each mutant.

    A child changes one function and runs the tests that reach it. What is not in a function was run
    when its module was imported: :func:`cold` is for that.
    """

    def __init__(self, work: Callable[["Judge"], object]) -> None:
        self._work = work
        self._items: dict[str, pytest.Item] = {}
        self._failed: list[str] = []
        self._here: Functions = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Do the work in the place of running every test once."""
        if session.testsfailed:
            raise session.Interrupted("a test file could not be imported")
        self._items = {item.nodeid: item for item in session.items}
        self._here = functions_here()
        forget()
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note who fails."""
        if report.failed:
            self._failed.append(report.nodeid)

    def run(self, tests: Sequence[str], *, to_the_end: bool = False) -> list[str]:
        """The tests that fail; after the first no more are run."""
        items = [self._items[test] for test in tests if test in self._items]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed and not to_the_end:
                break
        return self._failed

    def judge(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> Verdict:
        """What becomes of a mutant whose ``tests`` take ``seconds``."""
        source = mutant.applied((ROOT / mutant.path).read_bytes())

        def work(folder: Path) -> int:
            if not change_function(mutant.path, mutant.outer, source, self._here):
                return 4
            (folder / "answer").write_text("\n".join(self.run(tests)))
            return int(bool(self._failed))

        return _verdict(work, seconds)

    def red_without(self, tests: Sequence[str], seconds: float) -> set[str]:
        """Those of ``tests`` that fail on the project as it is: what they killed is not known."""

        def work(folder: Path) -> int:
            (folder / "answer").write_text("\n".join(self.run(tests, to_the_end=True)))
            return 0

        code, text = forked(work, 60 + 3 * seconds)
        return set(text.splitlines()) if code == 0 else set(tests)


def cold(mutant: Mutant, tests: Sequence[str], seconds: float) -> Verdict:
    """The same for what a module does when it is imported: in a session of its own."""
    source = mutant.applied((ROOT / mutant.path).read_bytes())

    def work(folder: Path) -> int:
        change_module(mutant.path, source)
        files = sorted({test.partition("::")[0] for test in tests})

        def note(session: Judge) -> None:
            (folder / "answer").write_text("\n".join(session.run(tests)))

        return run_tests(files, folder, Judge(note))

    return _verdict(work, seconds)


def _verdict(work: Callable[[Path], int], seconds: float) -> Verdict:
    start = time.monotonic()
    code, text = forked(work, 20 + 3 * seconds)
    taken = round(time.monotonic() - start, 1)
    by = text.partition("\n")[0]
    if code is None:
        return Verdict("killed by time", by, taken)
    # pytest: 0 all passed, 1 some failed, 2 could not import, 3 and 4 its own errors, 5 no test
    outcomes = {0: "survived", 1: "killed", 2: "killed by import", 5: "no test"}
    return Verdict(outcomes.get(code, "killed" if code < 0 else "error"), by, taken)


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
        place = (*function_at(source, line), line, start, start + len(before))
        found.append(Mutant(entry["path"], *place, entry["find"], entry["put"], name=entry["name"]))
    return found


def equivalent(file: Path = HERE / "equivalent.toml") -> dict[str, str]:
    """Keys of mutants that change nothing a user could see, and why."""
    return {e["key"]: e["why"] for e in tomllib.loads(file.read_text()).get("equivalent", [])}
