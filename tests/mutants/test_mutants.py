"""The mutation run itself: it finds each kind of mistake, and tells the dead from survivors."""

from pathlib import Path

import pytest
from mutants import child, judging
from mutants.covering import Covering, covering_tests
from mutants.judging import judge, named_mutants, red_without
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
    path = "fedmed/training.py"
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
        "def fits(spent: float) -> bool:\n    return spent <= 1\n\n\n"
        "def forever() -> int:\n    n = 3\n    while n > 0:\n        n -= 1\n    return n\n"
    )
    (tmp_path / "test_fits.py").write_text(
        "from limits_of_mutants import fits, forever\n\n\ndef test_it():\n"
        "    assert fits(0.5) and not fits(2.0)\n    assert forever() == 0\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\npythonpath = .\n")
    for module in (child, judging):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    functions = ("fits", "forever")
    ran = frozenset(f"limits_of_mutants.py::{function}" for function in functions)
    return {"test_fits.py::test_it": Covering(0.0, ran)}


def test_one_is_killed_one_survives_and_no_file_changes(project: dict[str, Covering]) -> None:
    path = "limits_of_mutants.py"
    source = (child.ROOT / path).read_bytes()
    found = {m.text: m for m in mutants_of(path, source)}
    killed = judge(found["(spent > 1)"], project, 9.0)
    assert (killed.outcome, killed.by) == ("killed", "test_fits.py::test_it")
    survivor = judge(found["(spent < 1)"], project, 9.0)
    assert (survivor.outcome, survivor.killed) == ("survived", False)
    assert judge(found["(spent > 1)"], {}, 9.0).outcome == "no test"
    assert (child.ROOT / path).read_bytes() == source
    assert not list(child.ROOT.glob("__pycache__/limits*")), "nor is a mutant's code kept"
    assert red_without(["test_fits.py::test_it"], 0.0) == set()
    test = child.ROOT / "test_fits.py"
    test.write_text(test.read_text().replace("fits(0.5) and", "").replace("not fits", "fits"))
    assert red_without(["test_fits.py::test_it"], 0.0) == {"test_fits.py::test_it"}


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
