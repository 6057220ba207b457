"""From settings to the plan of one member, or to why there is none and what comes nearest."""

import hashlib
import json
import math

from fedmed.base.errors import UserError
from fedmed.base.rounding import up
from fedmed.config import ARMS, Privacy, Settings
from fedmed.privacy import accounting
from fedmed.privacy.accounting import solve
from fedmed.privacy.mechanisms.features import FeatureLaplace
from fedmed.privacy.mechanisms.images import MECHANISMS, ImageMechanism, Wanted
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import (
    AdaptiveClipping,
    FeaturePlan,
    GradientPlan,
    ImagePlan,
    NoPrivacy,
    Plan,
    Sampling,
    StackedPlan,
    SummedPlan,
    UnnoisedPlan,
    UpdatePlan,
)
from fedmed.privacy.plans.gradient import relation_of
from fedmed.privacy.plans.summed import KEPT

__all__ = [
    "AdaptiveClipping",
    "FeaturePlan",
    "GradientPlan",
    "ImagePlan",
    "NoPrivacy",
    "Plan",
    "StackedPlan",
    "SummedPlan",
    "UnnoisedPlan",
    "UpdatePlan",
    "declared_size",
    "image_mechanism",
    "make_plan",
    "noise_source",
]


_FLOAT32 = 2.0**-23  # steps of the sums that noise is added to, in which their bound must hold


def make_plan(settings: Settings, units: int, hospital: str, declared: int | None = None) -> Plan:
    """The plan of ``settings`` at a hospital with ``units`` patients (or images, as the unit says).

    ``declared`` is a public size that the site's policy gives; else ``privacy.public-size`` may
    give one, and otherwise ``units`` itself is taken for public. Raises :class:`UserError` naming
    the key and the hospital where no honest plan exists, with the nearest one that does.
    """
    privacy = settings.privacy
    if settings.arm.plan == "none":
        return NoPrivacy()
    image = image_mechanism(settings)
    images = None
    if image is not None:
        images = ImagePlan(mechanism=image, images_per_patient=privacy.images_per_patient)
    if images is not None and settings.arm.plan == "image":
        return images
    training: GradientPlan | UpdatePlan
    if settings.arm.control:
        return _unnoised_plan(settings, units, hospital, declared)
    if settings.arm.plan == "features":
        return _feature_plan(settings, units, hospital, declared)
    if settings.arm.plan in ("gradient", "summed"):
        public = declared or declared_size(settings, hospital)
        # The hospital's true number must keep delta small too, whatever it declares.
        _check_delta(privacy.delta, units, f"{privacy.unit}s", hospital)
        make = _gradient_plan if settings.arm.plan == "gradient" else _summed_plan
        training = make(settings, public or units, hospital, public is not None)
    else:
        training = _update_plan(settings)
    training.check_noise(_FLOAT32)
    return training if images is None else StackedPlan(image=images, training=training)


def _feature_plan(
    settings: Settings, units: int, hospital: str, declared: int | None
) -> FeaturePlan:
    privacy, public = settings.privacy, declared or declared_size(settings, hospital)
    if units < 1:
        raise UserError(
            f"{hospital} holds no patients; lower data.hospitals or change the partition"
        )
    return FeaturePlan(
        mechanism=FeatureLaplace(
            epsilon=privacy.epsilon,
            norm=privacy.clipping_norm,
            components=settings.model.components,
        ),
        units=public or units,
        declared=public is not None,
        images_per_patient=privacy.images_per_patient,
    )


def noise_source(settings: Settings) -> NoiseSource:
    """Where the arm's noise comes from: the operating system, unless the settings ask otherwise."""
    # Who is in a batch is secret only where its noise hides it.
    if not settings.privacy.reproducible_noise and not settings.arm.control:
        return NoiseSource(None)
    # Two arms with one seed must not share noise: the difference of their releases would cancel it.
    nested = settings.to_nested()
    text = json.dumps([settings.run.seed, nested["privacy"], nested["train"]], sort_keys=True)
    return NoiseSource(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def declared_size(settings: Settings, hospital: str) -> int | None:
    """The public size of ``hospital`` in ``privacy.public-size``; None where none is declared.

    The pooled data are as large as all hospitals together. Raises :class:`UserError` where it
    cannot be read, or names other hospitals only.
    """
    text = settings.privacy.public_size.strip()
    if not text:
        return None
    names = [item.rpartition("=")[0].strip() for item in text.split(",")]
    if settings.train.scheme == "pooled" and hospital not in names:
        if names == [""]:
            return settings.data.hospitals * _size_in(text, hospital)
        return sum(_size_in(text, name) for name in names)
    return _size_in(text, hospital)


def _size_in(text: str, hospital: str) -> int:
    sizes: dict[str, str] = {}
    for item in text.split(","):
        name, equals, value = item.rpartition("=")
        sizes[name.strip() if equals else ""] = value.strip()
    value = sizes.get(hospital, sizes.get("", ""))
    if not value:
        raise UserError(
            f"privacy.public-size = '{text}' declares no size for {hospital}; add {hospital}=SIZE"
        )
    if not (value.isascii() and value.isdecimal() and len(value) < 10) or int(value) < 1:
        raise UserError(
            f"privacy.public-size = '{text}': '{value}' is not a whole number from 1 to "
            "999,999,999; write '500', or 'hospital-1=500,hospital-2=300'"
        )
    return int(value)


def image_mechanism(settings: Settings) -> ImageMechanism | None:
    """What noises the images, as the arm or before it; None where nothing does."""
    privacy, data = settings.privacy, settings.data
    kind = privacy.image_mechanism if privacy.image_mechanism != "none" else privacy.arm
    if ARMS[kind].plan != "image":
        return None
    mechanism = MECHANISMS[kind](
        Wanted(
            scale=privacy.laplace_scale,
            epsilon=privacy.epsilon,
            cell=privacy.cell,
            neighbourhood=privacy.neighbourhood,
            size=data.image_size,
            dimensions=data.dimensions,
            planes=max(1, data.slices),
        )
    )
    if not 1e-5 <= mechanism.scale <= 1e15:
        raise UserError(
            f"privacy.epsilon = {privacy.epsilon:g} makes Laplace noise of scale "
            f"{mechanism.scale:.3g} on images from 0 to 1; choose one that makes a scale from "
            "1e-05 to 1e+15"
        )
    return mechanism


def _question(settings: Settings, units: int, hospital: str) -> solve.Question:
    """What DP-SGD's steps are at a hospital of ``units``; raises where a batch is more than all."""
    privacy, train = settings.privacy, settings.train
    if train.batch_size > units:
        raise UserError(
            f"train.batch-size = {train.batch_size} is more than the {units} {privacy.unit}s of "
            f"{hospital}; lower it to {units} or less"
        )
    return solve.Question(
        units=units,
        batch=train.batch_size,
        epochs=train.local_epochs,
        rounds=train.rounds,
        delta=privacy.delta,
        relation=relation_of(privacy.unit),
    )


def _unnoised_plan(
    settings: Settings, units: int, hospital: str, declared: int | None
) -> UnnoisedPlan:
    """The batches and steps that ``dp-sgd`` would have; clipped where the arm reads the norm."""
    privacy = settings.privacy
    public = declared or declared_size(settings, hospital)
    question = _question(settings, public or units, hospital)
    return UnnoisedPlan(
        sampling=Sampling(
            unit=privacy.unit,
            units=question.units,
            expected_batch=question.batch,
            steps_per_round=question.steps_per_round,
            declared=public is not None,
        ),
        clipping_norm=privacy.clipping_norm
        if "privacy.clipping-norm" in settings.arm.reads
        else None,
    )


def _gradient_plan(settings: Settings, units: int, hospital: str, declared: bool) -> GradientPlan:
    privacy, train = settings.privacy, settings.train
    _check_delta(privacy.delta, units, f"{privacy.unit}s", hospital)
    question = _question(settings, units, hospital)
    return GradientPlan(
        unit=privacy.unit,
        units=units,
        declared=declared,
        expected_batch=train.batch_size,
        steps_per_round=question.steps_per_round,
        rounds=train.rounds,
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=_gradient_noise(privacy, question, hospital),
        delta=privacy.delta,
        images_per_patient=privacy.images_per_patient,
    )


def _summed_plan(settings: Settings, units: int, hospital: str, declared: bool) -> SummedPlan:
    privacy, train = settings.privacy, settings.train
    _check_delta(privacy.delta, units, f"{privacy.unit}s", hospital)
    everybody = settings.data.hospitals
    relation = relation_of(privacy.unit)
    noise, delta = privacy.noise_multiplier, privacy.delta * KEPT
    if not noise:
        noise = accounting.noise_multiplier(
            privacy.epsilon, delta, train.sampling_rate, train.rounds, relation
        )
    plan = SummedPlan(
        placement="server" if settings.arm.at_server else "shares",
        unit=privacy.unit,
        units=units,
        declared=declared,
        rate=train.sampling_rate,
        expected_batch=max(1, round(train.sampling_rate * units)),
        steps_per_round=1,
        rounds=train.rounds,
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=noise,
        delta=privacy.delta,
        images_per_patient=privacy.images_per_patient,
        hospitals=everybody,
        threshold=privacy.threshold or everybody,
        colluding=privacy.colluding,
    )
    spent = plan.epsilon()
    if privacy.noise_multiplier and spent > privacy.epsilon:
        raise UserError(
            f"privacy.noise-multiplier = {noise:g} gives epsilon {spent:.4g} in {train.rounds} "
            f"steps, above privacy.epsilon = {privacy.epsilon:g}; raise privacy.epsilon to "
            f"{up(spent, 4):.6g}, or lower train.rounds or train.sampling-rate"
        )
    return plan


def _gradient_noise(privacy: Privacy, question: solve.Question, hospital: str) -> float:
    given = privacy.noise_multiplier
    if not given:
        return solve.noise(question, privacy.epsilon)
    epsilon = solve.epsilon(question, given)
    if epsilon > privacy.epsilon:
        raise UserError(
            f"privacy.noise-multiplier = {given:g} gives epsilon {epsilon:.4g} at {hospital}, "
            f"above privacy.epsilon = {privacy.epsilon:g}; "
            + solve.nearest_for_noise(question, given, privacy.epsilon)
        )
    return given


def _update_plan(settings: Settings) -> UpdatePlan:
    privacy, train = settings.privacy, settings.train
    _check_delta(privacy.delta, settings.data.hospitals, "hospitals", "the federation")
    sigma = privacy.noise_multiplier or accounting.noise_multiplier(
        privacy.epsilon, privacy.delta, 1.0, train.rounds
    )
    plan = UpdatePlan(
        placement="server" if settings.arm.at_server else "hospital",
        hospitals=settings.data.hospitals,
        rounds=train.rounds,
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=sigma,
        delta=privacy.delta,
        adaptive=AdaptiveClipping(
            quantile=privacy.clip_quantile,
            rate=privacy.clip_rate,
            share_of_budget=privacy.clip_share,
        )
        if "privacy.clip-quantile" in settings.arm.reads
        else None,
    )
    if privacy.noise_multiplier and plan.epsilon() > privacy.epsilon:
        rounds = solve.largest(
            lambda n: accounting.epsilon(sigma, 1.0, n, privacy.delta) <= privacy.epsilon,
            train.rounds,
        )
        choices = f"raise privacy.epsilon to {up(plan.epsilon(), 4):.6g}"
        choices += f", or lower train.rounds to {rounds}" if rounds else ""
        raise UserError(
            f"privacy.noise-multiplier = {sigma:g} gives epsilon {plan.epsilon():.4g} in "
            f"{train.rounds} rounds, above privacy.epsilon = {privacy.epsilon:g}; {choices}"
        )
    return plan


def _check_delta(delta: float, units: int, what: str, where: str) -> None:
    if units < 1:
        raise UserError(f"{where} holds no {what}; lower data.hospitals or change the partition")
    if delta >= 1 / units:
        suggestion = 10 ** (math.floor(math.log10(1 / units)) - 1)
        raise UserError(
            f"privacy.delta = {delta:g} is not below 1/{units} ({where} has {units} {what}), so "
            f"the guarantee would mean nothing; use {suggestion:g} or less"
        )
