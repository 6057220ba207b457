"""The primary endpoint: what a margin shows, and that naming it late is told."""

from typing import Any

import pytest
from support import refuses

from fedmed.evaluation.comparison.endpoint import Endpoint, judged, read

TOLD = {"arm": "dp-sgd", "margin": 0.03}


def row(
    low: float | None, high: float | None, metric: str = "auroc", **both: Any
) -> dict[str, Any]:
    value = None if low is None or high is None else (low + high) / 2.0
    change = {"value": value, "low": low, "high": high, "both_low": None, "both_high": None, **both}
    return {"kind": "metric", "arm": "dp-sgd", "quantity": metric, "difference": change}


@pytest.mark.parametrize(
    ("test", "low", "high", "shown", "worse"),
    [
        ("non-inferiority", -0.029, 0.2, True, False),
        ("non-inferiority", -0.031, 0.2, False, False),  # not significant, and nothing shown
        ("non-inferiority", -0.09, -0.031, False, True),
        ("equivalence", -0.029, 0.029, True, False),
        ("equivalence", -0.029, 0.031, False, False),
        ("equivalence", 0.04, 0.09, False, True),
        ("equivalence", -0.09, -0.04, False, True),
        ("non-inferiority", None, None, None, None),
    ],
)
def test_only_an_interval_within_the_margin_shows_it(
    test: Any, low: float | None, high: float | None, shown: bool | None, worse: bool | None
) -> None:
    told = judged(Endpoint(arm="dp-sgd", margin=0.03, test=test), [row(low, high)])
    assert told is not None
    assert (told["shown"], told["worse"]) == (shown, worse)


def test_more_of_a_loss_is_worse() -> None:
    """Sabotage: the sign of AUROC for a Brier score calls a loss of .05 no loss."""
    endpoint = Endpoint(arm="dp-sgd", metric="brier", margin=0.03)
    told = judged(endpoint, [row(0.01, 0.05, "brier")])
    assert told is not None
    assert told["shown"] is False
    told = judged(endpoint, [row(-0.2, 0.02, "brier")])
    assert told is not None
    assert told["shown"] is True


def test_the_luck_of_training_is_in_the_interval_where_it_is_known() -> None:
    told = judged(read(TOLD, "x"), [row(-0.01, 0.01, both_low=-0.05, both_high=0.05)])
    assert told is not None
    assert (told["low"], told["high"], told["shown"]) == (-0.05, 0.05, False)


def test_of_an_arm_that_has_not_run_nothing_is_told() -> None:
    assert judged(None, [row(0.0, 0.1)]) is None
    assert judged(Endpoint(arm="other", margin=0.1), [row(0.0, 0.1)]) is None


def test_a_table_is_read_with_its_defaults_and_back() -> None:
    endpoint = read(TOLD, "x.toml")
    assert (endpoint.metric, endpoint.test, endpoint.after_results) == (
        "auroc",
        "non-inferiority",
        False,
    )
    assert read(endpoint.to_dict(), "x") == endpoint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arm": 3}, "[primary] arm = 3"),
        ({"margin": 0}, "[primary] margin = 0"),
        ({"margin": True}, "[primary] margin = True"),
        ({"margin": 2.0}, "[primary] margin = 2.0"),
        ({"metric": "auc"}, "[primary] metric = 'auc'"),
        ({"test": "superiority"}, "use non-inferiority or equivalence"),
        ({"marign": 1}, "no key 'marign'"),
    ],
)
def test_mistakes_name_the_key(changes: dict[str, Any], words: str) -> None:
    refuses(lambda: read({**TOLD, **changes}, "x.toml"), "x.toml", words)
    refuses(lambda: read(3, "x.toml"), "primary must be a table")
