"""[primary] of an experiment's file: checked against its arms, and dated by its record."""

import json
from pathlib import Path
from typing import Any

from support import refuses
from support.tables import images, scored, write_run

from fedmed.evaluation.comparison.compare import from_directory
from fedmed.evaluation.comparison.endpoint import Endpoint
from fedmed.experiment.file import Experiment, make_experiment
from fedmed.experiment.run import _named
from fedmed.report.endpoint import sentences
from fedmed.report.load import load

FILE: dict[str, Any] = {
    "arms": ["none", "dp-sgd"],
    "primary": {"arm": "dp-sgd", "margin": 0.05},
    "data": {"source": "phantom", "patients": 60, "hospitals": 2, "image-size": 16},
    "privacy": {"delta": 1e-3},
}


def made(primary: Any = None, **more: Any) -> Experiment:
    return make_experiment(
        {**FILE, **({"primary": primary} if primary else {})}, Path("x.toml"), **more
    )


def test_the_file_names_an_arm_of_its_own() -> None:
    assert made().primary == Endpoint(arm="dp-sgd", margin=0.05)
    assert made(arms=["none"]).primary == Endpoint(arm="dp-sgd", margin=0.05)
    other = {"arm": "dp-sdg", "margin": 0.05}
    refuses(lambda: made(other), "x.toml", "'dp-sdg' is not in arms", "did you mean 'dp-sgd'?")
    refuses(lambda: made({**other, "after_results": True}), "after_results")


def test_pitfall_an_endpoint_that_is_chosen_by_its_result() -> None:
    """Named before results it stays so; a new margin with results at hand is told for ever."""
    first = _named(made(), None, seen=False)
    assert first is not None
    assert first["after_results"] is False
    assert _named(made(), first, seen=True) == first
    wider = _named(made({"arm": "dp-sgd", "margin": 0.2}), first, seen=True)
    assert wider is not None
    assert (wider["margin"], wider["after_results"]) == (0.2, True)
    assert _named(made({"arm": "dp-sgd", "margin": 0.2}), wider, seen=True) == wider
    plain = make_experiment({k: v for k, v in FILE.items() if k != "primary"}, Path("x.toml"))
    assert _named(plain, wider, seen=True) == wider, "leaving it out hides nothing"


def test_the_report_says_what_was_shown(tmp_path: Path) -> None:
    rows = images(400)
    for arm, seed in (("none", 1), ("dp-sgd", 2)):
        write_run(tmp_path, arm, 0, scored(rows, 2.0, seed), arm=arm)
    record = tmp_path / "experiment.json"

    def told(margin: float, **more: Any) -> tuple[dict[str, Any], list[str]]:
        about = {"arms": ["none", "dp-sgd"], "primary": {"arm": "dp-sgd", "margin": margin, **more}}
        record.write_text(json.dumps(about))
        found = from_directory(tmp_path, resamples=100)
        (tmp_path / "comparison.json").write_text(json.dumps(found))
        return found["primary"], sentences(load(tmp_path).evidence)

    wide, (said,) = told(0.5)
    assert wide["shown"] is True
    assert said.startswith("Primary endpoint: the AUROC of dp-sgd is shown to be not worse by more")
    assert "0.5 against none; the change is" in said
    narrow, (said,) = told(0.0001)
    assert narrow["shown"] is False
    assert "is not shown" in said
    late, (said,) = told(0.5, after_results=True)
    assert late["after_results"] is True
    assert said.startswith("Endpoint named after results were seen, which makes it no test")
