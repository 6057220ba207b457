"""What a guarantee is about, in typed facts: accounting reads these, people the words made of them.

No number may depend on a sentence: whoever rewords one changes what is read, never what is counted.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION: Final = 3
"""Of ``privacy.json``: raised where a reader would misread the one before. Until 2 the facts were
words alone."""

Unit = Literal["none", "image", "patient", "hospital"]
"""Whose data one epsilon protects."""

Relation = Literal["none", "add-or-remove", "replace", "zero-out"]
"""How two neighbouring data sets differ; a unit that is zeroed out changes half as much as one that
is replaced."""

Changes = Literal["nothing", "data", "pixels", "voxels", "update"]
"""What of the unit differs between neighbours."""

Noise = Literal["images", "features", "gradients", "shares", "updates", "sum", "histograms"]
"""Where noise enters: on the sum at the server, on all others at the hospital. ``shares`` are each
hospital's part of one noise on a secure sum."""

Party = Literal["hospital", "pool", "server", "others", "recipients", "everyone"]
"""Who must be trusted; ``pool`` holds pooled data, ``recipients`` get a hospital's model, and of
the ``others``, the hospitals that share the noise, all but a number that is stated."""

Sampling = Literal["shuffled", "everyone", "once", "poisson"]
"""Who takes part in a step: shuffled batches, everybody, everybody in one release, or a Poisson
sample at a hospital's rate."""

_PARTIES: Final[dict[Party, str]] = {
    "hospital": "the hospital",
    "pool": "whoever holds the pooled data",
    "server": "the server",
    "others": "all but a stated number of the other hospitals",
    "recipients": "everyone who gets a hospital's model",
    "everyone": "everyone",
}
_VERBS: Final = {"add-or-remove": "add or remove", "replace": "replace", "zero-out": "zero out"}


class Facts(BaseModel):
    """A guarantee's unit, neighbours, place of noise, trust and sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: Unit
    relation: Relation = Field(description="between neighbouring data sets")
    changes: Changes = Field(description="what of the unit differs between neighbours")
    noise: tuple[Noise, ...] = Field(
        description="where noise enters, in the order of the data's way; empty: nowhere. The sum "
        "is noised at the server, everything else at the hospital"
    )
    trusted: tuple[Party, ...] = Field(description="who must be trusted; empty: nobody")
    sampling: Sampling = Field(description="poisson: at each hospital's sampling_rate")


def neighbours(unit: str, relation: Relation, changes: Changes = "data") -> str:
    """The neighbouring relation in words."""
    if relation == "none":
        return "none"
    what = {
        "pixels": f"the pixels of one {unit}",
        "voxels": f"the voxels of one {unit}",
        "update": f"one {unit}'s update",
    }.get(changes, f"one {unit}'s data" if relation == "replace" else f"one {unit}")
    if unit == "image" and relation == "replace" and changes == "data":
        return "add, remove or replace one image"  # under a cap one more takes another's place
    return f"{_VERBS[relation]} {what}"


def trust(parties: tuple[Party, ...]) -> str:
    """Who must be trusted, in words."""
    return " and ".join(_PARTIES[party] for party in parties) or "nobody"
