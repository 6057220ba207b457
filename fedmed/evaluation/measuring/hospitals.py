"""What one model reaches at each hospital, without each, and at one that is not among them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy.special import expit, logit

from fedmed.evaluation.intervals.heterogeneity import FEWEST, random_effects
from fedmed.evaluation.intervals.intervals import standard_error
from fedmed.evaluation.intervals.quantity import Quantity
from fedmed.evaluation.measuring.panel import SinglePanel
from fedmed.evaluation.measuring.rows import bounds, number

HOSPITAL: Final = "hospital"
METRIC: Final = "auroc"
Json = dict[str, Any]


def by_hospital(panel: SinglePanel) -> Json | None:
    """AUROC at each hospital and without it, and the range of a new one; None below three.

    Only hospitals with enough images of both classes count. `without` is of the test images of all
    other known hospitals, under the same model: nothing is trained again. `new_hospital` is a
    prediction interval on the logit scale (:func:`heterogeneity.random_effects`; on that scale
    AUROCs are nearer to normal: Snell et al. 2018), or None with a `note` where it is not defined.
    """
    each = panel.each_group(METRIC, HOSPITAL)
    if len(each) < FEWEST:
        return None
    rows = []
    for name, quantity in each.items():
        without = panel.measured.quantity(METRIC, HOSPITAL, name, others=True)
        rows.append(
            {
                "hospital": name,
                "auroc": number(quantity),
                "interval": bounds(quantity),
                "auroc_without": number(without),
                "interval_without": bounds(without),
            }
        )
    return {"each": rows, **_range(list(each.values()))}


def _range(quantities: list[Quantity]) -> Json:
    values = np.array([float(quantity.values[0]) for quantity in quantities])
    slope = values * (1.0 - values)  # of AUROC by its logit
    errors = np.array([standard_error(quantity) or 0.0 for quantity in quantities])
    effects = None
    if (slope > 0.0).all():
        effects = random_effects(logit(values), errors / slope)
    if effects is None:
        note = "no range of a new hospital: at one of these nothing varies (an AUROC of 0 or 1)"
        return {
            "mean": None,
            "mean_interval": None,
            "tau": None,
            "new_hospital": None,
            "note": note,
        }
    return {
        "mean": float(expit(effects.mean)),
        "mean_interval": [float(expit(end)) for end in (effects.low, effects.high)],
        "tau": effects.tau,
        "new_hospital": [float(expit(end)) for end in (effects.new_low, effects.new_high)],
        "note": None,
    }
