"""The cost of a private arm in three steps: which arms are made, of what settings, what is told."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import refuses
from support.runs import run, tiny_text, weights, written
from support.tables import images, scored, write_run

from fedmed.config import ARMS
from fedmed.evaluation.comparison.compare import from_directory
from fedmed.evaluation.comparison.comparison import compare
from fedmed.experiment.decomposing import STEPS, controls
from fedmed.experiment.file import Experiment, make_experiment
from fedmed.federation.members import make_plans
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import UnnoisedPlan
from fedmed.privacy.plans.making import noise_source
from fedmed.privacy.statement.contents import statement
from fedmed.privacy.statement.figures import Spend
from fedmed.report.answer import answer
from fedmed.report.arms import reference, summarise
from fedmed.report.load import load
from fedmed.report.sections import splits

FILE: dict[str, Any] = {
    "arms": ["none", "dp-sgd"],
    "decompose": ["dp-sgd"],
    "data": {"source": "phantom", "patients": 60, "hospitals": 2, "image-size": 16},
    "train": {"rounds": 2},
    "privacy": {"delta": 1e-3},
    "arm": {"dp-sgd": {"train": {"batch-size": 8, "learning-rate": 0.05, "local-epochs": 1.5}}},
}
STACKED = {"image-mechanism": "pixel-laplace", "laplace-scale": 0.1}
ALL = ["none", "dp-sgd-recipe", "dp-sgd-clipped", "dp-sgd"]


def made(**changes: Any) -> Experiment:
    asked = changes.pop("asked", ())
    return make_experiment({**FILE, **changes}, Path("x.toml"), arms=asked)


def test_two_arms_with_the_private_ones_settings_stand_before_it() -> None:
    """Sabotage: the recipe of the arm without privacy, whose cost it should show."""
    experiment = made()
    assert list(experiment.arms) == ALL
    private = experiment.arms["dp-sgd"].to_flat()
    for name, kind in zip(controls("dp-sgd"), STEPS, strict=True):
        settings = experiment.arms[name]
        assert settings.arm.name == kind
        changed = {k for k, v in settings.to_flat().items() if v != private[k]}
        assert changed == {"privacy.arm"}
    assert experiment.arms["none"].train.learning_rate == 0.01
    assert list(made(asked=["dp-sgd"]).arms) == ALL[1:]
    assert list(made(asked=["none"]).arms) == ["none"]
    assert list(made(decompose=[]).arms) == ["none", "dp-sgd"]


def test_what_cannot_be_split_is_refused_in_one_line() -> None:
    for wrong, words in (
        ({"decompose": "dp-sgd"}, "decompose = 'dp-sgd'"),
        ({"decompose": ["dp-sgd", "dp-sgd"]}, "twice"),
        ({"decompose": ["local-update"]}, "not in arms"),
        ({"decompose": ["none"]}, "clips no gradients"),
        ({"arms": ALL, "arm": {n: {"privacy": {"arm": "dp-sgd"}} for n in ALL[1:3]}}, "made of"),
        (
            {"arm": {"dp-sgd": {"privacy": STACKED}}},
            "noises images too",
        ),
    ):
        refuses(lambda wrong=wrong: made(**wrong), words)  # type: ignore[misc]  # the default binds this turn


def test_they_sample_and_step_as_dp_sgd_and_protect_nobody() -> None:
    arms = made().arms
    private = make_plans(arms["dp-sgd"])
    for name, norm in zip(ALL[1:3], (None, 1.0), strict=True):
        settings = arms[name]
        for member, plan in make_plans(settings).items():
            assert isinstance(plan, UnnoisedPlan)
            assert plan.sampling == private[member].sampling  # type: ignore[attr-defined]  # both sample
            assert plan.clipping_norm == norm
            assert (plan.unit, plan.payer, plan.steps, plan.epsilon()) == (
                "none",
                "nobody",
                0,
                None,
            )
        assert not ARMS[settings.arm.name].own
        assert not Policy(maximum_epsilon=8.0).allows(settings.arm.name)
        assert noise_source(settings).reproducible
        spends = {"hospital-1": Spend(plan, 0, "")}
        told = statement(settings, spends, name, NoiseSource(None))
        assert (told["epsilon"], told["unit"], told["noise_source"]) == (None, "none", "no noise")
        assert told["summary"].startswith("This run protects nobody")
        assert "no privacy is claimed" in told["mechanism"]
        assert "loss" not in " ".join(told["released"])


def test_without_clipping_no_key_of_it_may_be_set() -> None:
    arm = {"mine": {"privacy": {"arm": "sampled-sgd", "clipping-norm": 2.0}}}
    refuses(lambda: made(arms=["mine"], arm=arm, decompose=[]), "privacy.clipping-norm")


def runs(seeds: int = 2) -> dict[str, dict[int, Any]]:
    strengths = dict(zip(ALL, (2.5, 2.0, 1.8, 0.8), strict=True))
    base = images(600)
    return {
        arm: {seed: scored(base, strength, 10 * place + seed) for seed in range(seeds)}
        for place, (arm, strength) in enumerate(strengths.items())
    }


@pytest.mark.usefixtures("tiny_hospitals")
def test_a_run_has_all_arms_and_its_comparison_the_steps(tmp_path: Path) -> None:
    text = tiny_text(["none", "dp-sgd"], "[arm.dp-sgd.train]\nlearning-rate = 0.05\n", rounds=1)
    file = written(tmp_path, 'decompose = ["dp-sgd"]\n' + text)
    out = tmp_path / "out"
    results = {result["name"]: result for result in run(file, out)}
    assert list(results) == ALL
    for name in ALL[:3]:
        assert (results[name]["unit"], results[name]["epsilon"]) == ("none", None)
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    (split,) = found["splits"]
    assert [step["to"] for step in split["steps"]] == ALL[1:]
    assert load(out).evidence is not None
    # Nothing of them is secret: the same seed draws the same batches and gives the same model.
    again = tmp_path / "again"
    run(file, again)
    for name in controls("dp-sgd"):
        one, other = (weights(folder / name / "seed-0") for folder in (out, again))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_steps_add_up_to_what_the_arm_loses() -> None:
    """Sabotage: a step from the baseline, not from the arm before it."""
    between = {"dp-sgd": list(controls("dp-sgd"))}
    tables = runs()
    found = compare(tables, "none", {}, between=between, resamples=200)
    (split,) = found["splits"]
    assert [s["step"] for s in split["steps"]] == ["recipe", "clipping", "noise"]
    assert [(s["from"], s["to"]) for s in split["steps"]] == list(itertools.pairwise(ALL))
    parts = [s["difference"]["value"] for s in split["steps"]]
    change = next(
        r for r in found["differences"] if r["arm"] == "dp-sgd" and r["quantity"] == "auroc"
    )
    assert sum(parts) == pytest.approx(change["difference"]["value"], abs=1e-12)
    assert split["total"]["difference"]["low"] == change["difference"]["low"]
    assert (split["total"]["p"], split["quantity"]) == (change["p"], "auroc")
    assert parts[2] == min(parts)
    for step in split["steps"]:
        assert step["difference"]["low"] < step["difference"]["value"] < step["difference"]["high"]
        assert step["after"] - step["before"] == pytest.approx(step["difference"]["value"])
    # Arms that protect nobody make no p-value of the others larger.
    alone = {arm: tables[arm] for arm in ("none", "dp-sgd")}
    assert found["family"] == compare(alone, "none", {}, resamples=200)["family"]
    assert {r["arm"] for r in found["differences"] if r["headline"]} == {"dp-sgd"}
    assert compare(alone, "none", {}, between=between, resamples=200)["splits"] == []
    assert compare(tables, "dp-sgd", {}, between=between, resamples=200)["splits"] == []


def test_the_report_shows_the_steps_and_ranks_no_arm_between(tmp_path: Path) -> None:
    kinds = dict(zip(ALL, ("none", *STEPS, "dp-sgd"), strict=True))
    for arm, by_seed in runs(1).items():
        auroc = {"none": 0.95, "dp-sgd": 0.7}.get(arm, 0.9)
        own = {"epsilon": 8.0, "unit": "patient"} if arm == "dp-sgd" else {}
        metrics = {"source": "predictions", "auroc": auroc}
        write_run(tmp_path, arm, 0, by_seed[0], arm=kinds[arm], metrics=metrics, **own)
    about = {"arms": ALL, "decompose": {"dp-sgd": ALL[1:3]}}
    (tmp_path / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    found = from_directory(tmp_path, resamples=200)
    (tmp_path / "comparison.json").write_text(json.dumps(found), encoding="utf-8")
    comparison = load(tmp_path)
    arms = summarise(comparison)
    base = reference(arms)
    assert base is not None
    assert base.name == "none"
    assert [arm.name for arm in arms if arm.private] == ["dp-sgd"]
    assert "dp-sgd (ε = 8 per patient)" in " ".join(answer(arms)).replace("\xa0", " ")
    assert "dp-sgd-" not in " ".join(answer(arms))
    (told,) = splits(comparison.evidence)
    assert [step["step"] for step in told["steps"]] == ["recipe", "clipping", "noise", "together"]
    values = [step["change"].value for step in told["steps"]]
    assert np.isclose(sum(values[:3]), values[3])
    assert told["steps"][0]["between"] == "none to dp-sgd-recipe"
