"""The embedded default: a synthetic cohort drawn in seconds from a seed, with known effects.

Nothing here comes from a patient, and every result on it is called synthetic. Age and sex change
how common an opacity is and how faint it is, by the amounts in :data:`EFFECTS`: fairness metrics
have something to find, and what they find can be checked. Where volumes are asked for, CT scans are
drawn with a lesion in place of the opacity, under the same effects.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.cohort import Cohort
from fedmed.data.sources import tomogram
from fedmed.data.sources.radiograph import Film, draw
from fedmed.data.sources.tomogram import Scan
from fedmed.data.volume import Volume

VERSION = 3
"""Part of every digest; it changes whenever the cohort or its pixels change."""


@dataclass(frozen=True)
class Effects:
    """The truth about the phantom's patients: what shifts prevalence, and what makes films hard."""

    prevalence_at_55: float = 0.38  # of an opacity, at the average hospital
    log_odds_per_decade: float = 0.25  # of age
    hospital_log_odds: float = 0.5  # from minus this at the first hospital to plus at the last
    ap_with_opacity: float = 0.45  # share of AP views; the ill are filmed in bed
    ap_without: float = 0.30
    contrast: float = 0.38  # median brightness of an opacity in men under 40
    contrast_lost_per_decade: float = 0.10  # share of it, for each decade above 40
    contrast_in_women: float = 0.75  # factor
    contrast_spread: float = 0.30  # standard deviation of its logarithm between films
    films: tuple[float, ...] = (0.88, 0.09, 0.03)  # share of patients with 1, 2, 3 films


EFFECTS = Effects()


class PhantomStore:
    """Draws each image when it is read; ``phantom/000012`` is film (or scan) 12."""

    def __init__(self, films: tuple[Film | Scan, ...], seed: int) -> None:
        self.films = films
        self.seed = seed

    def read(self, name: str) -> NDArray[np.float32] | Volume:
        """Grey image, float32 in [0, 1], shape (128, 128), or a volume in HU."""
        film = self._film(name)
        if isinstance(film, Scan):
            return tomogram.draw(film, self.seed, name)
        return draw(film, self.seed)

    def digest(self, name: str) -> str:
        """Hash of the phantom's version, the seed and everything the image is drawn from."""
        drawn_from = f"{VERSION}|{self.seed}|{self._film(name)!r}"
        return hashlib.sha256(drawn_from.encode()).hexdigest()

    def identity(self, name: str) -> str:
        """The film's name: patients who are left out of the table do not rename it."""
        return name

    def _film(self, name: str) -> Film | Scan:
        number = name.removeprefix("phantom/")
        if not number.isdecimal() or int(number) >= len(self.films):
            raise UserError(f"no image '{name}' in the phantom of {len(self.films)} films")
        return self.films[int(number)]


def load(data: Data, effects: Effects = EFFECTS) -> Cohort:
    """Draw ``data.patients`` patients in ``data.hospitals`` sites from ``data.seed``.

    Each patient has a generator of its own: how many others there are changes none of them. Other
    ``effects`` draw another truth from the same random numbers: patients' ages, sexes and
    hospitals stay. Without a ``split`` column: the split is drawn by patient. Raises
    :class:`UserError` where there are more hospitals than patients.
    """
    if data.hospitals > data.patients:
        raise UserError(
            f"data.hospitals = {data.hospitals} is more than data.patients = {data.patients}; "
            "lower the first or raise the second"
        )
    volumes = data.dimensions == 3 or data.slices > 0
    table, films = _films(_people(data, effects), effects, volumes)
    store = PhantomStore(films, data.seed)
    kind = "CT scans" if volumes else "radiographs"
    notes = (f"synthetic {kind}: no patient is behind them",)
    return Cohort("phantom (synthetic)", table, store, synthetic=True, notes=notes)


def _people(data: Data, truth: Effects) -> pd.DataFrame:
    """One row per film: its patient, and the uniform and normal numbers that make it."""
    rows = []
    for patient in range(data.patients):
        rng = np.random.default_rng([data.seed, 0, patient])
        age = float(np.clip(np.floor(18 + 73 * rng.beta(2.2, 1.7)), 18, 90))
        shared = {
            "patient": patient,
            "site": patient % data.hospitals,
            "rank": 2 * (patient % data.hospitals) / max(1, data.hospitals - 1)
            - (data.hospitals > 1),
            "age": age,
            "female": rng.random() < 0.5,
            "illness": rng.random(),
            "comorbidities": int(rng.poisson(0.2 + 0.02 * (age - 18))),
        }
        for _ in range(int(rng.choice(len(truth.films), p=truth.films)) + 1):
            rows.append({**shared, "position": rng.random(), "spread": rng.standard_normal()})
    return pd.DataFrame(rows)


def _films(
    table: pd.DataFrame, truth: Effects, volumes: bool
) -> tuple[pd.DataFrame, tuple[Film | Scan, ...]]:
    """One row per film (or scan), and what each is drawn from."""
    count = len(table)
    age, female = table["age"].to_numpy(dtype=float), table["female"].to_numpy(dtype=bool)
    log_odds = (
        np.log(truth.prevalence_at_55 / (1 - truth.prevalence_at_55))
        + truth.log_odds_per_decade * (age - 55) / 10
        + truth.hospital_log_odds * table["rank"].to_numpy(dtype=float)
    )
    ill = table["illness"].to_numpy() < 1 / (1 + np.exp(-log_odds))
    ap = table["position"].to_numpy() < np.where(ill, truth.ap_with_opacity, truth.ap_without)
    faint = 1 - truth.contrast_lost_per_decade * np.maximum(0, age - 40) / 10
    spread = np.exp(truth.contrast_spread * table["spread"].to_numpy(dtype=float))
    contrast = truth.contrast * faint * np.where(female, truth.contrast_in_women, 1) * spread
    contrast = np.where(ill, contrast, 0)
    films: list[Film | Scan] = []
    for row in range(count):
        shared: dict[str, Any] = {
            "patient": int(table["patient"].iloc[row]),
            "site": int(table["site"].iloc[row]),
            "female": bool(female[row]),
            "age": float(age[row]),
            "contrast": float(contrast[row]),
        }
        if volumes:
            films.append(Scan(scan=row, **shared))
        else:
            films.append(Film(film=row, anteroposterior=bool(ap[row]), **shared))
    columns = {
        "image": [f"phantom/{row:06d}" for row in range(count)],
        "label": ill.astype(np.int8),
        "finding": np.where(ill, "lesion" if volumes else "opacity", "no finding"),
        "comorbidities": table["comorbidities"],
        "patient_id": [f"phantom-{patient:06d}" for patient in table["patient"]],
        "age": age,
        "sex": np.where(female, "F", "M"),
        "view": np.where(ap, "AP", "PA"),  # of a film only
        "site": [f"hospital-{site + 1}" for site in table["site"]],
    }
    if volumes:
        del columns["view"]
    return pd.DataFrame(columns), tuple(films)
