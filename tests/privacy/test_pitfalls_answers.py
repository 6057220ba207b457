"""Where an answer tells of one patient: each mistake's test, and the broken code that fails it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import goes_red

from experiments import distinguish
from experiments import guard_pairs as pairs
from experiments.guard_broken import not_finite_refused
from experiments.guard_pairs import Site, Variant, form, request
from fedmed.base.errors import UserError
from fedmed.config import ARMS
from fedmed.hospital import histograms, rounds, terms
from fedmed.privacy.gradients import bookkeeping
from fedmed.privacy.plans import GradientPlan, part
from fedmed.privacy.plans.making import make_plan
from fedmed.site.requests import write_request

Change = dict[str, Any]
# Of distributed-dp-sgd, which answers only once it has met its peers: tests/hospital/test_sums.py.
# Of feature-laplace, which has a probe: tests/privacy/test_pitfalls_feature_laplace.py.
PRIVATE = [
    arm.name for arm in ARMS.values() if arm.protects and arm.noise not in ("shares", "features")
]


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with pairs.small_models():
        yield


def same_forms(folder: Path, variant: Variant, config: Change, kind: str, **given: Any) -> None:
    """Both guards answer one request alike."""
    found = []
    for number, which in enumerate(("whole", variant)):
        made: Variant = variant if number else "whole"
        site = Site(folder / f"{which}-{len(list(folder.iterdir()))}", made)
        asked = request(kind, "run-1", config, **given)
        found.append(form(*site.answer(*write_request(asked))))
    assert found[0] == found[1]


@pytest.mark.parametrize("arm", PRIVATE)
def test_pitfall_36_a_film_that_overflows_the_model_tells_not_that_it_is_there(
    arm: str, tmp_path: Path
) -> None:
    config = {"privacy.arm": arm, "train.batch-size": 16, "train.learning-rate": 10.0}
    if ARMS[arm].plan == "summed":
        config = {"privacy.arm": arm, "train.sampling-rate": 1.0}

    def check_forms() -> None:
        same_forms(tmp_path, "absent", config, "train", model=distinguish.trap())

    if arm in ("pixel-laplace", "dp-pix"):
        check_forms()
        return  # under noise on images every film looks alike to the trap
    asked = request("train", "run-1", config, model=distinguish.trap())
    answer = Site(tmp_path / "answered", "whole").answer(*write_request(asked))[0]
    assert "error" not in answer  # not one that is refused whoever is there
    check_forms()
    with not_finite_refused():
        goes_red(check_forms)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("arm", ["dp-sgd", "local-update"])
def test_whatever_fails_with_private_data_in_hand_changes_no_reply(
    kind: str, arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that one film raises: out of memory, say, or an index beyond a table."""
    reads = rounds.featured if kind == "train" else histograms.predict

    def failing(error: type[Exception]) -> Any:
        def read(model: Any, given: Any, *rest: Any, **options: Any) -> Any:
            images = given.images if kind == "train" else given
            if len(images) in (16, 8):  # the target is there: neither is a made-up shard
                raise error("patient 17")
            return reads(model, given, *rest, **options)

        return read

    place = (rounds, "featured") if kind == "train" else (histograms, "predict")
    variant: Variant = "absent" if kind == "train" else "test-absent"

    def check_forms() -> None:
        same_forms(tmp_path, variant, {"privacy.arm": arm}, kind)

    for error in (MemoryError, RuntimeError, FloatingPointError, KeyError):
        monkeypatch.setattr(*place, failing(error))
        check_forms()
    if kind == "train":
        monkeypatch.setattr(rounds.Round, "protects", False)
    else:
        monkeypatch.setattr(histograms, "_noised", _without_fallback)
    goes_red(check_forms)


def _without_fallback(of: Any, run: str, model: Any, name: str, spec: Any, plan: Any) -> Any:
    shard = histograms.evaluation_shard(of.settings.data, of.name)
    counts = histograms._counts(of, model, shard, spec)
    return histograms.Histograms(of.name, counts)


def test_a_check_by_chance_is_made_once_whatever_the_data_are_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights can be made that the engine's check takes every other time: here, not the third."""
    check, featured, calls = bookkeeping.check_against_loop, rounds.featured, [0]

    def by_chance(*given: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:  # after the rehearsal's, and that before the round
            raise UserError("weights that were taken before")
        check(*given)

    def failing(model: Any, shard: Any, *rest: Any) -> Any:
        if len(shard) == 16:
            raise MemoryError
        return featured(model, shard, *rest)

    monkeypatch.setattr(bookkeeping, "check_against_loop", by_chance)
    monkeypatch.setattr(rounds, "featured", failing)

    def check_codes(folder: Path) -> None:
        codes = []
        variants: tuple[Variant, ...] = ("whole", "absent")
        for variant in variants:
            calls[0] = 0
            site = Site(folder / variant, variant)
            codes.append(site.answer(*write_request(request("train", "run-1")))[0].get("error"))
        assert codes == [None, None]

    check_codes(tmp_path / "once")

    def again(self: rounds.Round, model: Any, parameters: Any) -> Any:
        gradient = part(self.plan, GradientPlan)
        assert gradient is not None
        turn = replace(self, plan=replace(gradient, declared=True))
        return turn._change(model, rounds.made_up(self.settings, 0, self.plan), parameters)

    monkeypatch.setattr(rounds.Round, "_without_patients", again)
    goes_red(check_codes, tmp_path / "again")


def found_by_delta(site: Site, key: str, kind: str) -> set[str]:
    """Codes of the deltas below one over a number of patients, from 17 to 38."""
    codes = set()
    for patients in range(pairs.PATIENTS - 8 + 1, 41, 3):
        config = {key: 1 / patients - 1e-9, "train.rounds": 1}
        asked = request(kind, f"run-{patients}", config)
        codes.add(str(site.answer(*write_request(asked))[0].get("error", "")))
    return codes


@pytest.mark.parametrize(
    ("key", "kind"),
    [("evaluation.delta", "evaluate"), ("privacy.delta", "train"), ("privacy.delta", "query")],
)
def test_pitfall_37_no_search_over_delta_finds_how_many_patients_there_are(
    key: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 are declared; between that and 38 every delta gets the same answer, whoever is there."""

    def check_codes(folder: Path) -> None:
        assert found_by_delta(Site(folder, "whole"), key, kind) == {""}

    check_codes(tmp_path / "declared")
    exact = {"train": 16, "query": 16, "evaluate": 8}[kind]
    if kind == "evaluate":
        real = histograms.check_delta
        monkeypatch.setattr(
            histograms, "check_delta", lambda plan, _, name: real(plan, 25, name)
        )  # as if 25 patients had been counted
    else:
        monkeypatch.setattr(terms, "make_member_plan", _plan_of_exact_numbers(exact + 9))
    goes_red(check_codes, tmp_path / "exact")


def _plan_of_exact_numbers(units: int) -> Any:
    return lambda settings, member, policy: make_plan(settings, units, member)


@pytest.mark.parametrize("variant", ["absent", "ill", "film", "test-absent", "test-film"])
def test_a_query_reads_no_row_of_the_data(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the target one class is missing; without a table there is nothing to count at all."""

    def check_forms() -> None:
        same_forms(tmp_path, variant, {}, "query")

    check_forms()
    site = Site(tmp_path / "no-table", "whole")
    os.unlink(site.folder / "table.csv")

    def check_accepts() -> None:
        answer = site.answer(*write_request(request("query", "run-1")))[0]
        assert answer.get("joining", {}).get("accepts") is True

    check_accepts()
    monkeypatch.setattr(
        terms, "make_member_plan", lambda settings, name, _: terms.patients_of(settings, name)
    )
    goes_red(check_accepts)
