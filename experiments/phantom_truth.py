"""What the truth about the phantom predicts of a classifier's gaps by sex, age and view.

An observer sees of each film the true signal of its opacities plus Gaussian noise of one standard
deviation, the same for everybody, and nothing else: of a healthy film noise alone. Two numbers are
fitted, the noise and the threshold, to two that were found over all films together: AUROC and the
false positive rate. All that is said of groups follows from :data:`EFFECTS`.

Two signals are taken. ``contrast``: the brightness of the opacities at their centre, whose
distribution is known exactly. ``visible``: what the opacities change in the film, after the scanner
(root of the sum of squared differences of pixels); it counts their size, number and place too, and
the observer is then the ideal one who knows the signal in white noise (Green and Swets 1966).
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import beta, ndtr, ndtri

from fedmed.data.cohort import Cohort
from fedmed.data.sources.phantom import Effects, PhantomStore
from fedmed.data.sources.radiograph import Film, draw

Floats = npt.NDArray[np.float64]

BANDS = {"0-29": (0, 30), "30-59": (30, 60), "60-69": (60, 70), "70-79": (70, 80), "80+": (80, 200)}
"""Age bands of the evaluation in whole years, closed on the left."""
OLD, YOUNG = "80+", "0-29"
NODES = 40  # of the quadrature over the spread of contrast


@dataclass(frozen=True)
class Ages:
    """Years [n], the share of patients of each and the share of those who are ill."""

    years: npt.NDArray[np.int64]
    share: Floats
    prevalence: Floats

    def ill(self, band: str | None = None) -> float:
        """Prevalence in an age band, or over all."""
        chosen = slice(None) if band is None else within(self.years, band)
        return float(np.average(self.prevalence[chosen], weights=self.share[chosen]))


@dataclass(frozen=True)
class Ill:
    """Films of the ill [n]: signal (any unit), weight (sum 1), whether of a woman, age in years."""

    signal: Floats
    weight: Floats
    female: npt.NDArray[np.bool_]
    age: Floats


@dataclass(frozen=True)
class Observer:
    """Noise and threshold, in the unit of the signal."""

    noise: float
    threshold: float

    @property
    def fpr(self) -> float:
        """Share of the healthy above the threshold: Phi(-threshold / noise)."""
        return float(ndtr(-self.threshold / self.noise))

    def auroc(self, ill: Ill, chosen: npt.NDArray[np.bool_] | None = None) -> float:
        """Chance that a chosen ill film is above a healthy one: the mean of Phi(s / (noise √2))."""
        return _mean(ndtr(ill.signal / (self.noise * np.sqrt(2.0))), ill, chosen)

    def fnr(self, ill: Ill, chosen: npt.NDArray[np.bool_] | None = None) -> float:
        """Share of the chosen ill below the threshold: the mean of Phi((t - s) / noise)."""
        return _mean(ndtr((self.threshold - ill.signal) / self.noise), ill, chosen)


def ages(effects: Effects, hospitals: int) -> Ages:
    """Ages as the phantom draws them, floor(18 + 73 Beta(2.2, 1.7)), and the prevalence at each.

    The logit of the prevalence is that at 55 years, plus `log_odds_per_decade` (age - 55) / 10,
    plus the hospital's; averaged over `hospitals` of equal size.
    """
    years = np.arange(18, 91)
    x = (np.arange(7300) + 0.5) / 7300  # a hundred points for each year
    density = x**1.2 * (1.0 - x) ** 0.7 / beta(2.2, 1.7)
    share = density.reshape(73, 100).mean(axis=1) / density.mean()
    rank = np.linspace(-1.0, 1.0, hospitals) if hospitals > 1 else np.zeros(1)
    logit = (
        np.log(effects.prevalence_at_55 / (1.0 - effects.prevalence_at_55))
        + effects.log_odds_per_decade * (years - 55) / 10.0
    )
    each = 1.0 / (1.0 + np.exp(-(logit[:, None] + effects.hospital_log_odds * rank)))
    return Ages(years, share / share.sum(), each.mean(axis=1))


def by_contrast(effects: Effects, hospitals: int) -> Ill:
    """The ill by their true contrast (brightness, 0 to 1 being air to bone); no film is drawn.

    contrast x (1 - lost per decade x decades above 40) x factor in women x exp(spread x z), z
    standard normal, by Gauss-Hermite quadrature.
    """
    of = ages(effects, hospitals)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    faint = 1.0 - effects.contrast_lost_per_decade * np.maximum(0, of.years - 40) / 10.0
    women = np.array([1.0, effects.contrast_in_women])
    spread = np.exp(effects.contrast_spread * nodes)
    signal = effects.contrast * faint[:, None, None] * women[:, None] * spread
    share = (of.share * of.prevalence)[:, None, None] * np.ones(2)[:, None] * weights
    shape = signal.shape
    return Ill(
        signal=signal.ravel(),
        weight=(share / share.sum()).ravel(),
        female=np.broadcast_to(np.array([False, True])[:, None], shape).ravel(),
        age=np.broadcast_to(of.years[:, None, None].astype(float), shape).ravel(),
    )


def by_visible(cohort: Cohort) -> Ill:
    """The cohort's ill films by what their opacities change in them, in brightness summed as above.

    The same film is drawn twice, with its opacities and with next to none, so that anatomy, grain
    and all else cancel.
    """
    store = cast(PhantomStore, cohort.images)
    films = [film for film in store.films if isinstance(film, Film) and film.contrast > 0]
    signal = [
        np.linalg.norm(draw(film, store.seed) - draw(replace(film, contrast=1e-9), store.seed))
        for film in films
    ]
    return Ill(
        signal=np.array(signal, dtype=np.float64),
        weight=np.full(len(films), 1.0 / len(films)),
        female=np.array([film.female for film in films]),
        age=np.array([film.age for film in films]),
    )


def fit(ill: Ill, auroc: float, fpr: float) -> Observer:
    """The observer with this AUROC and this false positive rate over all films.

    `auroc` above a half and below that of no noise (1), `fpr` between 0 and 1.
    """
    typical = float(np.sum(ill.signal * ill.weight))

    def miss(log_noise: float) -> float:
        return Observer(float(np.exp(log_noise)) * typical, 0.0).auroc(ill) - auroc

    noise = float(np.exp(brentq(miss, -10.0, 10.0))) * typical
    return Observer(noise, noise * float(ndtri(1.0 - fpr)))


def predict(
    ill: Ill, effects: Effects, hospitals: int, auroc: float, fpr: float
) -> dict[str, float]:
    """What :func:`fit`'s observer says of groups, by the names that the comparison uses.

    Shares between 0 and 1, and differences of such. The selection rate of a group of prevalence p
    is p (1 - FNR) + (1 - p) FPR; see :func:`from_prevalence` for the part that p causes. Of views
    prevalence alone differs. Gaps are largest minus smallest.
    """
    seen, of = fit(ill, auroc, fpr), ages(effects, hospitals)
    sexes = {"F": ill.female, "M": ~ill.female}
    bands = {band: within(ill.age, band) for band in BANDS}
    prevalence = {name: of.ill() for name in sexes} | {band: of.ill(band) for band in BANDS}
    area = {name: seen.auroc(ill, chosen) for name, chosen in (sexes | bands).items()}
    missed = {name: seen.fnr(ill, chosen) for name, chosen in (sexes | bands).items()}
    called = {
        name: prevalence[name] * (1.0 - missed[name]) + (1.0 - prevalence[name]) * seen.fpr
        for name in prevalence
    }
    figures = {f"{what}, F minus M": value["F"] - value["M"] for what, value in
               (("AUROC", area), ("FNR", missed), ("selection rate", called))}  # fmt: skip
    figures["FPR, F minus M"] = 0.0
    for band in BANDS:
        figures[f"AUROC, {band}"], figures[f"FNR, {band}"] = area[band], missed[band]
        figures[f"FPR, {band}"] = seen.fpr
    figures[f"selection rate, {OLD} minus {YOUNG}"] = called[OLD] - called[YOUNG]
    figures["AUROC, AP minus PA"] = figures["FNR, AP minus PA"] = figures["FPR, AP minus PA"] = 0.0
    figures["selection rate, AP minus PA"] = view_difference(effects, of) * (
        1.0 - seen.fnr(ill) - seen.fpr
    )
    for attribute, names in (("sex", sexes), ("age", bands)):
        for gap, value in (
            ("auroc_gap", area),
            ("fnr_gap", missed),
            ("statistical_parity_difference", called),
        ):
            each = [value[name] for name in names]
            figures[f"{gap}, {attribute}"] = max(each) - min(each)
        figures[f"fpr_gap, {attribute}"] = 0.0
    return figures


def from_prevalence(
    effects: Effects, hospitals: int, sensitivity: float, fpr: float
) -> dict[str, float]:
    """The part of the selection rates' differences that prevalence causes.

    (sensitivity - FPR) x the difference of the true prevalences: the difference that there would be
    if every group had the overall sensitivity and false positive rate.
    """
    of = ages(effects, hospitals)
    each = [of.ill(band) for band in BANDS]
    power = sensitivity - fpr
    return {
        "selection rate, F minus M": 0.0,
        f"selection rate, {OLD} minus {YOUNG}": power * (of.ill(OLD) - of.ill(YOUNG)),
        "selection rate, AP minus PA": power * view_difference(effects, of),
        "statistical_parity_difference, sex": 0.0,
        "statistical_parity_difference, age": power * (max(each) - min(each)),
    }


def view_difference(effects: Effects, of: Ages) -> float:
    """Prevalence among AP views minus that among PA views, by Bayes' rule."""
    ill = of.ill()
    ap = ill * effects.ap_with_opacity + (1.0 - ill) * effects.ap_without
    return ill * effects.ap_with_opacity / ap - ill * (1.0 - effects.ap_with_opacity) / (1.0 - ap)


def within(years: npt.NDArray[np.generic], band: str) -> npt.NDArray[np.bool_]:
    """Which ages are in a band."""
    first, end = BANDS[band]
    values = np.asarray(years, dtype=np.float64)
    return np.asarray((values >= first) & (values < end))


def _mean(values: Floats, ill: Ill, chosen: npt.NDArray[np.bool_] | None) -> float:
    if chosen is None:
        chosen = np.ones(values.size, dtype=bool)
    return float(np.average(values[chosen], weights=ill.weight[chosen]))
