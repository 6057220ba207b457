"""Planted comparisons of the places of noise, and what the answer says of their price."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from support.answer_cases import NONE, Case, sgd
from support.planted import Json, Planted, Values

# A difference with its interval, p, p after Holm, and what could not be seen.
Told = tuple[float, float, float, float, float, float]
COSTS: Final[Told] = (-0.05, -0.08, -0.02, 0.001, 0.003, 0.04)
ALIKE: Final[Told] = (-0.01, -0.034, 0.014, 0.4, 0.8, 0.036)
GAINS: Final[Told] = (0.05, 0.02, 0.08, 0.001, 0.003, 0.04)
PART: Final[Told] = (0.02, 0.01, 0.03, 0.001, 0.003, 0.015)
NEARLY: Final[Told] = (0.045, 0.02, 0.07, 0.001, 0.003, 0.035)
ONCE_SHOWN: Final[Told] = (-0.03, -0.059, -0.001, 0.04, 0.12, 0.04)

KINDS: Final = {"local": "dp-sgd", "distributed": "distributed-dp-sgd", "central": "central-dp-sgd"}
PAIRS: Final = (("central", "local"), ("local", "distributed"), ("central", "distributed"))
RECIPES: Final = (
    "Recipes differ too, not only the place of the noise. In brackets: difference on the same test "
    "images, 95 % interval, p after Holm"
)
NOT_ONE: Final = "no interval holds the luck of training"


def name(place: str, epsilon: float, unit: str = "patient") -> str:
    return f"{place}-{epsilon:g}" if unit == "patient" else f"{place}-{unit}-{epsilon:g}"


def placed(
    epsilon: float = 8.0, *, unit: str = "patient", seeds: int = 3, **aurocs: Values
) -> list[Planted]:
    """Arms of one guarantee with noise at each place, in the order of a table."""
    return [
        sgd(
            name(place, epsilon, unit),
            epsilon,
            kind=kind,
            unit=unit,
            replaced=epsilon if unit == "image" else 2 * epsilon,
            seeds=seeds,
            auroc=aurocs.get(place, (0.8, 0.75, 0.85)),
        )
        for place, kind in KINDS.items()
    ]


def at(
    *told: Told | None,
    epsilon: float = 8.0,
    unit: str = "patient",
    seeds: int = 3,
    left_out: Sequence[str] = (),
) -> Json:
    """What comparison.json holds of them: local minus central, and distributed minus both."""
    return {
        "unit": unit,
        "epsilon": epsilon,
        "delta": 1e-5,
        "quantity": "auroc",
        "arms": {
            place: name(place, epsilon, unit) for place in ("central", "local", "distributed")
        },
        "left_out": list(left_out),
        "differences": [
            _row(name(one, epsilon, unit), name(other, epsilon, unit), numbers, seeds)
            for (one, other), numbers in zip(PAIRS, told, strict=True)
            if numbers is not None
        ],
    }


def _row(one: str, other: str, told: Told, seeds: int) -> Json:
    value, low, high, p, p_holm, detectable = told
    change: dict[str, Any] = {"value": value, "low": low, "high": high, "seeds": seeds}
    if seeds > 1:
        change |= {"both_low": low, "both_high": high}
    return {
        "from": one,
        "to": other,
        "before": 0.85,
        "after": 0.85 + value,
        "difference": change,
        "p": p,
        "p_holm": p_holm,
        "minimum_detectable": detectable,
    }


BLIND: Final[Values] = (0.52, 0.45, 0.6)
AT_8: Final = "At ε = 8 per patient, δ = 1e-5, "
LOCAL: Final = "noise at each hospital (local-8)"
CENTRAL: Final = "noise at the server (central-8)"
SHARES: Final = "oise in shares of the hospitals (distributed-8)"
COST: Final = f"{LOCAL} costs 0.050 of AUROC against {CENTRAL}: 0.800 against 0.850"
UNSEEN: Final = "(−0.010, −0.034 to +0.014, p 0.80; one under 0.036 could not be seen)"

PLACES: Final = [
    Case(
        name="what local noise costs against central noise, and distributed gives back a part",
        arms=[NONE, *placed()],
        places=[at(COSTS, PART, (-0.03, -0.05, -0.01, 0.002, 0.004, 0.03))],
        must=[
            f"{AT_8}{COST} (−0.050, −0.080 to −0.020, p 0.003). N{SHARES} gives back 0.020 of it "
            "(+0.020, +0.010 to +0.030, p 0.003); it reaches less than noise at the server "
            f"(−0.030, −0.050 to −0.010, p 0.004). {RECIPES} over 3 comparisons."
        ],
        never=[NOT_ONE, "as much as that", "left out", "could not be seen"],
    ),
    Case(
        name="nearly all of the loss comes back, and that is not called as good as central",
        arms=[NONE, *placed()],
        places=[at(COSTS, NEARLY, ALIKE)],
        must=[
            f"N{SHARES} gives back 0.045 of it (+0.045, +0.020 to +0.070, p 0.003); it is not "
            f"shown to differ from noise at the server {UNSEEN}."
        ],
        never=["as much as that", "as good as", "all of it"],
    ),
    Case(
        name="distributed noise gives back all that local noise lost",
        arms=[NONE, *placed()],
        places=[at(COSTS, GAINS, (0.0, -0.02, 0.02, 0.9, 0.9, 0.03))],
        must=[f"N{SHARES} gives back as much as that or more (+0.050, "],
        never=["0.050 of it"],
    ),
    Case(
        name="a loss that is shown need not come back",
        arms=[NONE, *placed()],
        places=[at(COSTS, ALIKE, COSTS)],
        must=[
            COST,
            f"That n{SHARES} gives any of it back is not shown {UNSEEN}; it reaches less than "
            "noise at the server (−0.050",
        ],
        never=["gives back"],
    ),
    Case(
        name="distributed noise may lose more than local noise",
        arms=[NONE, *placed()],
        places=[at(COSTS, COSTS, COSTS)],
        must=[f"N{SHARES} costs still more (−0.050"],
        never=["gives back", "gives any"],
    ),
    Case(
        name="without a loss that is shown nothing is given back",
        arms=[NONE, *placed()],
        places=[at(ALIKE, GAINS, GAINS)],
        must=[
            f"{AT_8}no difference is shown between {LOCAL} and {CENTRAL}: AUROC 0.840 and 0.850 "
            f"{UNSEEN}. No loss is shown that n{SHARES} could give back: it reaches more than "
            "noise at each hospital (+0.050, +0.020 to +0.080, p 0.003), and reaches more than "
            "noise at the server (+0.050"
        ],
        never=["gives back", "costs 0.0", "of it"],
    ),
    Case(
        name="a loss that one test of three shows is not shown",
        arms=[NONE, *placed()],
        places=[at(ONCE_SHOWN, NEARLY, ALIKE)],
        must=[
            f"no difference is shown between {LOCAL} and {CENTRAL}: AUROC 0.820 and 0.850 (−0.030, "
            "−0.059 to −0.001, p 0.12, 0.04 alone: not shown once all comparisons are counted). No "
            f"loss is shown that n{SHARES} could give back"
        ],
        never=["costs 0.030", "gives back"],
    ),
    Case(
        name="local noise may reach more than central noise, by its recipe",
        arms=[NONE, *placed()],
        places=[at(GAINS, ALIKE, GAINS)],
        must=[
            f"{AT_8}{LOCAL} reaches more AUROC than {CENTRAL}: 0.900 against 0.850 (+0.050, ",
            f"No loss is shown that n{SHARES} could give back: it is not shown to differ from "
            f"noise at each hospital {UNSEEN}, and reaches more than noise at the server (+0.050",
            RECIPES,
        ],
        never=["costs 0.0", "gives back"],
    ),
    Case(
        name="between arms at chance there is nothing to compare",
        arms=[NONE, *placed(local=BLIND, central=BLIND, distributed=BLIND)],
        places=[at(COSTS, GAINS, ALIKE)],
        must=[
            f"{AT_8}neither {CENTRAL} nor {LOCAL} nor n{SHARES} is shown to be better than chance: "
            "there is nothing to compare."
        ],
        never=["of AUROC against", "gives back", RECIPES],
    ),
    Case(
        name="where local and central noise are at chance no loss is told",
        arms=[NONE, *placed(local=BLIND, central=BLIND)],
        best=["distributed-8"],
        places=[at(COSTS, GAINS, ALIKE)],
        must=[
            f"{AT_8}neither {LOCAL} nor {CENTRAL} is shown to be better than chance: there is no "
            f"cost to see. N{SHARES} reaches more than noise at each hospital (+0.050",
        ],
        never=["of AUROC against", "gives back", "No loss is shown"],
    ),
    Case(
        name="what comes back at chance cannot be seen",
        arms=[NONE, *placed(local=BLIND, distributed=BLIND)],
        best=["central-8"],
        places=[at(COSTS, GAINS, ALIKE)],
        must=[
            "(local-8, not shown to be better than chance) costs 0.050 of AUROC against",
            f"What n{SHARES[:-1]}, not shown to be better than chance) gives back of it cannot be "
            f"seen; it is not shown to differ from noise at the server {UNSEEN}.",
        ],
        never=["gives back 0"],
    ),
    Case(
        name="of two epsilons both are told, and neither beside the other",
        arms=[NONE, *placed(3), *placed(8)],
        places=[at(ALIKE, ALIKE, ALIKE), at(COSTS, PART, ALIKE, epsilon=3)],
        must=[
            "At ε = 3 per patient, δ = 1e-5, noise at each hospital (local-3) costs 0.050 of AUROC "
            "against noise at the server (central-3): 0.800",
            f"{UNSEEN}. {AT_8}no difference is shown between {LOCAL} and {CENTRAL}",
            f"{RECIPES} over 6 comparisons.",
        ],
        never=["larger epsilons"],
    ),
    Case(
        name="of several epsilons the smallest is told, and a range of the others",
        arms=[NONE, *placed(1), *placed(3), *placed(8)],
        places=[
            at(ALIKE, ALIKE, ALIKE, epsilon=1),
            at(COSTS, PART, ALIKE, epsilon=3),
            at(ALIKE, GAINS, ALIKE),
        ],
        must=[
            "At ε = 1 per patient, δ = 1e-5, no difference is shown between noise at each hospital "
            "(local-1)",
            "At the 2 larger epsilons, 3 to 8 per patient, AUROC differs by −0.050 to −0.010 "
            "(noise at each hospital minus noise at the server), +0.020 to +0.050 (noise in "
            "shares of the hospitals minus noise at each hospital) and −0.010 (noise in shares "
            "of the hospitals minus noise at the server). Of these is shown: noise at each "
            "hospital reaches less than noise at the server at ε = 3; noise in shares of the "
            "hospitals reaches more than "
            f"noise at each hospital at ε = 3 and 8. {RECIPES} over 9 comparisons.",
        ],
        never=["costs 0.0", "gives back", f"{AT_8}n"],
    ),
    Case(
        name="of several epsilons without a difference, one could have been there",
        arms=[
            *(NONE, *placed(1), *placed(3)),
            *placed(8, local=BLIND, central=BLIND, distributed=BLIND),
        ],
        places=[
            at(ALIKE, ALIKE, ALIKE, epsilon=1),
            at(ALIKE, (*ALIKE[:5], 2.05), ALIKE, epsilon=3),
            at(COSTS, GAINS, COSTS),
        ],
        must=[
            "AUROC differs by −0.010 (noise at each hospital minus noise at the server), −0.010 (",
            "None of these differences is shown; one under 0.036 to 1.000 could not be seen. At ε "
            "= 8 none is shown to be better than chance.",
        ],
        never=["Of these is shown"],
    ),
    Case(
        name="places are compared within a unit",
        arms=[NONE, *placed(), *placed(4, unit="image")],
        places=[at(COSTS, PART, ALIKE), at(ALIKE, ALIKE, ALIKE, epsilon=4, unit="image")],
        must=[
            f"{AT_8}{COST}",
            "At ε = 4 per image, δ = 1e-5, no difference is shown between noise at each hospital "
            "(local-image-4) and noise at the server (central-image-4)",
        ],
        never=["larger epsilons"],
    ),
    Case(
        name="one training each is said of the places too",
        arms=[replace(NONE, seeds=3), *placed(seeds=1)],
        places=[at(COSTS, PART, ALIKE, seeds=1)],
        must=["3 comparisons. Each of them was trained once: no interval holds the luck of"],
    ),
    Case(
        name="arms without seeds in common have no interval with training",
        arms=[replace(NONE, seeds=3), *placed(seeds=3)],
        places=[at(COSTS, PART, ALIKE, seeds=1)],
        must=["3 comparisons. Where arms have fewer than two seeds in common no interval holds"],
        never=["trained once"],
    ),
    Case(
        name="without meaningful protection places are not compared",
        arms=[NONE, *placed(900)],
        places=[at(COSTS, PART, ALIKE, epsilon=900)],
        must=["no treatment gives meaningful protection"],
        never=["of AUROC against", RECIPES],
    ),
    Case(
        name="without an arm noised at the server no loss is told",
        arms=[NONE, *placed()[:2]],
        places=[at(None, PART, None)],
        must=[
            f"{AT_8}n{SHARES} reaches more than noise at each hospital (+0.020, +0.010 to +0.030, "
            f"p 0.003). {RECIPES}."
        ],
        never=["gives back", "costs 0.0", "server"],
    ),
    Case(
        name="a second arm with noise at one place is left out by name",
        arms=[NONE, *placed(), sgd("other")],
        places=[at(COSTS, PART, ALIKE, left_out=["other"])],
        must=["Of arms with noise at one place the first counts; left out: other."],
    ),
    Case(
        name="a test that could have seen nothing says so, and no size above 1",
        arms=[NONE, *placed()],
        places=[at((*ALIKE[:5], 2.04), ALIKE, ALIKE)],
        must=["(−0.010, −0.034 to +0.014, p 0.80; no difference could have been seen)"],
        never=["under 2.0"],
    ),
    Case(
        name="a damaged list of places says nothing",
        arms=[NONE, *placed()],
        places=[
            {**at(COSTS, PART, ALIKE), "epsilon": "eight"},
            {**at(COSTS, PART, ALIKE), "arms": {"central": ["central-8"], "local": "gone"}},
            {**at(COSTS, PART, ALIKE), "differences": [_row("local-8", "central-8", COSTS, 3)]},
        ],
        must=["local-8"],
        never=["noise at", "gives back", RECIPES],
    ),
]
