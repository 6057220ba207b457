"""The mutation run itself: it finds each kind of mistake, and tells the dead from survivors."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mutants import child, judging
from mutants.covering import Covering, covering_tests
from mutants.judging import Judge, cold, named_mutants
from mutants.mutation import mutants_of
from support import goes_red

SOURCE = b'''"""A docstring with 1 < 2."""
from math import inf

LIMIT: int = 3


def check(epsilon: float, *, limit: float = 2.5) -> bool:
    """Whether 1 is under the limit."""
    if epsilon < 0 or not limit:
        raise ValueError(f"{epsilon + 1} is not right")
    log.info("checked %s", 7)
    total = 0.0
    total += max(epsilon, 0.5)
    return total <= limit
'''


def changes(source: bytes = SOURCE) -> set[str]:
    return {f"{m.before} => {m.text}" for m in mutants_of("m.py", source)}


def test_every_kind_of_mistake_is_made_and_texts_are_left_alone() -> None:
    assert changes() == {
        "3 => 4",
        "2.5 => 5.0",
        "epsilon < 0 or not limit => (epsilon < 0 and (not limit))",
        "epsilon < 0 => (epsilon <= 0)",
        "epsilon < 0 => (epsilon >= 0)",
        "0 => 1",
        "not limit => (limit)",
        "raise ValueError(f'{epsilon + 1} is not right') => pass",
        "0.0 => 1.0",
        "total += max(epsilon, 0.5) => pass",
        "max(epsilon, 0.5) => min(epsilon, 0.5)",
        "0.5 => 1.0",
        "return total <= limit => return not (total <= limit)",
        "total <= limit => (total < limit)",
        "total <= limit => (total > limit)",
    }


def test_each_mutant_compiles_differs_and_has_a_key_of_its_own() -> None:
    path = "fedmed/training/local.py"
    source = (child.ROOT / path).read_bytes()
    found = mutants_of(path, source)
    assert len(found) > 60
    assert len({mutant.key for mutant in found}) == len(found)
    for mutant in found:
        compile(mutant.applied(source), path, "exec")
        assert mutant.applied(source) != source


def test_a_key_does_not_move_with_its_line() -> None:
    def check(lower: bytes) -> None:
        keys = [[m.key for m in mutants_of("m.py", source)] for source in (SOURCE, lower)]
        assert keys[0] == keys[1]

    check(b"\n\n" + SOURCE)
    goes_red(check, SOURCE.replace(b"def check", b"def other"))


def test_the_named_mistakes_still_fit_the_code() -> None:
    found = named_mutants()
    assert len({mutant.name for mutant in found}) == len(found) >= 20
    for mutant in found:
        source = mutant.applied((child.ROOT / mutant.path).read_bytes())
        compile(source, mutant.path, "exec")


def test_narrow_quick_tests_come_first_and_long_ones_are_left_out() -> None:
    known = {
        "a.py::wide": Covering(1.0, frozenset({"m.py::f", "m.py::g", "m.py::C.h"})),
        "a.py::quick": Covering(0.1, frozenset({"m.py::f"})),
        "a.py::long": Covering(50.0, frozenset({"m.py::f"})),
        "b.py": Covering(1.0, frozenset({"m.py::k"})),
        "b.py::one": Covering(0.2, frozenset({"n.py::other"})),
    }

    def tests(function: str) -> list[str]:
        return covering_tests("m.py", function, known, 10.0)[0]

    assert tests("f") == ["a.py::quick", "a.py::wide"]
    assert tests("g") == ["a.py::wide"]
    assert tests("C") == ["a.py::wide"], "a class's own lines are run by those who use it"
    assert tests("k") == ["b.py::one"], "a fixture of the file ran it"
    assert set(tests("new")) == {"a.py::quick", "a.py::wide", "b.py::one"}
    assert covering_tests("absent.py", "f", known, 10.0) == ([], 0.0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Covering]:
    """A project of one module, and one test that looks at half of it."""
    (tmp_path / "limits_of_mutants.py").write_text(
        "MOST = 1\n\n\ndef fits(spent: float) -> bool:\n    return spent <= MOST\n"
    )
    (tmp_path / "test_fits.py").write_text(
        "from limits_of_mutants import fits\n\n\ndef test_it():\n"
        "    assert fits(0.5) and not fits(2.5)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\npythonpath = .\n")
    for module in (child, judging):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(judging, "forget", lambda: None)  # this process's caches are in use
    return {"test_fits.py::test_it": Covering(0.0, frozenset({"limits_of_mutants.py::fits"}))}


PATH = "limits_of_mutants.py"
TESTS = ["test_fits.py::test_it"]


def in_a_session(work: Callable[[Judge], object], tmp_path: Path) -> str:
    """What ``work`` returns in a session of the project; in a child, as that imports its tests."""

    def session(folder: Path) -> int:
        note = folder / "answer"
        judge = Judge(lambda session: note.write_text(repr(work(session))))
        return child.run_tests(["test_fits.py"], folder, judge)

    code, text = child.forked(session, 60)
    assert code == 0
    return text


def test_one_is_killed_one_survives_and_no_file_changes(
    project: dict[str, Covering], tmp_path: Path
) -> None:
    source = (tmp_path / PATH).read_bytes()
    found = {m.text: m for m in mutants_of(PATH, source)}

    def both(session: Judge) -> list[tuple[str, str]]:
        verdicts = [
            session.judge(found[text], TESTS, 9.0) for text in ("(spent > MOST)", "(spent < MOST)")
        ]
        return [(verdict.outcome, verdict.by) for verdict in verdicts]

    assert in_a_session(both, tmp_path) == repr([("killed", TESTS[0]), ("survived", "")])
    assert cold(found["0"], TESTS, 9.0).outcome == "killed", "1 => 0: what an import does"
    assert cold(found["(spent < MOST)"], TESTS, 9.0).outcome == "survived"
    assert (tmp_path / PATH).read_bytes() == source


def test_a_kill_by_a_test_that_is_red_anyway_is_doubted(
    project: dict[str, Covering], tmp_path: Path
) -> None:
    def red(session: Judge) -> set[str]:
        return session.red_without(TESTS, 9.0)

    assert in_a_session(red, tmp_path) == repr(set())
    test = tmp_path / "test_fits.py"
    test.write_text(test.read_text().replace("not fits", "fits"))
    assert in_a_session(red, tmp_path) == repr(set(TESTS))


def test_one_that_never_ends_is_stopped() -> None:
    def never(folder: Path) -> int:
        while True:
            pass

    assert child.forked(never, 0.2) == (None, "")


def test_what_a_child_leaves_and_how_it_died_is_told() -> None:
    def leaves(folder: Path) -> int:
        (folder / "answer").write_text("a")
        return 7

    def dies(folder: Path) -> int:
        raise MemoryError

    assert child.forked(leaves, 20) == (7, "a")
    assert child.forked(dies, 20)[0] == 3
