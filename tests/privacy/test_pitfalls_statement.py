"""Where a statement's figures go wrong: each mistake's test, and the broken code that fails it."""

import ast
import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import ADAPTIVE, goes_red, gradient_plan, make, update_plan

from fedmed.evaluation.pooled.histograms import Spec
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.images import PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import group_gaussian
from fedmed.privacy.plans import GradientPlan, ImagePlan, Plan, StackedPlan, UpdatePlan
from fedmed.privacy.statement import facts, figures, totals
from fedmed.privacy.statement.contents import schema, statement
from fedmed.privacy.statement.evaluation import evaluation_record
from fedmed.privacy.statement.figures import Figures, Spend

DELTA = 1e-5
ROOT = Path(__file__).resolve().parents[2]


def stated(plans: Mapping[str, Plan], **privacy: Any) -> dict[str, Any]:
    settings = make(privacy={"arm": "dp-sgd", "delta": DELTA, **privacy})
    spends = {name: Spend(plan, plan.steps) for name, plan in plans.items()}
    return statement(settings, spends, "name", NoiseSource())


def check_own_delta() -> None:
    """Epsilon 4 at 1e-3 is far more at 1e-5, whoever's delta is printed."""
    noise = accounting.noise_multiplier(4.0, 1e-3, 0.25, 8)
    own = gradient_plan(noise_multiplier=noise, delta=1e-3)
    asked = gradient_plan(noise_multiplier=accounting.noise_multiplier(4.0, DELTA, 0.25, 8))
    told = stated({"a": asked, "b": own})
    assert told["delta"] == DELTA
    assert told["epsilon"] == own.epsilon(delta=DELTA) > 6
    assert [h["epsilon_at_own_delta"] for h in told["hospitals"]] == pytest.approx([4, 4], rel=1e-3)
    assert told["epsilon_planned"] == told["epsilon"] < told["epsilon_replace_one"]


def check_own_cap() -> None:
    """Where one hospital uses six films of a patient, one film each is not the run's figure."""
    one, six = (
        gradient_plan(unit="image", images_per_patient=cap, noise_multiplier=4.0) for cap in (1, 6)
    )
    told = stated({"a": one, "b": six}, unit="image", **{"images-per-patient": 1})
    expected = accounting.composed_epsilon(((group_gaussian(4.0, 0.25, 6), 8),), DELTA)
    assert told["epsilon_patient"] == expected
    assert told["images_per_patient"] == 6
    (total,) = [t for t in totals.totals({"a/seed-0": told}) if t.unit == "patient"]
    assert total.epsilon == expected


def test_pitfall_39_an_own_delta_or_cap_never_stands_under_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_own_delta()
    check_own_cap()
    with monkeypatch.context() as patch:
        patch.setattr(figures, "at", lambda plan, delta: plan.delta)
        goes_red(check_own_delta)
    with monkeypatch.context() as patch:
        patch.setattr(figures, "stated_delta", lambda asked, plans: plans[-1].delta)
        goes_red(check_own_delta)
    monkeypatch.setattr(figures, "worst", lambda members: _only_figures(members[0]))
    goes_red(check_own_cap)


def _only_figures(record: Figures) -> Figures:
    return Figures(**{name: getattr(record, name) for name in Figures.model_fields})


def check_attackers_figures() -> None:
    """Full batches under much noise against rare samples under little: epsilon and TPR disagree."""
    rare = gradient_plan(units=2000, expected_batch=6, noise_multiplier=0.42)
    full = gradient_plan(expected_batch=24, noise_multiplier=3.2)
    told = stated({"a": rare, "b": full})
    alone = {
        name: accounting.risk(plan.spent(), DELTA) for name, plan in (("a", rare), ("b", full))
    }
    assert rare.epsilon() > full.epsilon()
    assert alone["b"].tpr_at_fpr_001 > 2 * alone["a"].tpr_at_fpr_001
    assert told["epsilon"] == rare.epsilon()
    assert told["tpr_at_fpr_001"] == alone["b"].tpr_at_fpr_001
    assert told["advantage"] == max(risk.advantage for risk in alone.values())
    assert told["mu"] == max(risk.mu for risk in alone.values())
    assert [h["tpr_at_fpr_001"] for h in told["hospitals"]] == [
        risk.tpr_at_fpr_001 for risk in alone.values()
    ]


def test_pitfall_40_attackers_figures_are_of_the_hospital_that_is_most_exposed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_attackers_figures()
    monkeypatch.setattr(
        figures,
        "worst",
        lambda members: _only_figures(max(members, key=lambda record: record.epsilon)),
    )
    goes_red(check_attackers_figures)


# A word may say what it likes. Keys whose text is a name, and not a sentence:
_NAMES = {
    "arm", "name", "scheme", "hospital", "hospitals", "runs", "not_bounded_by", "not_counted",
    "refused", "families", "missing", "spent", "weights",
}  # fmt: skip


def reworded(value: Any, about: Mapping[str, Any], known: Mapping[str, Any], key: str = "") -> Any:
    """A statement with another sentence wherever its schema has neither a name nor an enum."""
    if "$ref" in about:
        about = known[str(about["$ref"]).rpartition("/")[2]]
    if "anyOf" in about:
        about = next(
            (one for one in about["anyOf"] if one.get("type") != "null"), about["anyOf"][0]
        )
        return None if value is None else reworded(value, about, known, key)
    if isinstance(value, dict) and "properties" in about:
        kinds = about["properties"]
        return {name: reworded(v, kinds[name], known, name) for name, v in value.items()}
    if key in _NAMES and not any(isinstance(item, dict) for item in value or ()):
        return value
    if isinstance(value, list):
        items = about.get("items", {})
        return [reworded(item, items, known, key) for item in value]
    if isinstance(value, str) and "enum" not in about and "const" not in about:
        return "Poisson, zero out nobody; everyone is the server"
    return value


def statements() -> dict[str, dict[str, Any]]:
    """A run of every kind: relations, placements, units, stacked noise, evaluation."""
    images = ImagePlan(mechanism=PixelLaplace(20.0, 16), images_per_patient=2)
    plans: dict[str, tuple[Plan, dict[str, Any]]] = {
        "dp-sgd": (gradient_plan(noise_multiplier=2.0), {}),
        "films": (
            gradient_plan(unit="image", images_per_patient=2, noise_multiplier=3.0),
            {"unit": "image", "images-per-patient": 2},
        ),
        "local": (update_plan("hospital", noise_multiplier=5.0), {"arm": "local-update"}),
        "central": (update_plan("server", noise_multiplier=5.0), {"arm": "central-fixed"}),
        "adaptive": (
            update_plan("server", adaptive=ADAPTIVE, noise_multiplier=9.0),
            {"arm": "central-adaptive"},
        ),
        "images": (images, {"arm": "pixel-laplace", "images-per-patient": 2}),
        "both": (
            StackedPlan(image=images, training=gradient_plan(noise_multiplier=4.0)),
            {"image-mechanism": "pixel-laplace", "laplace-scale": 20.0},
        ),
    }
    found = {
        f"{name}/seed-0": stated({"a": plan, "b": plan}, **privacy)
        for name, (plan, privacy) in plans.items()
    }
    settings = make(privacy={"arm": "dp-sgd", "delta": DELTA}, evaluation={"where": "both"})
    record = evaluation_record(
        settings, Spec(edges=(0.5,), cap=1), NoiseSource(), hospitals=["a", "b"], missing={}
    )
    found["dp-sgd/seed-0"]["evaluation"] = record.model_dump(mode="json")
    return found


def spoken(value: dict[str, Any]) -> dict[str, Any]:
    told = schema()
    found: dict[str, Any] = reworded(copy.deepcopy(value), told, told["$defs"])
    return found


def check_totals_read_no_words(found: Mapping[str, dict[str, Any]]) -> None:
    for extended in (False, True):
        told = totals.totals(found, extended=extended)
        other = totals.totals({run: spoken(s) for run, s in found.items()}, extended=extended)
        assert len(told) == 4
        assert other == told


def reading_words(statement: Mapping[str, Any], unit: str) -> Any:
    """As totals once were: what a sentence starts with halves the noise, or does not."""
    zero = str(statement["neighbouring"]).startswith("zero out")
    members = [
        {**m, "facts": {**m["facts"], "relation": "zero-out" if zero else "replace"}}
        for m in statement["hospitals"]
    ]
    return _COSTS({**statement, "hospitals": members}, unit)


_COSTS = totals._costs


def numbers(told: Any) -> Any:
    """What is left of a statement when every sentence is the same."""
    return spoken(told)


def check_statements_read_no_words(patch: pytest.MonkeyPatch) -> None:
    before = statements()
    with patch.context() as inner:
        other = "everyone is the server"
        inner.setattr(facts, "neighbours", lambda *_: other)
        inner.setattr(facts, "trust", lambda *_: other)
        for kind in (GradientPlan, ImagePlan, UpdatePlan):
            inner.setattr(kind, "words", _with_other_words(kind.words, other))
        after = statements()
    assert all(after[run]["summary"] != before[run]["summary"] for run in before)
    assert {run: numbers(s) for run, s in after.items()} == {
        run: numbers(s) for run, s in before.items()
    }


def _with_other_words(words: Any, other: str) -> Any:
    def spoken_otherwise(self: Any, scheme: str) -> Any:
        return dataclasses.replace(
            words(self, scheme), mechanism=other, sampling=other, accountant=other
        )

    return spoken_otherwise


_PROSE = {"neighbouring", "trust", "summary"}
_SEARCHES = {"startswith", "endswith", "find", "index", "match", "split"}


def comparisons_with_prose(source: str) -> list[int]:
    """Lines that compare a sentence of a statement, or look into it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _SEARCHES:
            parts = [node.func.value, *node.args]  # type: ignore[attr-defined]  # it has an attr
        for part in parts:
            while isinstance(part, ast.Call) and part.args:
                part = part.args[0]  # str(...)
            named = isinstance(part, ast.Attribute) and part.attr in _PROSE
            keyed = isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant)
            if named or (keyed and part.slice.value in _PROSE):  # type: ignore[attr-defined]  # just seen
                found.append(node.lineno)
    return found


def check_no_code_looks_into_prose(sources: Mapping[str, str]) -> None:
    assert {
        name: found for name, s in sources.items() if (found := comparisons_with_prose(s))
    } == {}


def test_pitfall_41_accounting_reads_no_prose(monkeypatch: pytest.MonkeyPatch) -> None:
    found = statements()
    check_totals_read_no_words(found)
    check_statements_read_no_words(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(totals, "_costs", reading_words)
        goes_red(check_totals_read_no_words, found)
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in ("fedmed", "clients", "server")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert len(sources) > 100
    check_no_code_looks_into_prose(sources)
    for line in (
        'half = str(statement["neighbouring"]).startswith("zero out")',
        'everyone = arm.trust.startswith("everyone")',
        'server = "server" in arm.trust',
        'voxels = s["neighbouring"] == voxels',
    ):
        goes_red(check_no_code_looks_into_prose, {"a.py": line})
