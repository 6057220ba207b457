"""DP-SGD over all hospitals together: one noise on the sum of their clipped gradients."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from fedmed.base.errors import UserError
from fedmed.base.rounding import up_text
from fedmed.privacy import accounting
from fedmed.privacy.mechanisms.grid import ROUNDING, SMEARED, Grid, added_delta
from fedmed.privacy.plans.base import Payer, Words
from fedmed.privacy.plans.gradient import GradientPlan, Sampling
from fedmed.privacy.statement.facts import Facts

KEPT: Final = 1 - 2.0**-10
"""Share of delta that the accountant's continuous noise may use; the rest is for the tables of the
discrete noise, which need far less."""


@dataclass(frozen=True, kw_only=True)
class SummedPlan(GradientPlan):
    """DP-SGD whose step is one sum over all hospitals (FedSGD), on a grid of whole numbers.

    Every hospital samples its patients at one public ``rate``; a round is one step. At the
    ``server`` one noise is added to the sum of what hospitals send. As ``shares`` each hospital
    adds a part, and the server sees the sum alone: of the ``threshold`` hospitals that a step needs
    at least, all but ``colluding`` add noise that nobody takes away again, so that a share is one
    over the square root of that many of the whole noise. ``noise_multiplier`` is the whole noise
    over the sensitivity of a rounded sum, (1 + ROUNDING) x the clipping norm.

    Raises :class:`UserError` where there is nobody to share the noise with, or a server could have
    two sums of one step.
    """

    placement: Literal["server", "shares"]
    rate: float
    hospitals: int
    threshold: int
    colluding: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.placement == "server":
            return
        everybody, least = self.hospitals, (self.hospitals + self.colluding) // 2 + 1
        if self.colluding >= everybody - 1 or everybody < 3:
            raise UserError(
                f"privacy.colluding = {self.colluding} of {everybody} hospitals leaves nobody to "
                "share the noise with; use dp-sgd, where each hospital adds all of it"
            )
        if not least <= self.threshold <= everybody:
            raise UserError(
                f"privacy.threshold = {self.threshold}: with {everybody} hospitals and "
                f"privacy.colluding = {self.colluding} a server could unmask two sums of one step "
                f"and learn their difference; use {least} to {everybody}, or 0 for all"
            )
        if self.honest < 2:
            raise UserError(
                f"privacy.threshold = {self.threshold} with privacy.colluding = {self.colluding} "
                "counts on one hospital's noise alone; use dp-sgd, where each adds all of it"
            )

    @property
    def honest(self) -> int:
        """Hospitals whose shares of the noise the guarantee counts on; 1: the server's is whole."""
        return 1 if self.placement == "server" else self.threshold - self.colluding

    @property
    def payer(self) -> Payer:
        """Who adds the noise."""
        return "server" if self.placement == "server" else "hospital"

    @property
    def sampling(self) -> Sampling:
        """At the one public rate."""
        return Sampling(
            unit=self.unit,
            units=self.units,
            expected_batch=self.expected_batch,
            steps_per_round=1,
            declared=self.declared,
            given_rate=self.rate,
        )

    @property
    def noise_standard_deviation(self) -> float:
        """Of the whole noise on the sum over all hospitals, in the units of gradients."""
        return self.noise_multiplier * self.clipping_norm * (1 + ROUNDING)

    def grid(self, coordinates: int) -> Grid:
        """The grid of sums of so many numbers; :class:`UserError` where 32 bits cannot carry it."""
        grid = Grid(
            coordinates=coordinates,
            clipping_norm=self.clipping_norm,
            multiplier=self.noise_multiplier,
            hospitals=self.hospitals,
            shares=self.honest,
        )
        extra = added_delta(coordinates, self.steps, self.hospitals, self.epsilon())
        if extra > self.delta * (1 - KEPT):
            raise UserError(
                f"privacy.delta = {self.delta:g}: the tables of the noise of {coordinates:,} "
                f"numbers add {extra:.2g} to it; raise it, or train fewer parameters"
            )
        return grid

    def agreed(self, coordinates: int) -> str:
        """Digest of what all hospitals must have alike: the grid, and what their noise rests on."""
        rests_on = [self.unit, self.rate.hex(), self.steps, self.delta.hex(), self.honest]
        told = [self.grid(coordinates).digest(), self.images_per_patient, *rests_on]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def check_noise(self, grid: float = 2.0**-52) -> None:
        """Nothing: whole numbers lose no noise in rounding; :meth:`grid` checks their range."""

    def epsilon(self, taken: int | None = None, delta: float | None = None) -> float:
        """Epsilon after ``taken`` steps (by default the planned number)."""
        return super().epsilon(taken, (delta or self.delta) * KEPT)

    def replace_one(self, taken: int | None = None, delta: float | None = None) -> float:
        """Epsilon for a unit replaced by another."""
        return super().replace_one(taken, (delta or self.delta) * KEPT)

    def per_patient(self, taken: int | None = None, delta: float | None = None) -> float | None:
        """Under the image unit: epsilon for a patient with the cap of images."""
        return super().per_patient(taken, (delta or self.delta) * KEPT)

    def epsilon_alone(self, taken: int | None = None) -> float:
        """Epsilon against the server together with all other hospitals: of one share alone.

        Of the plan's own relation: a replaced image costs more than one that is added. Infinite
        where the smeared part of the share (``grid.SMEARED``) is all of it.
        """
        # The share has SMEARED / honest on top of its part of the noise, and alone it needs all of
        # SMEARED; a sensitivity is that of one coordinate at least.
        lacking = SMEARED * (1 - 1 / self.honest) * (ROUNDING / (1 + ROUNDING)) ** 2
        square = self.noise_multiplier**2 / self.honest - lacking
        if square <= 0:
            return math.inf
        mechanism = replace(self.step, noise=math.sqrt(square))
        count = self.steps if taken is None else taken
        return accounting.composed_epsilon(((mechanism, count),), self.delta * KEPT)

    def noise_to_signal(self, parameters: int) -> float:
        """Noise over an expected batch of all hospitals, if all were as large as this one."""
        batch = self.rate * self.units * self.hospitals
        return self.noise_multiplier * (1 + ROUNDING) * math.sqrt(parameters) / batch

    def facts(self, scheme: str) -> Facts:
        """See :class:`Plan`."""
        server = self.placement == "server"
        return Facts(
            unit=self.unit,
            relation="add-or-remove" if self.unit == "patient" else "replace",
            changes="data",
            noise=("sum",) if server else ("shares",),
            trusted=("hospital", "server") if server else ("hospital", "others"),
            sampling="poisson",
        )

    def words(self, scheme: str) -> Words:
        """See :class:`Plan`."""
        patient, server = self.unit == "patient", self.placement == "server"
        where = "the server adds one discrete Gaussian noise to their sum"
        released: tuple[str, ...] = ("the noised model after every step",)
        uncovered: tuple[str, ...] = ()
        if not server:
            where = (
                f"each adds a share of discrete Gaussian noise, 1 / sqrt({self.honest}) of the "
                "whole, and a secure sum shows the server their total alone"
            )
            alone = up_text(self.epsilon_alone())
            uncovered = (
                f"against the server together with more than {self.colluding} hospitals the noise "
                f"is less: of a hospital whose peers are all against it, its own share alone, for "
                f"which epsilon is {alone}",
                "hospitals that the server made up: each site pins its peers' keys",
                "which hospitals took part in a step",
            )
        return Words(
            facts=self.facts(scheme),
            mechanism=(
                f"DP-SGD over {self.hospitals} hospitals: in every step each sums gradients of one "
                f"{self.unit} clipped to L2 norm {self.clipping_norm:g} and rounds the sum to a "
                f"grid; {where}; division by the expected batch"
            ),
            sampling=f"Poisson over {self.unit}s of all hospitals at the rate {self.rate:g}"
            + (", one image of a sampled patient drawn uniformly" * patient)
            + (f", at most {self.images_per_patient} image(s) of one patient" * (not patient)),
            released=released,
            not_covered=uncovered,
        )
