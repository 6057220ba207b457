"""The answer on planted comparisons: what is true of each is said, and nothing beyond it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support import goes_red
from support.answer_alone import TOGETHER
from support.answer_cases import Case
from support.answer_costs import COSTS
from support.answer_gaps import GAPS
from support.answer_places import PLACES
from support.planted import plant

from fedmed.privacy.statement import meaning
from fedmed.report import places, ranking
from fedmed.report.answer import answer, cautions, unprotected
from fedmed.report.arms import Arm, summarise
from fedmed.report.evidence import Difference, Estimate
from fedmed.report.load import load

CASES = [*COSTS, *GAPS, *TOGETHER, *PLACES]
NAMES = {case.name: case for case in CASES}
BEST = re.compile(r"(\S+)(?: \([^)]*\))? keeps the most")


def text(arms: Sequence[Arm]) -> str:
    """All that the report says on top."""
    told = " ".join([*answer(arms), unprotected(arms), *cautions(arms)])
    return told.replace("\N{NO-BREAK SPACE}", " ")


def check(case: Case, folder: Path) -> None:
    """What is said of a case is what it says."""
    planted = plant(folder, case.arms, baseline=case.baseline, places=case.places)
    arms = summarise(load(planted))
    told = text(arms)
    assert BEST.findall(told) == list(case.best)
    for part in case.must:
        assert part in told, f"{part!r} is not in: {told}"
    for part in case.never:
        assert part not in told, f"{part!r} is in: {told}"
    for arm in (arm for arm in arms if arm.weak):
        assert arm.name in unprotected(arms)
        assert f"{arm.name} (" not in " ".join(answer(arms))


def test_there_are_forty_cases_and_no_name_twice() -> None:
    assert len(NAMES) == len(CASES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_a_planted_comparison_is_true(name: str, tmp_path: Path) -> None:
    check(NAMES[name], tmp_path)


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        ("pixel noise at 2,048 never wins", (meaning, "MOST", 1e9)),
        ("a patient with six films is beyond it, though one image is not", (Arm, "films", None)),
        ("one arm of each unit is not ranked across units", (ranking, "_UNITS", ("patient",))),
        ("about one epsilon is one level, and other trust is told", (ranking, "_ALIKE", 1.0)),
        ("a larger epsilon does not beat a smaller one", (ranking, "_ALIKE", 100.0)),
        (
            "the luck of training takes the best away",
            (Estimate, "outer", property(lambda self: (self.low, self.high))),
        ),
        (
            "chance is judged with the luck of training",
            (Estimate, "outer", property(lambda self: (self.low, self.high))),
        ),
        (
            "what only one test of many shows is not shown",
            (Difference, "distinguishable", property(lambda self: self.change.excludes_zero)),
        ),
        (
            "a loss that one test of three shows is not shown",
            (Difference, "distinguishable", property(lambda self: self.change.excludes_zero)),
        ),
        (
            "where local and central noise are at chance no loss is told",
            (Arm, "blind", property(lambda self: False)),
        ),
        (
            "of several epsilons the smallest is told, and a range of the others",
            (places, "_WHOLE", 3),
        ),
        ("one training each is said of the places too", (places, "_trained", lambda *told: "")),
        (
            "what a model at chance finds is not told",
            (Arm, "blind", property(lambda self: False)),
        ),
        (
            "six equal arms have no best and no worst",
            (ranking.Level, "best", property(lambda self: self.arms[0])),
        ),
    ],
)
def test_a_report_that_forgets_it_is_noticed(
    name: str, sabotage: tuple[object, str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(NAMES[name], tmp_path / "as-it-is")
    monkeypatch.setattr(*sabotage)
    goes_red(check, NAMES[name], tmp_path / "sabotaged")


def test_no_order_of_the_arms_changes_who_is_best(tmp_path: Path) -> None:
    case = NAMES["an arm above all others is best"]
    turned = replace(case, arms=[case.arms[0], *reversed(case.arms[1:])])
    check(replace(turned, must=()), tmp_path)
