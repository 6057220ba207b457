"""Planted comparisons, and what the answer says of what privacy costs in each."""

from dataclasses import replace
from typing import Final

from support.answer_cases import (
    ALL_AT_8,
    AT_8,
    BLIND,
    HIGH,
    LOST_5,
    LOW,
    NO_BEST,
    NO_COST,
    NONE,
    ONCE,
    ONE_LEVEL,
    OUT,
    SAME,
    Case,
    alike,
    central,
    local,
    pixels,
    sgd,
    sweep,
)
from support.planted import Planted

COSTS: Final = [
    Case(
        name="one arm of each unit is not ranked across units",
        arms=[NONE, sgd(), central(), pixels(4)],
        must=[
            f"dp-sgd {AT_8} keeps 0.800 {LOST_5}.",
            "pixel-laplace (ε = 4 per image, δ = 0) keeps 0.840",
            "central-fixed (ε = 8 per hospital, 15.8 if its data are replaced, δ = 1e-5) keeps 0.7",
            ONE_LEVEL,
        ],
        never=["the most", "the least", NO_BEST, OUT],
    ),
    Case(
        name="pixel noise at 2,048 never wins",
        arms=[NONE, pixels(), sgd()],
        must=[
            f"dp-sgd {AT_8} keeps 0.800 {LOST_5}.",
            f"{OUT}pixel-laplace (ε = 2,048 per image, δ = 0).",
        ],
        never=["0.840", ONE_LEVEL],
    ),
    Case(
        name="pixel noise at 2,048 alone is no privacy",
        arms=[NONE, pixels()],
        must=[NO_COST, f"{OUT}pixel-laplace (ε = 2,048 per image, δ = 0)."],
        never=["keeps", "gaps between"],
    ),
    Case(
        name="six equal arms have no best and no worst",
        arms=[NONE, *alike(6)],
        must=[
            f"{ALL_AT_8}: dp-5 0.800 {LOST_5}; dp-4 0.790 {LOST_5}; dp-3 0.780",
            f"{NO_BEST}: the intervals of dp-5, dp-4, dp-3, dp-2, dp-1 and dp-0 overlap.",
        ],
        never=["the least", "0.050 of", ONE_LEVEL],
    ),
    Case(
        name="two equal arms have no best",
        arms=[NONE, *alike(2)],
        must=[f"{NO_BEST}: the intervals of dp-1 and dp-0 overlap."],
    ),
    Case(
        name="an arm above all others is best",
        arms=[NONE, HIGH, LOW, sgd("c", auroc=(0.69, 0.63, 0.75))],
        best=["a"],
        must=[
            f"{ALL_AT_8}, a keeps the most: 0.840 {LOST_5}; its interval lies above that of "
            f"b 0.700 {LOST_5} and c 0.690 {LOST_5}."
        ],
        never=[NO_BEST],
    ),
    Case(
        name="an arm above one of two others is not best",
        arms=[NONE, HIGH, sgd("b", auroc=(0.79, 0.74, 0.84)), sgd("c", auroc=(0.69, 0.63, 0.75))],
        must=[f"{NO_BEST}: the intervals of a and b overlap."],
    ),
    Case(
        name="the luck of training takes the best away",
        arms=[
            replace(NONE, seeds=3),
            sgd("a", auroc=(0.84, 0.81, 0.87), outer=(0.74, 0.94), seeds=3),
            sgd("b", auroc=(0.72, 0.69, 0.75), outer=(0.64, 0.8), seeds=3),
        ],
        must=[f"{NO_BEST}: the intervals of a and b overlap."],
        never=["trained once"],
    ),
    Case(
        name="intervals that touch have no best",
        arms=[NONE, HIGH, sgd("b", auroc=(0.76, 0.72, 0.8))],
        must=[f"{NO_BEST}: the intervals of a and b overlap."],
    ),
    Case(
        name="without intervals there is no best",
        arms=[NONE, sgd("a", auroc=0.84), sgd("b", auroc=0.6)],
        must=[f"{NO_BEST}: not all have an interval."],
    ),
    Case(
        name="several epsilons are told one by one",
        arms=[NONE, *sweep(1, 8)],
        must=[
            f"dp-1 (ε = 1 per patient, δ = 1e-5) keeps 0.800 {LOST_5}. dp-8 {AT_8} keeps 0.800",
            ONE_LEVEL,
        ],
        never=[NO_BEST],
    ),
    Case(
        name="a larger epsilon does not beat a smaller one",
        arms=[NONE, sgd("dp-1", 1.0, auroc=(0.55, 0.51, 0.59)), HIGH],
        must=["dp-1 (ε = 1 per patient, δ = 1e-5) keeps 0.550", f"a {AT_8} keeps 0.840"],
        never=["above that of", NO_BEST],
    ),
    Case(
        name="of five epsilons the ends are told and the others named",
        arms=[NONE, *sweep(1, 2, 4, 8, 16)],
        must=["AUROC against epsilon has the 3 epsilons between, 2 to 8 per patient."],
        never=["dp-4"],
    ),
    Case(
        name="of four epsilons one that is best at its own is not lost",
        arms=[NONE, sgd("dp-1", 1.0), *sweep(2, 4), HIGH, LOW],
        best=["a"],
        must=["the 2 epsilons between, 2 to 4 per patient"],
    ),
    Case(
        name="about one epsilon is one level, and other trust is told",
        arms=[NONE, HIGH, replace(LOW, epsilon=7.2, trust="nobody")],
        best=["a"],
        must=[
            f"At about one epsilon per patient, a {AT_8} keeps the most: 0.840",
            "b (ε = 7.2 per patient, δ = 1e-5) 0.700",
            "Trusted: the hospital, under a; nobody, under b.",
        ],
    ),
    Case(
        name="hospitals are compared with their data replaced",
        arms=[NONE, central(), local(8.0, auroc=(0.55, 0.51, 0.59))],
        must=["local-update (ε = 8 per hospital, δ = 1e-5) keeps 0.550", ONE_LEVEL],
        never=[NO_BEST, "above that of"],
    ),
    Case(
        name="a local and a central arm at one promise",
        arms=[NONE, central(8.0, 15.8), local(16.0, auroc=(0.56, 0.51, 0.61))],
        best=["central-fixed"],
        must=["At about one epsilon per hospital, central-fixed (ε = 8 per hospital, 15.8 if"],
        never=[ONE_LEVEL],
    ),
    Case(
        name="an epsilon of 20.4 is no meaningful protection",
        arms=[NONE, sgd("a", 20.4), sgd("b")],
        must=[f"{OUT}a (ε = 20.4 per patient, δ = 1e-5).", f"b {AT_8} keeps 0.800"],
        never=["a (ε = 20.4 per patient, δ = 1e-5) keeps"],
    ),
    Case(
        name="an epsilon of 20 still is",
        arms=[NONE, sgd("a", 20.0)],
        must=["a (ε = 20 per patient, δ = 1e-5) keeps 0.800"],
        never=[OUT],
    ),
    Case(
        name="a hospital's data replaced are beyond the bound",
        arms=[NONE, central(12.0, 23.9)],
        must=[NO_COST, "central-fixed (ε = 12 per hospital, 23.9 if its data are replaced, δ ="],
        never=["keeps"],
    ),
    Case(
        name="a patient with six films is beyond it, though one image is not",
        arms=[NONE, pixels(4.0, films=6), sgd()],
        must=[f"{OUT}pixel-laplace (ε = 4 per image, δ = 0; 24 for a patient's images together)."],
        never=["0.840"],
    ),
    Case(
        name="without a cap the films of test patients count",
        arms=[NONE, pixels(8.0, images=280)],
        must=[NO_COST, "(ε = 8 per image, δ = 0; 24 for a patient's images together)"],
    ),
    Case(
        name="with one film per patient an image is a patient",
        arms=[NONE, pixels(8.0)],
        must=["pixel-laplace (ε = 8 per image, δ = 0) keeps 0.840 (−0.010"],
        never=[OUT, "images together"],
    ),
    Case(
        name="the statement's own figure for a patient counts",
        arms=[NONE, sgd("dp", 2.0, unit="image", replaced=None, of_patient=21.5, films=3)],
        must=[NO_COST, "dp (ε = 2 per image, δ = 1e-5; 21.5 for a patient's images together)"],
    ),
    Case(
        name="a brightness shift claims nothing",
        arms=[
            NONE,
            Planted(name="shift", kind="brightness-shift", auroc=(0.84, 0.79, 0.89)),
            sgd(),
        ],
        must=[f"{OUT}shift (no DP claim).", f"dp-sgd {AT_8} keeps 0.800 {LOST_5}."],
        never=["0.840"],
    ),
    Case(
        name="noise from a seed claims nothing",
        arms=[NONE, replace(sgd("seeded"), epsilon=None, replaced=None)],
        must=[NO_COST, f"{OUT}seeded (no claim)."],
        never=["keeps"],
    ),
    Case(
        name="hospitals with guarantees of their own have no one figure",
        arms=[
            NONE,
            replace(
                sgd("mixed"),
                epsilon=None,
                replaced=None,
                unit="none",
                hospitals=[{"hospital": "north", "guarantee": {"arm": "dp-sgd"}}],
            ),
        ],
        must=[
            "no treatment has one guarantee for all hospitals that is meaningful protection.",
            "Without one guarantee for all, and so in no ranking: mixed (each hospital's own",
        ],
        never=[OUT, "keeps"],
    ),
    Case(
        name="everything at chance",
        arms=[replace(NONE, auroc=(0.52, 0.46, 0.58)), sgd(auroc=(0.51, 0.45, 0.57), change=SAME)],
        must=[
            f"0.520 (95 % interval 0.460 to 0.580), which {BLIND}: what privacy costs cannot be",
            f"dp-sgd {AT_8} {BLIND}: 0.510 (95 % interval 0.450 to 0.570).",
            "Not shown to be better than chance (0.5): none (without privacy) and dp-sgd.",
        ],
        never=["keeps", "not distinguishable"],
    ),
    Case(
        name="private arms at chance keep nothing",
        arms=[NONE, sgd(auroc=(0.51, 0.45, 0.57)), local()],
        must=[
            f"dp-sgd {AT_8} {BLIND}: 0.510",
            f"local-update (ε = 8 per hospital, δ = 1e-5) {BLIND}: 0.510",
            "Not shown to be better than chance (0.5): dp-sgd and local-update.",
            "no arm with privacy is shown to be better than chance, where a gap says little",
        ],
        never=["keeps"],
    ),
    Case(
        name="of two at chance neither is best",
        arms=[NONE, sgd("a", auroc=(0.51, 0.45, 0.57)), sgd("b", auroc=(0.4, 0.36, 0.44))],
        must=[f"{ALL_AT_8}: a {BLIND}: 0.510 (95 % interval 0.450 to 0.570); b {BLIND}: 0.400"],
        never=[NO_BEST],
    ),
    Case(
        name="the best of one level is above chance",
        arms=[NONE, sgd("a", auroc=(0.56, 0.49, 0.63)), sgd("b", auroc=(0.4, 0.36, 0.44))],
        must=[f"a {BLIND}: 0.560", f"b {BLIND}: 0.400"],
        never=["above that of"],
    ),
    Case(
        name="chance is judged with the luck of training",
        arms=[
            replace(NONE, seeds=3),
            sgd(auroc=(0.6, 0.55, 0.65), outer=(0.44, 0.76), seeds=3),
        ],
        must=[
            f"dp-sgd {AT_8} {BLIND}: 0.600 (95 % interval 0.440 to 0.760).",
            "better than chance (0.5): dp-sgd (with the luck of training 0.440 to 0.760).",
        ],
        never=["keeps", ONCE],
    ),
    Case(
        name="several seeds above chance",
        arms=[
            replace(NONE, seeds=3),
            sgd(auroc=(0.7, 0.65, 0.75), outer=(0.6, 0.8), seeds=3),
        ],
        must=[f"dp-sgd {AT_8} keeps 0.700 {LOST_5}."],
        never=["chance (0.5)", ONCE],
    ),
    Case(name="one seed says that it is one", arms=[NONE, sgd()], must=[ONCE]),
    Case(
        name="histograms are compared without tests",
        arms=[replace(NONE, source="histograms"), sgd(source="histograms")],
        must=[
            f"dp-sgd {AT_8} keeps 0.800 (−0.050, intervals overlap).",
            "hospitals sent histograms and no predictions",
        ],
        baseline="",
    ),
    Case(
        name="without an arm without privacy nothing is lost",
        arms=[sgd("a"), sgd("b", auroc=(0.7, 0.64, 0.76))],
        must=[
            f"No arm is without privacy: the others are compared with a {AT_8}, which reaches",
            f"{ALL_AT_8}: a 0.800; b 0.700 {LOST_5}. {NO_BEST}: the intervals of a and b overlap.",
            "is not known: there is no arm without privacy to compare with.",
        ],
        baseline="a",
    ),
    Case(
        name="a private arm alone",
        arms=[sgd("a")],
        must=[f"a {AT_8} reaches 0.800 (95 % interval 0.750 to 0.850)."],
        never=["keeps"],
        baseline="",
    ),
    Case(
        name="baselines alone are no treatment",
        arms=[
            Planted(name="pooled", scheme="pooled"),
            Planted(name="local-only", scheme="local-only", auroc=(0.7, 0.64, 0.76)),
        ],
        must=["Without privacy, the pooled baseline (pooled) reaches a test AUROC of 0.800"],
        never=["keeps", "best", OUT],
        baseline="pooled",
    ),
    Case(
        name="pooled data without privacy are in no ranking",
        arms=[NONE, sgd(), Planted(name="pooled", scheme="pooled", auroc=(0.9, 0.86, 0.94))],
        must=[f"dp-sgd {AT_8} keeps 0.800 {LOST_5}."],
        never=["0.900 (", NO_BEST],
    ),
    Case(
        name="a loss that cannot be told from none",
        arms=[NONE, sgd(change=SAME)],
        must=["(−0.010, 95 % interval −0.040 to +0.020, not distinguishable from no change)"],
    ),
]
