"""One hospital's histograms: public cells, capped patients, and a sensitivity nobody can pass."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support import goes_red, refuses

from fedmed.evaluation.pooled.histograms import (
    EVERYBODY,
    Spec,
    around,
    chosen,
    clustering,
    count,
    equal_width,
    located,
)

Array = npt.NDArray[np.float64]
Table = dict[str, list[Any]]


def spec(bins: int = 4, cap: int = 2, attributes: tuple[str, ...] = ("sex", "age")) -> Spec:
    return Spec(edges=equal_width(bins), attributes=attributes, cap=cap)


def table(*rows: tuple[str, str, int, float, str, str]) -> Table:
    """Columns of rows (patient, split, label, score, sex, age); images are named by position."""
    names = ("patients", "splits", "labels", "scores", "sex", "age")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return {**columns, "images": [f"i{number}" for number in range(len(rows))]}


def counted(cells: Spec, rows: Table) -> dict[str, Array]:
    given = {k: rows[k] for k in ("patients", "splits", "labels", "scores", "images")}
    return count(cells, groups={name: rows[name] for name in cells.attributes}, **given)


ROWS = table(
    ("a", "val", 0, 0.0, "F", "0-29"),
    ("a", "val", 1, 0.25, "F", "0-29"),
    ("b", "test", 1, 1.0, "M", "80+"),
    ("c", "test", 0, 0.49, "X", "unknown"),
)


def test_every_image_is_in_one_cell_of_each_family() -> None:
    found = counted(spec(), ROWS)
    everybody = found[EVERYBODY][:, 0]
    assert everybody[0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]  # an edge belongs above
    assert everybody[1].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    for family in ("sex", "age"):
        assert np.array_equal(found[family].sum(1), everybody)
    sexes = found["sex"].sum((0, 2, 3))
    assert sexes.tolist() == [2, 1, 1], "a value outside the public list is unknown"
    assert {f: found[f].shape for f in found} == {f: spec().shape(f) for f in spec().families}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": [math.nan] * 4}, ["score", "diverged"]),
        ({"scores": [1.5] * 4}, ["score"]),
        ({"labels": [0, 1, 2, 0]}, ["labels are 0 or 1"]),
        ({"splits": ["train"] * 4}, ["splits val or test"]),
    ],
)
def test_a_table_that_cannot_be_counted_is_refused(change: Table, words: list[str]) -> None:
    refuses(lambda: counted(spec(), {**ROWS, **change}), *words)


@pytest.mark.parametrize("edges", [(0.5, 0.5), (0.7, 0.3), (0.1, math.nan)])
def test_edges_must_rise(edges: tuple[float, ...]) -> None:
    refuses(lambda: Spec(edges=edges), "edges")


@pytest.mark.parametrize("attributes", [("sex", "sex"), ("eye colour",)])
def test_only_public_attributes_once_each(attributes: tuple[str, ...]) -> None:
    refuses(lambda: Spec(edges=(0.5,), attributes=attributes), "attributes", "sex")


def test_a_cap_keeps_the_same_images_whoever_else_is_there() -> None:
    images = [f"film-{n}" for n in range(40)]
    patients = [f"p{n % 4}" for n in range(40)]
    kept = chosen(images, patients, 3)
    assert [sum(kept[np.asarray(patients) == f"p{n}"]) for n in range(4)] == [3, 3, 3, 3]
    own = np.asarray(patients) == "p1"
    alone = chosen(np.asarray(images)[own], np.asarray(patients)[own], 3)
    assert np.array_equal(alone, kept[own])
    mixed = np.random.default_rng(0).permutation(40)
    again = chosen(np.asarray(images)[mixed], np.asarray(patients)[mixed], 3)
    assert np.array_equal(again, kept[mixed])
    assert chosen(images, patients, 0).all()


def test_an_image_without_a_patient_is_one_of_its_own_and_nan_is_a_name() -> None:
    assert chosen(["a", "b", "c"], [None, None, "p"], 1).tolist() == [True, True, True]
    assert chosen(["a", "b", "c"], ["nan", "nan", "p"], 1).sum() == 2


def move(cells: Spec, rows: Table, patient: str) -> float:
    """L2 distance between all histograms with and without a patient."""
    left = [i for i, owner in enumerate(rows["patients"]) if owner != patient]
    without = {name: [values[i] for i in left] for name, values in rows.items()}
    ours, theirs = counted(cells, rows), counted(cells, without)
    return math.sqrt(sum(float(((ours[f] - theirs[f]) ** 2).sum()) for f in ours))


def random_rows(rng: np.random.Generator, images: int, patients: int) -> Table:
    """A few values each, so that images of one patient often share their cells."""
    rows = [
        (
            f"p{rng.integers(patients)}",
            str(rng.choice(["val", "test"])),
            int(rng.integers(2)),
            float(rng.choice([0.1, 0.6])),
            str(rng.choice(["F", "M", "unknown"])),
            str(rng.choice(["0-29", "80+"])),
        )
        for _ in range(images)
    ]
    return table(*rows)


def check_nobody_moves_more(cells: Spec, bound: float) -> None:
    """Brute force: every patient of 30 random tables, and the worst case by hand."""
    rng = np.random.default_rng(3)
    largest = 0.0
    for _ in range(30):
        rows = random_rows(rng, images=12, patients=4)
        largest = max(largest, *(move(cells, rows, p) for p in set(rows["patients"])))
    same = table(*[("a", "test", 1, 0.6, "F", "80+")] * 5)
    largest = max(largest, move(cells, same, "a"))
    assert largest <= bound + 1e-12
    # The bound is reached: a smaller one would be none.
    assert largest == pytest.approx(cells.sensitivity)


@pytest.mark.parametrize("cap", [1, 2, 3])
@pytest.mark.parametrize("attributes", [(), ("sex",), ("sex", "age")])
def test_no_patient_moves_the_histograms_more(cap: int, attributes: tuple[str, ...]) -> None:
    cells = spec(cap=cap, attributes=attributes)
    assert cells.sensitivity == cap * math.sqrt(1 + len(attributes))
    check_nobody_moves_more(cells, cells.sensitivity)
    goes_red(check_nobody_moves_more, cells, cells.sensitivity * 0.99)
    if attributes:  # one family alone forgets those that overlap with it
        goes_red(check_nobody_moves_more, cells, float(cap))


def test_without_a_cap_nothing_bounds_a_patient() -> None:
    assert spec(cap=0).sensitivity == math.inf


def test_edges_lie_where_public_scores_pile_up() -> None:
    """Scores within 0.48 and 0.52: nearly all bins are there, and some are outside."""
    rng = np.random.default_rng(0)
    public = 1 / (1 + np.exp(-rng.normal(0.02, 0.02, 400)))
    edges = np.asarray(around(*located(public), 32))
    assert len(edges) == 31
    assert ((edges > 0.48) & (edges < 0.52)).sum() >= 25
    assert edges[0] < np.quantile(public, 0.05)
    assert edges[-1] > np.quantile(public, 0.95)
    even = np.asarray(equal_width(32))
    assert ((even > 0.48) & (even < 0.52)).sum() == 1
    assert np.allclose(np.diff(even), 1 / 32)


@pytest.mark.parametrize("scores", [[0.5] * 9, [0.0, 1.0, 0.5], [1e-9, 2e-9, 1e-9]])
def test_edges_rise_for_odd_public_scores_too(scores: list[float]) -> None:
    edges = np.asarray(around(*located(scores), 64))
    assert len(edges) >= 1
    assert (np.diff(edges) > 0).all()
    assert 0 < edges[0] <= edges[-1] < 1


def test_the_last_digits_of_public_scores_do_not_move_the_edges() -> None:
    scores = np.linspace(0.2, 0.7, 101)
    assert around(*located(scores), 16) == around(*located(scores * (1 + 1e-9)), 16)
    assert around(*located(scores), 16) != around(*located(scores * 0.8), 16)


def test_clustering_is_the_design_effect() -> None:
    assert clustering(["a", "b", "c"]) == 1
    assert clustering(["a", "a", "a", "b"]) == (9 + 1) / 4
    assert clustering([]) == 1
