"""Who trusts whom, and where noise enters: a chain from patient to the world for each model.

From a statement's typed facts alone: its sentences are shown and never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedmed.privacy.statement.facts import Facts
from fedmed.report.arms import Arm
from fedmed.report.words import listed, too_weak

IMAGES, GRADIENTS, SHARES = "images", "gradients", "shares"
UPDATES, SUM = "updates", "sum"
_SHIFT: Final = "brightness-shift"
_SHIFTED: Final = (
    "The brightness of every image is shifted once. That gives no guarantee: the difference "
    "between any two pixels stays as it was, and the model may show what the images show."
)
_NOISE: Final = {
    IMAGES: "noise on every image, once, before training",
    GRADIENTS: "noise on the clipped gradients, in every step",
    SHARES: "a share of the noise on its clipped sum, in every step",
    UPDATES: "noise on the clipped update, before it leaves",
    SUM: "noise on the sum of clipped updates, every round",
}
_SUM_OF_GRADIENTS: Final = "noise on the sum of clipped gradients, in every step"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One holder of data; `noise` is what it adds, `passes` what it hands on.

    `protected` is the unit that the guarantee covers here; `noised` is set where what is handed on
    is within the guarantee.
    """

    name: str
    sees: str
    trusted: bool
    protected: str = ""
    noise: tuple[str, ...] = ()
    passes: str = ""
    noised: bool = False


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The arms that share one trust model, in words and as stages.

    There are no stages where hospitals protect different things, or the facts are not recorded.
    ``weak`` says so where what they claim is no meaningful protection.
    """

    arms: list[str]
    trust: str
    claimed: bool
    stages: list[Stage]
    weak: str = ""
    warning: str = ""


def chains(arms: Sequence[Arm]) -> list[Chain]:
    """One chain for all arms that trust the same and add noise in the same places."""
    arms_by_trust: dict[tuple[object, ...], list[Arm]] = {}
    for arm in arms:
        claimed = arm.epsilon is not None
        about = None
        if arm.facts is not None:
            about = (arm.facts.noise, arm.facts.trusted, arm.facts.unit)
        key = (arm.scheme, about, arm.trust, claimed, arm.weak, arm.kind == _SHIFT)
        arms_by_trust.setdefault(key, []).append(arm)
    return [
        Chain(
            arms=[arm.name for arm in same],
            trust=same[0].trust,
            claimed=same[0].epsilon is not None,
            stages=[] if same[0].facts is None else _stages(same[0], same[0].facts),
            weak=_weak(same) if _claimed_weakly(same[0]) else "",
            warning=_SHIFTED if same[0].kind == _SHIFT else "",
        )
        for same in arms_by_trust.values()
    ]


def _claimed_weakly(arm: Arm) -> bool:
    return arm.weak and arm.epsilon is not None


def _weak(same: Sequence[Arm]) -> str:
    told = listed([f"{arm.name} ({too_weak(arm)})" for arm in same])
    return f"No meaningful protection: {told}. Whoever sees what is handed on is trusted in effect."


def _stages(arm: Arm, about: Facts) -> list[Stage]:
    """Patient, hospital, server and the world; fewer where data never meet."""
    noise = tuple(place for place in _NOISE if place in about.noise)
    claimed = arm.epsilon is not None
    everyone = not {"everyone", "recipients"}.isdisjoint(about.trusted)
    hospital = everyone or not {"hospital", "pool"}.isdisjoint(about.trusted)
    server = everyone or "server" in about.trusted
    early = any(place in noise for place in (IMAGES, GRADIENTS, SHARES, UPDATES))
    summed = SHARES in noise or (SUM in noise and arm.unit != "hospital")
    at_home = tuple(_NOISE[place] for place in noise if place != SUM)
    patient = Stage(
        name="Patient",
        sees="gives images",
        trusted=False,
        protected=arm.unit if arm.unit in ("patient", "image") else "",
        passes="images",
    )
    world = Stage(
        name="Everyone else",
        sees="sees the model" if arm.scheme != "local-only" else "sees each hospital's model",
        trusted=everyone,
    )
    model = "noised model" if noise else "exact model"
    if arm.scheme in ("pooled", "local-only"):
        pooled = arm.scheme == "pooled"
        holder = Stage(
            name="Data pool" if pooled else "Hospital",
            sees="sees all images, trains" if pooled else "sees its images, trains alone",
            trusted=hospital,
            protected=arm.unit if arm.unit == "hospital" else "",
            noise=at_home,
            passes=model,
            noised=claimed and bool(noise),
        )
        return [patient, holder, world]
    if summed:
        return [patient, *_sum(noise, claimed, hospital, server, at_home), world]
    shift = "shifts their brightness, " if arm.kind == _SHIFT else ""
    member = Stage(
        name="Hospital",
        sees=f"sees its images, {shift}trains",
        trusted=hospital,
        protected=arm.unit if arm.unit == "hospital" else "",
        noise=at_home,
        passes=_update(noise),
        noised=claimed and early,
    )
    middle = Stage(
        name="Server",
        sees=f"sees {_update(noise).replace('update', 'updates', 1)}, averages",
        trusted=server,
        noise=(_NOISE[SUM],) if SUM in noise else (),
        passes=model,
        noised=claimed and bool(noise),
    )
    return [patient, member, middle, world]


def _sum(
    noise: tuple[str, ...], claimed: bool, hospital: bool, server: bool, at_home: tuple[str, ...]
) -> list[Stage]:
    """Hospitals whose clipped sums are added up: in the open at the server, or under masks."""
    masked = SHARES in noise
    member = Stage(
        name="Hospital",
        sees="sees its images, sums clipped gradients",
        trusted=hospital,
        noise=at_home,
        passes="its share under a mask" if masked else "exact clipped sum",
        noised=claimed and masked,
    )
    middle = Stage(
        name="Server",
        sees="sees the noised sum of all, and of no hospital alone"
        if masked
        else "sees each hospital's exact sum, adds up",
        trusted=server,
        noise=(_SUM_OF_GRADIENTS,) if SUM in noise else (),
        passes="noised model",
        noised=claimed,
    )
    if not masked:
        return [member, middle]
    others = Stage(
        name="Other hospitals",
        sees="take masks away for those who answered; most add their own noise",
        trusted=True,
        passes="masks that cancel in the sum",
        noised=claimed,
    )
    return [member, others, middle]


def _update(noise: tuple[str, ...]) -> str:
    if UPDATES in noise or GRADIENTS in noise:
        return "noised update"
    if IMAGES in noise:
        return "update from noised images"
    return "exact update"
