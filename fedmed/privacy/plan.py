"""Plans: the privacy parameters of an arm at one hospital, fixed before training.

A plan gives training its clipping norm, noise and steps, and accounting its event: they cannot
disagree, because both come from the same frozen object.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fedmed.config import Settings
from fedmed.errors import UserError
from fedmed.privacy import accounting
from fedmed.privacy.images import PixelLaplace
from fedmed.privacy.noise import NoiseSource


@dataclass(frozen=True, kw_only=True)
class NoPrivacy:
    """Nothing is noised and nothing is claimed."""


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """Images are noised once, before training, by ``mechanism``."""

    mechanism: PixelLaplace

    def epsilon(self, releases: int = 1) -> float:
        """Epsilon per image after ``releases`` independent noisings (basic composition)."""
        return releases * self.mechanism.epsilon_per_image


@dataclass(frozen=True, kw_only=True)
class GradientPlan:
    """DP-SGD (Abadi et al. 2016) at one hospital: Poisson samples of units, clipped, noised.

    Neighbouring relation: add or remove one unit (a patient with all images, or one image). Under
    the patient unit a sampled patient contributes one image drawn uniformly, so that clipping the
    sample's gradient clips the patient's.
    """

    unit: Literal["patient", "image"]
    units: int  # how many the hospital holds; treated as public
    expected_batch: int
    steps_per_round: int
    rounds: int
    clipping_norm: float
    noise_multiplier: float
    delta: float

    @property
    def sampling_rate(self) -> float:
        """Probability of each unit to be in a step's batch."""
        return self.expected_batch / self.units

    @property
    def steps(self) -> int:
        """Steps of all rounds."""
        return self.rounds * self.steps_per_round

    @property
    def noise_standard_deviation(self) -> float:
        """Of the noise on the clipped sum, before division by the expected batch."""
        return self.noise_multiplier * self.clipping_norm

    def epsilon(self, steps: int | None = None) -> float:
        """Epsilon at ``delta`` after ``steps`` (by default the planned number)."""
        count = self.steps if steps is None else steps
        return accounting.epsilon(self.noise_multiplier, self.sampling_rate, count, self.delta)


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """Gaussian noise on clipped updates, once a round, at the hospital or at the server.

    At the hospital the unit is the hospital itself and everybody knows that it takes part, so
    neighbours differ by replacing its data: sensitivity 2C. At the server noise is added to the sum
    over hospitals and neighbours differ by zeroing out one hospital's update: sensitivity C.
    """

    placement: Literal["hospital", "server"]
    hospitals: int
    rounds: int
    clipping_norm: float
    noise_multiplier: float
    delta: float

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of what is noised."""
        return self.clipping_norm * (2 if self.placement == "hospital" else 1)

    @property
    def noise_standard_deviation(self) -> float:
        """Of the noise on one hospital's update (hospital) or on the sum of all (server)."""
        return self.noise_multiplier * self.sensitivity

    def epsilon(self, rounds: int | None = None) -> float:
        """Epsilon at ``delta`` after ``rounds`` (by default the planned number)."""
        count = self.rounds if rounds is None else rounds
        return accounting.epsilon(self.noise_multiplier, 1.0, count, self.delta)


Plan = NoPrivacy | ImagePlan | GradientPlan | UpdatePlan


def make_plan(settings: Settings, units: int, hospital: str) -> Plan:
    """The plan of ``settings`` at a hospital with ``units`` patients (or images, as the unit says).

    Raises :class:`UserError` naming the key and the hospital where no honest plan exists: delta not
    below 1/units, a batch above the number of units, an epsilon no noise can reach.
    """
    privacy, train = settings.privacy, settings.train
    if privacy.arm == "none":
        return NoPrivacy()
    if privacy.arm == "pixel-laplace":
        pixels = settings.data.image_size**2
        if privacy.laplace_scale > 0:
            return ImagePlan(mechanism=PixelLaplace(privacy.laplace_scale, pixels))
        return ImagePlan(mechanism=PixelLaplace.for_epsilon(privacy.epsilon, pixels))
    if privacy.arm == "dp-sgd":
        return _gradient_plan(settings, units, hospital)
    _check_delta(privacy.delta, settings.data.hospitals, "hospitals", "the federation")
    return UpdatePlan(
        placement="hospital" if privacy.arm == "local-update" else "server",
        hospitals=settings.data.hospitals,
        rounds=train.rounds,
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=accounting.noise_multiplier(
            privacy.epsilon, privacy.delta, 1.0, train.rounds
        ),
        delta=privacy.delta,
    )


def noise_source(settings: Settings) -> NoiseSource:
    """Where the arm's noise comes from: the operating system, unless the settings ask otherwise."""
    return NoiseSource(settings.run.seed if settings.privacy.reproducible_noise else None)


def _gradient_plan(settings: Settings, units: int, hospital: str) -> GradientPlan:
    privacy, train = settings.privacy, settings.train
    _check_delta(privacy.delta, units, f"{privacy.unit}s", hospital)
    if train.batch_size > units:
        raise UserError(
            f"train.batch-size = {train.batch_size} is more than the {units} {privacy.unit}s of "
            f"{hospital}; lower it to {units} or less"
        )
    steps_per_round = max(1, round(train.local_epochs * units / train.batch_size))
    sigma = accounting.noise_multiplier(
        privacy.epsilon,
        privacy.delta,
        train.batch_size / units,
        steps_per_round * train.rounds,
    )
    return GradientPlan(
        unit=privacy.unit,
        units=units,
        expected_batch=train.batch_size,
        steps_per_round=steps_per_round,
        rounds=train.rounds,
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=sigma,
        delta=privacy.delta,
    )


def _check_delta(delta: float, units: int, what: str, where: str) -> None:
    if units < 1:
        raise UserError(f"{where} holds no {what}; lower data.hospitals or change the partition")
    if delta >= 1 / units:
        suggestion = 10 ** (math.floor(math.log10(1 / units)) - 1)
        raise UserError(
            f"privacy.delta = {delta:g} is not below 1/{units} ({where} has {units} {what}), so "
            f"the guarantee would mean nothing; use {suggestion:g} or less"
        )
