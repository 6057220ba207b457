"""Three sentences on top: values that are the table's, and nothing ranked."""

from pathlib import Path
from typing import Any

import pytest
from support import goes_red
from support.answer_alone import TOGETHER
from support.answer_cases import NONE
from support.answer_places import placed
from support.planted import Planted, plant

from fedmed.report import ranking
from fedmed.report.arms import Arm, summarise
from fedmed.report.load import load
from fedmed.report.short import in_short

SMALL: dict[str, Any] = {"local": (0.6, 0.55, 0.65), "distributed": (0.7, 0.65, 0.75)}


def told(folder: Path, *arms: Planted) -> str:
    return " ".join(in_short(summarise(load(plant(folder, [NONE, *arms])))))


def test_each_epsilon_has_its_lowest_and_its_highest(tmp_path: Path) -> None:
    text = told(tmp_path, *placed(8.0), *placed(1.0, **SMALL, central=(0.75, 0.7, 0.8)))
    assert (
        "With each patient protected they reach 0.60 to 0.75 at ε = 1 and 0.80 at ε = 8: " in text
    )
    assert text.startswith("Without privacy the hospitals together reach an AUROC of 0.85 (")
    assert "keeps the most" not in text
    assert "best" not in text


def test_what_is_at_chance_is_called_guessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = (0.52, 0.47, 0.57)

    def check(folder: Path) -> None:
        folder.mkdir()
        blind = placed(1.0, local=chance, distributed=chance, central=chance)
        assert "reach no more than guessing at ε = 1 and" in told(folder, *blind, *placed(8.0))
        some = placed(1.0, local=chance, distributed=chance)
        assert "reach 0.80 or guessing at ε = 1." in told(folder / "some", *some)

    check(tmp_path / "a")
    monkeypatch.setattr(Arm, "blind", property(lambda self: False))
    goes_red(check, tmp_path / "b")


def test_units_are_not_mixed_and_weak_arms_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = placed(200.0, local=(0.99, 0.98, 1.0), distributed=(0.99, 0.98, 1.0))

    def check(folder: Path) -> None:
        folder.mkdir()
        text = told(
            folder, *placed(8.0), *placed(8.0, unit="image", central=(0.88, 0.8, 0.9)), *weak
        )
        assert "With each patient protected they reach 0.80 at ε = 8." in text
        assert "0.99" not in text
        assert "0.88" not in text

    check(tmp_path / "a")
    monkeypatch.setattr(ranking, "levels", lambda arms: [ranking.Level(unit="patient", arms=arms)])
    goes_red(check, tmp_path / "b")


def test_few_arms_need_no_summary(tmp_path: Path) -> None:
    assert not told(tmp_path / "two", *placed(8.0)[:2])
    assert told(tmp_path / "three", *placed(8.0))


def test_a_hospital_alone_is_told_where_it_was_trained(tmp_path: Path) -> None:
    case = next(one for one in TOGETHER if one.name == "of a curve the ends are told")
    arms = summarise(load(plant(tmp_path, case.arms, baseline=case.baseline)))
    assert in_short(arms)[-1] == (
        "A hospital alone, which shares nothing, reaches 0.75 with its own patients."
    )
    assert len(in_short(arms)) == 3
