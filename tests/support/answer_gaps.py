"""Planted comparisons, and what the answer says of gaps between groups in each."""

from dataclasses import replace
from typing import Final

from support.answer_cases import AGES, EVEN, LOST, NONE, UNTESTED, WIDE, Case, grouped, pixels, sgd

NO_GROUPS: Final = "could not be compared: the results hold no groups of patients."
NO_WIDENING: Final = "widening that can be told from chance"
WITHOUT_80: Final = {"0-29": (0.84, 0.76, 0.92), "80+": (0.55, 0.45, 0.65)}
WITH_80: Final = {"0-29": (0.8, 0.7, 0.9), "80+": (0.53, 0.43, 0.63)}
BOTH: Final = {"sex": EVEN, "age": AGES}

GAPS: Final = [
    Case(
        name="a missing comparison tests no gap",
        arms=[grouped(NONE, EVEN), grouped(sgd(), WIDE)],
        must=[
            "Under dp-sgd the AUROC is 0.640 for women and 0.820 for men; without privacy 0.800 "
            f"and 0.820. {UNTESTED}: of the AUROC gap between the sexes the largest change is "
            "+0.160.",
            "comparison.json is absent",
        ],
        never=["widen"],
        baseline="",
    ),
    Case(
        name="nor does it show that a gap did not widen",
        arms=[grouped(NONE, WIDE), grouped(sgd(), EVEN)],
        must=[f"{UNTESTED}: of the AUROC gap between the sexes the largest change is −0.160."],
        never=["widen", "No treatment"],
        baseline="",
    ),
    Case(name="no groups", arms=[NONE, sgd()], must=[NO_GROUPS], never=["widen"]),
    Case(
        name="a group at chance is named beside a gap that was not shown to widen",
        arms=[
            grouped(NONE, EVEN),
            grouped(sgd(auroc=(0.65, 0.6, 0.7)), LOST, 0.14, -0.01, 0.29, 0.06, 0.12),
        ],
        must=[
            "Under dp-sgd the AUROC is 0.538 for women and 0.702 for men; without privacy 0.800 "
            "and 0.820. The change of the AUROC gap between the sexes, +0.140 (95 % interval "
            "−0.010 to +0.290, p 0.12 after Holm over 2 comparisons), is not a "
            f"{NO_WIDENING}.",
            "Not shown to be better than chance under dp-sgd for women (0.538, 0.450 to 0.630): "
            "a gap says little there.",
        ],
        never=["No widening"],
    ),
    Case(
        name="a clear widening",
        arms=[grouped(NONE, EVEN), grouped(sgd(), WIDE, 0.16, 0.06, 0.26, 0.001, 0.002)],
        must=[
            "0.640 for women and 0.820 for men; without privacy 0.800 and 0.820. Privacy widens "
            "the AUROC gap between the sexes most clearly under dp-sgd: 0.020 without privacy, "
            "0.180 with it (+0.160, 95 % interval +0.060 to +0.260, p 0.002 after Holm over 2 "
            "comparisons)."
        ],
        never=["is not a", "better than chance"],
    ),
    Case(
        name="a widening that Holm does not let stand",
        arms=[grouped(NONE, EVEN), grouped(sgd(), WIDE, 0.16, 0.01, 0.31, 0.04, 0.08)],
        must=["p 0.08 after Holm", "is not a widening that stands once all comparisons are count"],
        never=["Privacy widens"],
    ),
    Case(
        name="a narrower gap is no widening",
        arms=[grouped(NONE, WIDE), grouped(sgd(), EVEN, -0.16, -0.26, -0.06, 0.001, 0.002)],
        must=["−0.160 (95 % interval −0.260 to −0.060", f"is not a {NO_WIDENING}"],
        never=["Privacy widens", "stands once"],
    ),
    Case(
        name="an arm whose gaps were not tested is named",
        arms=[
            grouped(NONE, EVEN),
            grouped(sgd("a"), WIDE, 0.16, -0.02, 0.34, 0.2, 0.4),
            grouped(sgd("b"), EVEN),
        ],
        must=["Under a the AUROC is 0.640 for women", "Gaps were not tested under b."],
        never=["Privacy widens"],
    ),
    Case(
        name="what was tested of the sexes says nothing of ages",
        arms=[
            replace(NONE, groups=BOTH),
            replace(
                sgd(),
                groups=BOTH,
                gaps={
                    "sex auroc_gap": (0.0, -0.05, 0.05, 0.9, 1.0),
                    "sex fnr_gap": (0.0, -0.05, 0.05, 0.9, 1.0),
                },
            ),
        ],
        must=["The change of the AUROC gap between the sexes, 0.000 (95 % interval −0.050 to"],
        never=["tested, none", "between age bands that"],
    ),
    Case(
        name="several attributes were tested",
        arms=[
            replace(NONE, groups=BOTH),
            replace(
                sgd(),
                groups=BOTH,
                gaps={
                    "sex auroc_gap": (0.0, -0.05, 0.05, 0.9, 1.0),
                    "age auroc_gap": (0.01, -0.04, 0.06, 0.8, 1.0),
                },
            ),
        ],
        must=[
            "Under dp-sgd the AUROC is 0.780 for patients of 80 and over and 0.840 for patients "
            "of 0 to 29; without privacy 0.780 and 0.840. Of 2 changes of gaps between the sexes "
            f"and age bands that were tested, none is a {NO_WIDENING}; the largest, of the AUROC "
            "gap between age bands under dp-sgd, is +0.010"
        ],
    ),
    Case(
        name="the old are at chance with and without privacy",
        arms=[
            replace(NONE, groups={"age": WITHOUT_80}),
            replace(
                sgd(), groups={"age": WITH_80}, gaps={"age auroc_gap": (-0.02, -0.1, 0.06, 0.6, 1)}
            ),
        ],
        must=[
            "chance without privacy for patients of 80 and over (0.550, 0.450 to 0.650); under "
            "dp-sgd for patients of 80 and over (0.530, 0.430 to 0.630): a gap says little there."
        ],
        never=["under none"],
    ),
    Case(
        name="what noise without protection does to gaps is not privacy's doing",
        arms=[
            grouped(NONE, EVEN),
            grouped(pixels(), WIDE, 0.16, 0.06, 0.26, 0.001, 0.002),
            grouped(sgd(), EVEN, 0.0, -0.05, 0.05, 0.9, 1.0),
        ],
        must=[
            f"0.000 (95 % interval −0.050 to +0.050, p 1.00 after Holm over 4 comparisons), is "
            f"not a {NO_WIDENING}"
        ],
        never=["Privacy widens", "under pixel-laplace"],
    ),
]
