"""Which tests run which function, and how long they take: recorded once, kept until they change."""

import hashlib
import inspect
import json
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mutants.child import ROOT, forked, run_tests

KEPT = ROOT / ".mutants"
_MOST_SECONDS = 1200.0  # of one test file, while it is watched
# Tests that start processes or a browser see no mutant; others ask nothing of the privacy code.
_FOLDERS = "base e2e evaluation fuzz models mutants project report site data/(?!test_released)"
_FILES = """docs guard_process node benchmark memory superlink containers histogram_simulation
gap_simulation phantom_effects trackers"""
_LEFT_OUT = re.compile(
    f"tests/({'|'.join(_FOLDERS.split())})|test_({'|'.join(_FILES.split())})[.]py"
)


@dataclass(frozen=True)
class Covering:
    """Of one test: its seconds, and the functions that it ran ("file::qualified name")."""

    seconds: float
    ran: frozenset[str]


class _Watch:
    """A pytest plugin that notes which functions of the project each test calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.ran: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.passed: set[str] = set()
        self._now: set[tuple[str, str]] = set()
        self._ours: dict[str, str] = {}

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        name = self._ours.get(file)
        if name is None:
            name = file.removeprefix(f"{ROOT}/") if file.startswith(f"{ROOT}/") else ""
            name = self._ours[file] = "" if name.startswith((".", "tests/")) else name
        # Bodies of classes and modules run when they are imported, by whichever test comes first.
        if name and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            self._now.add((name, frame.f_code.co_qualname))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        forget()
        self._now = self.ran[item.nodeid]
        before = time.process_time()  # by the clock a busy machine would leave most tests unasked
        threading.settrace(self._called)
        sys.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            self.seconds[item.nodeid] += time.process_time() - before

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: Any
    ) -> Generator[None, object, object]:
        before = self._now
        if fixturedef.scope != "function":  # what it runs, it runs for all tests of the file
            self._now = self.ran[request.node.nodeid.partition("::")[0]]
        try:
            return (yield)
        finally:
            self._now = before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def to_json(self) -> dict[str, list[Any]]:
        """Seconds and functions of each test that passed; of the file, under its own name."""
        kept = {test for test in self.ran if test in self.passed or "::" not in test}
        return {test: [self.seconds[test], sorted(map(_name, self.ran[test]))] for test in kept}


def _name(function: tuple[str, str]) -> str:
    """ "file::name" without the comprehensions and lambdas in the function."""
    name = re.sub(r"\.?<(?!locals).*", "", function[1].replace(".<locals>", ""))
    return f"{function[0]}::{name}"


def forget() -> None:
    """Empty the caches: a test whose answer another has computed would seem not to run it."""
    for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == "fedmed"]:
        for value in list(vars(module).values()):
            clear = getattr(value, "cache_clear", None)
            if callable(clear):
                clear()


def recorded(kept: Path = KEPT) -> dict[str, Covering]:
    """What covers what; test files that are new or have changed are run and watched first."""
    path = kept / "covering.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    now: dict[str, Any] = {}
    files = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "tests").rglob("test_*.py"))]
    for file in (f for f in files if not _LEFT_OUT.search(f)):
        digest = hashlib.sha256((ROOT / file).read_bytes()).hexdigest()
        now[file] = before.get(file)
        if not now[file] or now[file]["digest"] != digest:
            code, text = forked(lambda folder, file=file: _watched(file, folder), _MOST_SECONDS)  # type: ignore[misc]  # mypy has no default of a lambda
            tests = json.loads(text or "{}")
            print(f"{file}: {len(tests)} tests watched, exit code {code}", flush=True)
            now[file] = {"digest": digest, "tests": tests}
            kept.mkdir(exist_ok=True)
            path.write_text(json.dumps({**before, **now}))
    path.write_text(json.dumps(now))
    return {
        test: Covering(seconds, frozenset(ran))
        for entry in now.values()
        for test, (seconds, ran) in entry["tests"].items()
    }


def _watched(file: str, folder: Path) -> int:
    watch = _Watch()
    code = run_tests([file], folder, watch)
    (folder / "answer").write_text(json.dumps(watch.to_json()))
    return code


def covering_tests(
    path: str, function: str, known: dict[str, Covering], most_seconds: float
) -> tuple[list[str], float]:
    """The tests that run a function, the quick and narrow first, and their seconds.

    Where none does (code of a module or class, run by its import; a new function): the tests that
    run anything else of the class, or of the file. Those beyond ``most_seconds`` are left out.
    """
    exact, inner = f"{path}::{function}", f"{path}::{function}."
    for matches in (
        lambda name: name == exact and bool(function),
        lambda name: name.startswith(inner) and bool(function),
        lambda name: name.startswith(f"{path}::"),
    ):
        hit = {test for test, covering in known.items() if any(map(matches, covering.ran))}
        tests = [t for t in known if "::" in t and (t in hit or t.partition("::")[0] in hit)]
        if tests:
            break
    tests.sort(key=lambda test: (known[test].seconds + 0.05) * len(known[test].ran))
    chosen: list[str] = []
    total = 0.0
    for test in tests:
        if total + known[test].seconds <= most_seconds or not chosen:
            chosen.append(test)
            total += known[test].seconds
    return chosen, total
