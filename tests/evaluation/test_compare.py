"""Comparing a run directory: which runs count, which arm is the baseline, when work is skipped."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support import refuses
from support.tables import images, scored, write_run

from fedmed.evaluation.comparison import compare, comparison
from fedmed.evaluation.comparison.comparison import compare as compare_tables

BASE = images(200)


def network(out: Path, **results: dict[str, Any]) -> Path:
    """Arms with one seed each, in this order; `results` are what their result.json tells."""
    for number, (arm, told) in enumerate(results.items()):
        write_run(out, arm.replace("_", "-"), 0, scored(BASE, 2.0 - number / 2, number), **told)
    order = [arm.replace("_", "-") for arm in results]
    (out / "experiment.json").write_text(json.dumps({"arms": order, "seeds": [0]}))
    return out


PLAIN = {"arm": "none"}
PRIVATE = {"arm": "dp-sgd", "epsilon": 8.0, "unit": "patient"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return network(tmp_path / "out", dp_sgd=PRIVATE, none=PLAIN)


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "comparison.json").read_text())
    return found


def test_a_directory_is_compared_as_its_tables_are(out: Path) -> None:
    found = compare.from_directory(out, resamples=100)
    tables = {"dp-sgd": {0: scored(BASE, 2.0, 0)}, "none": {0: scored(BASE, 1.5, 1)}}
    expected = compare_tables(
        tables, "none", {"dp-sgd": 8.0}, units={"dp-sgd": "patient"}, resamples=100
    )
    digests = found.pop("inputs")
    assert found == expected
    assert digests == {
        f"{arm}/seed-0": hashlib.sha256(
            (out / arm / "seed-0" / "predictions.parquet").read_bytes()
        ).hexdigest()
        for arm in ("dp-sgd", "none")
    }


@pytest.mark.parametrize(
    ("results", "baseline", "note"),
    [
        ({"a": PRIVATE, "b": {"arm": "none", "scheme": "pooled"}, "c": PLAIN}, "c", None),
        (
            {"a": PRIVATE, "b": {"arm": "none", "scheme": "pooled"}},
            "b",
            "no federated arm without privacy",
        ),
        (
            {"a": PRIVATE, "b": {"arm": "none", "scheme": "local-only"}},
            "a",
            "a, the first one, is the baseline",
        ),
    ],
)
def test_the_baseline_is_the_federated_arm_without_privacy(
    tmp_path: Path, results: Any, baseline: str, note: str | None
) -> None:
    found = compare.from_directory(network(tmp_path, **results), resamples=0)
    assert found["baseline"] == baseline
    assert note is None or any(note in text for text in found["notes"])


def test_another_baseline_may_be_named(out: Path) -> None:
    found = compare.from_directory(out, baseline="dp-sgd", resamples=0)
    assert {row["arm"] for row in found["differences"]} == {"none"}
    refuses(lambda: compare.from_directory(out, baseline="dp"), "no arm 'dp'", "dp-sgd, none")


def test_runs_that_cannot_be_used_are_named_and_left_out(out: Path) -> None:
    (out / "waiting" / "seed-0").mkdir(parents=True)
    write_run(out, "cut", 0, scored(BASE, 1.0, 5))
    (out / "cut" / "seed-0" / "result.json").write_text('{"arm": "no')
    write_run(out, "damaged", 0, scored(BASE, 1.0, 5))
    path = out / "damaged" / "seed-0" / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:200])
    write_run(out, "remote", 0, scored(BASE, 1.0, 5), metrics={"source": "histograms"})
    write_run(out, "lost", 0, scored(BASE, 1.0, 5))
    (out / "lost" / "seed-0" / "predictions.parquet").unlink()
    found = compare.from_directory(out, resamples=0)
    assert found["arms"] == ["dp-sgd", "none"]
    notes = "; ".join(found["notes"])
    assert "waiting/seed-0 is not finished: left out" in notes
    assert "cut/seed-0 is not finished: left out" in notes
    assert "damaged/seed-0 is left out: damaged/seed-0/predictions.parquet is not a read" in notes
    assert "remote/seed-0 was evaluated at the hospitals" in notes
    assert "lost/seed-0 has no predictions.parquet" in notes
    assert str(out) not in notes


def test_runs_that_hospitals_evaluated_have_no_differences_and_the_message_says_why(
    tmp_path: Path,
) -> None:
    for arm in ("none", "dp-sgd"):
        write_run(tmp_path, arm, 0, scored(BASE, 1.0, 5), metrics={"source": "histograms"})
        (tmp_path / arm / "seed-0" / "predictions.parquet").unlink()
    (tmp_path / "waiting" / "seed-0").mkdir(parents=True)
    words = ("2 finished run(s) were evaluated at the hospitals", "evaluation.where = 'both'")
    refuses(lambda: compare.find(tmp_path), *words, "the report has each arm's own AUROC")
    (tmp_path / "none" / "seed-0" / "result.json").unlink()
    refuses(lambda: compare.find(tmp_path), "1 finished run(s) were evaluated")


def test_the_largest_epsilon_of_an_arms_seeds_counts(out: Path) -> None:
    write_run(out, "dp-sgd", 1, scored(BASE, 1.0, 5), **{**PRIVATE, "epsilon": 8.2})
    assert compare.find(out).epsilons() == {"dp-sgd": 8.2, "none": None}


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, unfinished: bool) -> None:
    if unfinished:
        (tmp_path / "none" / "seed-0").mkdir(parents=True)
    refuses(lambda: compare.from_directory(tmp_path), str(tmp_path), "no finished run")
    refuses(lambda: compare.write(tmp_path), "no finished run")
    refuses(lambda: compare.from_directory(tmp_path / "absent"), "no such folder")


def test_a_folder_with_damaged_tables_only_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "none", 0, scored(BASE, 1.0, 5))
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    refuses(lambda: compare.from_directory(tmp_path), "no readable predictions", "none/seed-0")


def test_other_images_in_one_arm_are_refused(out: Path) -> None:
    write_run(out, "other", 0, scored(images(220), 1.0, 5))
    refuses(lambda: compare.from_directory(out), "different test images", "'i00201'")


def test_what_is_unchanged_is_not_computed_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compare.write(out, resamples=50)
    assert path == out / "comparison.json"
    before = path.read_text()
    assert json.loads(before)["by_arm"]["dp-sgd"]["metrics"]["auroc"]["value"] > 0.5

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patched:
        patched.setattr(compare, "compare", fails)
        compare.write(out, resamples=50)
        assert path.read_text() == before
        with pytest.raises(AssertionError, match="computed again"):
            compare.write(out, resamples=51)
        patched.setattr(compare, "__version__", "0.0.0")
        with pytest.raises(AssertionError, match="computed again"):
            compare.write(out, resamples=50)
    assert comparison.compare is compare.compare


def test_new_tables_epsilons_and_runs_make_it_stale(out: Path) -> None:
    compare.write(out, resamples=50)
    first = read(out)
    write_run(out, "none", 0, scored(BASE, 0.5, 9), **PLAIN)
    compare.write(out, resamples=50)
    second = read(out)
    assert second["by_arm"]["none"] != first["by_arm"]["none"]
    assert second["inputs"]["dp-sgd/seed-0"] == first["inputs"]["dp-sgd/seed-0"]
    assert second["inputs"]["none/seed-0"] != first["inputs"]["none/seed-0"]
    write_run(out, "none", 1, scored(BASE, 0.6, 9), **PLAIN)
    compare.write(out, resamples=50)
    assert read(out)["by_arm"]["none"]["seeds"] == [0, 1]
    write_run(out, "dp-sgd", 0, scored(BASE, 2.0, 0), **{**PRIVATE, "epsilon": 2.0})
    compare.write(out, resamples=50)
    assert read(out)["made_from"]["epsilons"]["dp-sgd"] == 2.0


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_comparison_is_made_again(out: Path, content: str) -> None:
    (out / "comparison.json").write_text(content)
    compare.write(out, resamples=50)
    assert read(out)["baseline"] == "none"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_an_arm_without_treatment_is_a_baseline_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sabotage: the name alone, and another arm that treats nothing counts as a private one."""
    plain = dataclasses.replace(compare.ARMS["none"], name="plain")
    monkeypatch.setattr(compare, "ARMS", {**compare.ARMS, "plain": plain})
    runs = {
        arm: {0: {"arm": arm, "scheme": "federated"}} for arm in ("dp-sgd", "clipped-sgd", "plain")
    }
    assert compare._baseline(runs) == ("plain", [])
