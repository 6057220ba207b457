"""Planted comparisons with hospitals alone, and what the answer says of training together."""

from dataclasses import replace
from typing import Final

from support.answer_cases import NONE, Case, sgd, sweep
from support.planted import Planted

MORE: Final = (0.04, 0.01, 0.07, 0.004, 0.008)
LESS: Final = (-0.06, -0.09, -0.03, 0.001, 0.003)
NOTHING: Final = (0.01, -0.02, 0.04, 0.5, 0.9)
ALONE: Final = "Each hospital alone reaches a mean AUROC of 0.750 within hospitals: "

TOGETHER: Final = [
    Case(
        name="a hospital alone does better than under privacy",
        arms=[replace(NONE, alone=MORE), sgd(alone=LESS)],
        must=[
            f"{ALONE}training together reaches more under none (+0.040, 95 % interval +0.010 to "
            "+0.070); training together reaches less under dp-sgd (−0.060, 95 % interval −0.090 to "
            "−0.030)."
        ],
        never=["no difference is shown for"],
    ),
    Case(
        name="no difference from a hospital alone is not called as good",
        arms=[replace(NONE, alone=MORE), sgd(alone=NOTHING)],
        must=[
            "no difference is shown for dp-sgd (+0.010, 95 % interval −0.020 to +0.040, not "
            "distinguishable from no change)."
        ],
        never=["reaches less", "as well"],
    ),
    Case(
        name="what only one test of many shows is not shown",
        arms=[replace(NONE, alone=(0.03, 0.001, 0.06, 0.04, 0.08)), sgd()],
        must=[f"{ALONE}no difference is shown for none (+0.030"],
        never=["reaches more"],
    ),
    Case(
        name="a hospital alone is not compared with what protects nobody",
        arms=[NONE, sgd(epsilon=900.0, replaced=900.0, alone=LESS)],
        must=["no treatment gives meaningful protection"],
        never=["Each hospital alone", "reaches less"],
    ),
    Case(
        name="of a curve the ends are told",
        arms=[NONE, *(replace(arm, alone=LESS) for arm in sweep(1, 2, 4, 8, 10))],
        must=[f"{ALONE}training together reaches less under 5 arms, dp-1 to dp-10 (−0.060 to"],
    ),
    Case(
        name="without a hospital alone nothing is said of it",
        arms=[NONE, sgd()],
        must=["dp-sgd"],
        never=["Each hospital alone"],
    ),
    Case(
        name="how many of the ill are found",
        arms=[
            replace(NONE, sensitivity=(0.8, 0.7, 0.88)),
            sgd(sensitivity=(0.6, 0.5, 0.7)),
            Planted(name="x", sensitivity=(0.1, 0.0, 0.2), kind="dp-pix", unit="image"),
        ],
        must=[
            "Of the ill test images, thresholds chosen on validation patients find 0.800 under "
            "none (95 % interval 0.700 to 0.880) and 0.600 under dp-sgd (95 % interval 0.500 to "
            "0.700)."
        ],
        never=["0.100 under x"],
    ),
    Case(
        name="what a model at chance finds is not told",
        arms=[
            replace(NONE, sensitivity=(0.8, 0.7, 0.88)),
            sgd(auroc=(0.52, 0.45, 0.6), sensitivity=(0.99, 0.9, 1.0)),
        ],
        must=["find 0.800 under none"],
        never=["0.990 under"],
    ),
]
