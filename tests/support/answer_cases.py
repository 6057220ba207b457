"""Planted arms, and what a case says of a comparison of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from support.planted import Planted, Values

NONE: Final = Planted(name="none", auroc=(0.85, 0.8, 0.9))
LOSS: Final = (-0.05, -0.08, -0.02, 0.001, 0.004)  # a change, its interval, p, and p after Holm
SAME: Final = (-0.01, -0.04, 0.02, 0.5, 1.0)
EVEN: Final[Mapping[str, Values]] = {"F": (0.80, 0.72, 0.88), "M": (0.82, 0.74, 0.9)}
WIDE: Final[Mapping[str, Values]] = {"F": (0.64, 0.56, 0.72), "M": (0.82, 0.74, 0.9)}
LOST: Final[Mapping[str, Values]] = {"F": (0.538, 0.45, 0.63), "M": (0.702, 0.61, 0.79)}
AGES: Final[Mapping[str, Values]] = {"0-29": (0.84, 0.76, 0.92), "80+": (0.78, 0.7, 0.86)}


def sgd(name: str = "dp-sgd", epsilon: float = 8.0, **changes: Any) -> Planted:
    """An arm that protects patients."""
    arm = Planted(
        name=name, kind="dp-sgd", unit="patient", epsilon=epsilon, delta=1e-5, replaced=12.0,
        trust="the hospital", auroc=(0.8, 0.75, 0.85), change=LOSS,
    )  # fmt: skip
    return replace(arm, **changes)


def pixels(epsilon: float = 2048.0, **changes: Any) -> Planted:
    """An arm that noises images."""
    arm = Planted(
        name="pixel-laplace", kind="pixel-laplace", unit="image", epsilon=epsilon, delta=0.0,
        trust="nobody", auroc=(0.84, 0.79, 0.89), change=SAME,
    )  # fmt: skip
    return replace(arm, **changes)


def central(epsilon: float = 8.0, replaced: float = 15.8, **changes: Any) -> Planted:
    """An arm that protects hospitals, noised at the server."""
    arm = Planted(
        name="central-fixed", kind="central-fixed", unit="hospital", epsilon=epsilon, delta=1e-5,
        replaced=replaced, trust="the server", auroc=(0.7, 0.64, 0.76), change=LOSS,
    )  # fmt: skip
    return replace(arm, **changes)


def local(epsilon: float = 8.0, **changes: Any) -> Planted:
    """An arm that protects hospitals, noised at home."""
    arm = Planted(
        name="local-update", kind="local-update", unit="hospital", epsilon=epsilon, delta=1e-5,
        trust="nobody", auroc=(0.51, 0.45, 0.57), change=LOSS,
    )  # fmt: skip
    return replace(arm, **changes)


def grouped(arm: Planted, sex: Mapping[str, Values], *told: float, **gaps: Any) -> Planted:
    """An arm with AUROCs by sex, and what was tested of the gap between them."""
    tested = {"sex auroc_gap": told} if told else {}
    return replace(arm, groups={"sex": sex}, gaps={**tested, **gaps})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A comparison, and what is true of it.

    `best` are the arms that the answer calls best, in its order. `must` are sentences or parts of
    them, `never` what is said nowhere. `baseline` is the one of comparison.json; "": there is none.
    `places` are its differences between places of noise.
    """

    name: str
    arms: Sequence[Planted]
    best: Sequence[str] = ()
    must: Sequence[str]
    never: Sequence[str] = ()
    baseline: str = "none"
    places: Sequence[Mapping[str, Any]] = ()


LOST_5: Final = "(−0.050, 95 % interval −0.080 to −0.020)"
AT_8: Final = "(ε = 8 per patient, δ = 1e-5)"
ALL_AT_8: Final = "At ε = 8 per patient, δ = 1e-5"
NO_COST: Final = "What privacy costs is not known: no treatment gives meaningful protection."
OUT: Final = "Without meaningful protection (ε above 20, or no claim) and so in no ranking: "
ONE_LEVEL: Final = "Arms are compared within one protected unit and at about one epsilon only"
NO_BEST: Final = "Which of them is best is not shown"
UNTESTED: Final = "Whether privacy changes gaps between groups was not tested"
BLIND: Final = "is not shown to be better than chance"
ONCE: Final = "Each arm was trained once: no interval holds the luck of training."


def sweep(*epsilons: float) -> list[Planted]:
    """Arms that differ by epsilon."""
    return [sgd(f"dp-{epsilon:g}", epsilon) for epsilon in epsilons]


def alike(count: int) -> list[Planted]:
    """Arms of one epsilon whose intervals overlap; the best minus the worst is positive by luck."""
    steps = [0.01 * step for step in range(count)]
    return [
        sgd(f"dp-{place}", auroc=(0.75 + step, 0.7 + step, 0.8 + step))
        for place, step in enumerate(steps)
    ]


HIGH = sgd("a", auroc=(0.84, 0.8, 0.88))
LOW = sgd("b", auroc=(0.7, 0.64, 0.76))
