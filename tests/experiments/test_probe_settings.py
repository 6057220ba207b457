"""The search for a probe's settings: it learns, noise costs, and a clipped step is bounded."""

from dataclasses import replace

import numpy as np
import pytest
from support import make

from experiments import probe_settings
from experiments.probe_settings import Images, factors, search, trained


def images(n: int = 300, width: int = 4) -> Images:
    draw = np.random.default_rng(0)
    labels = (draw.random(2 * n) < 0.5).astype(float)
    made = draw.normal(size=(2 * n, width)) / 2 + labels[:, None]
    made = np.column_stack([made / 2, np.ones(2 * n)])
    units = [np.array([row]) for row in range(n)]
    return Images(made[:n], labels[:n], units, made[n:], labels[n:].astype(np.int64))


def auroc(noise: float, norm: float = 1.0, rate: float = 1.0, draws: int = 5) -> float:
    rng = np.random.default_rng(1)
    return float(np.mean([trained(images(), noise, norm, 25, rate, rng) for _ in range(draws)]))


def test_it_learns_and_noise_costs() -> None:
    values = [auroc(noise) for noise in (0.0, 30.0, 1000.0)]
    assert values[0] > 0.95
    assert values[0] > values[1] > values[2]


def test_an_image_changes_a_step_by_the_clipping_norm_at_most() -> None:
    """Of vectors that are all far too long only the direction counts, however long they are."""

    def value(length: float, norm: float) -> float:
        given = images()
        rng = np.random.default_rng(2)
        long = replace(given, features=given.features * length)
        return trained(long, 3.0, norm, 1, 1.0, rng)

    assert value(1e6, 0.25) == value(1e3, 0.25) == value(1e3, 1.0)
    assert value(1.0, 1.0) != value(1e3, 1.0)


def test_a_patient_is_one_unit_however_many_films_there_are() -> None:
    """Sabotage: films counted one by one would hide half of the noise of a patient with two."""
    given = images()
    pairs = [np.array([row, row + 1]) for row in range(0, 300, 2)]
    rng = np.random.default_rng(1)

    def value(units: list[np.ndarray]) -> float:
        each = replace(given, units=units)
        return float(np.mean([trained(each, 60.0, 1.0, 25, 1.0, rng) for _ in range(20)]))

    assert value(pairs) < value(given.units) - 0.01


def test_noise_at_each_hospital_is_that_of_a_sum_times_the_root_of_their_number() -> None:
    four = make(data={"hospitals": 4})
    assert factors(four) == {"distributed": pytest.approx(4 / 12**0.5), "local": 2.0}


def test_the_best_of_each_place_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_settings, "images_of", lambda _: images())
    monkeypatch.setattr(probe_settings, "STEPS", (5, 10))
    trials = search(make(data={"hospitals": 4}), [1.0], [0], [0.5, 1.0], 2)
    assert len(trials) == 2 * 2 * 3 * 2
    for place in ("distributed", "local"):
        each = [one["auroc"] for one in trials if one["place"] == place]
        assert each == sorted(each, reverse=True)
