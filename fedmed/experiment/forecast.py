"""What a comparison would cost in privacy and time, before any training: ``fedmed plan``."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed import models
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.data.cohort import LABEL_PREFIX
from fedmed.data.form import Form
from fedmed.data.network import POOLED, load_network, member_names
from fedmed.data.shard import Shard
from fedmed.experiment.file import Experiment
from fedmed.federation.members import (
    images_of,
    make_member_plan,
    make_plans,
    patients_of,
    trained_parameters,
    units_of,
)
from fedmed.models.features import FeatureNetwork
from fedmed.privacy import accounting
from fedmed.privacy.ledger.deciding import decide
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import load_policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.step import Mechanism
from fedmed.privacy.plans import GradientPlan, Plan, part
from fedmed.privacy.plans.evaluation import evaluation_plan
from fedmed.site import own_settings
from fedmed.training.cached_features import compute, is_fixed
from fedmed.training.local import pick_device, train_plain, train_private

_TIMED = (2, 8)  # images of the two batches that are timed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One hospital's plan under one arm; what does not apply is None."""

    hospital: str
    unit: str
    noise_multiplier: float | None
    sampling_rate: float | None
    expected_batch: int | None
    steps: int
    epsilon: float | None
    delta: float
    noise_to_signal: float | None
    accepted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the histograms of one seed cost each evaluation patient."""

    epsilon: float
    delta: float
    noise_multiplier: float
    images_per_patient: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One arm: its hospitals, or why it is impossible and what comes nearest."""

    arm: str
    possible: bool
    reason: str
    seconds: float | None  # of training, all hospitals one after the other, one seed
    hospitals: list[Row]
    evaluation: Evaluation | None = None  # None where hospitals tell nothing, or tell it exactly

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return asdict(self)


def forecast(experiment: Experiment, out: Path, *, timed: bool = True) -> list[Forecast]:
    """Every arm's plans; ``timed`` measures a step of this machine for the time estimate.

    ``out`` is where the comparison's ledgers would lie: what they hold counts. Raises
    :class:`UserError` for a mistake that no other plan would mend.
    """
    load_network(experiment.base.data)
    known: dict[tuple[Any, ...], tuple[float, float]] = {}
    return [
        _arm(name, experiment.settings(name, experiment.seeds[0]), out, timed, known)
        for name in experiment.arms
    ]


def _arm(
    name: str,
    settings: Settings,
    out: Path,
    timed: bool,
    known: dict[tuple[Any, ...], tuple[float, float]],
) -> Forecast:
    members = member_names(settings)
    try:
        make_plans(settings)
        rows = [_row(_own(settings, member), member, out) for member in members]
    except UserError as error:
        return Forecast(arm=name, possible=False, reason=str(error), seconds=None, hospitals=[])
    accepted = [row for row in rows if row.accepted]
    possible = len(accepted) >= settings.train.minimum_hospitals
    reason = "" if possible else "too few hospitals accept: " + rows[0].reason
    seconds = _seconds(settings, members, known) if timed and possible else None
    return Forecast(
        arm=name,
        possible=possible,
        reason=reason,
        seconds=seconds,
        hospitals=rows,
        evaluation=_evaluation(settings),
    )


def _evaluation(settings: Settings) -> Evaluation | None:
    plan = None if settings.evaluation.where == "server" else evaluation_plan(settings)
    if plan is None:
        return None
    return Evaluation(
        epsilon=plan.spent_epsilon(),
        delta=plan.delta,
        noise_multiplier=plan.noise_multiplier,
        images_per_patient=plan.cap,
    )


def _own(settings: Settings, member: str) -> Settings:
    """The settings that a hospital will use, with its own on top; see ``own_settings``."""
    used = own_settings.own_settings(settings, member)
    return own_settings.check_own(settings, own_settings.difference(settings, used), member)


def _row(settings: Settings, member: str, out: Path) -> Row:
    policy = load_policy(settings.run.policies, member)
    plan: Plan = make_member_plan(settings, member, policy)
    ledger = Ledger(files.ledger_path(settings.run.ledgers, out, member))
    decision = decide(settings, member, plan, policy, ledger, patients_of(settings, member))
    gradient = part(plan, GradientPlan)
    data = settings.data
    parameters = trained_parameters(settings.model, data.image_size, data.dimensions, data.outputs)
    return Row(
        hospital=member,
        unit=plan.unit,
        noise_multiplier=plan.step.noise if plan.step else None,
        sampling_rate=plan.step.rate if plan.step else None,
        expected_batch=gradient.expected_batch if gradient else None,
        steps=plan.steps,
        epsilon=plan.epsilon(),
        delta=plan.delta,
        noise_to_signal=plan.noise_to_signal(parameters) if plan.step else None,
        accepted=decision.accepts,
        reason=decision.reason,
    )


def _seconds(
    settings: Settings,
    members: Iterable[str],
    known: dict[tuple[Any, ...], tuple[float, float]],
) -> float:
    """Time of all steps, from two that are timed on random images; nothing private is read."""
    train, privacy = settings.train, settings.privacy
    private = settings.arm.samples
    shape = Form.of(settings.data).shape
    key = (private, settings.model, shape, privacy.engine, train.optimizer)
    if key not in known:
        few, many = (_step_seconds(settings, private, images) for images in _TIMED)
        slope = max(0.0, (many - few) / (_TIMED[1] - _TIMED[0]))
        # What a step costs whatever its batch (noise, the optimiser), and what each image adds.
        known[key] = (max(0.0, few - slope * _TIMED[0]), slope)
    fixed, each = known[key]
    seconds = 0.0
    for member in members:
        units = units_of(settings, member) if private else images_of(settings, member)
        seen = max(1.0, train.local_epochs * units)
        steps = seen / train.batch_size
        if settings.arm.plan == "summed":
            seen, steps = train.sampling_rate * units, 1.0
        seconds += train.rounds * (steps * fixed + seen * each)
    return seconds


def _step_seconds(settings: Settings, private: bool, images: int) -> float:
    """Time of one step on ``images`` random images: the shortest of three after a first one."""
    data = settings.data
    shape = (images, *Form.of(data).shape)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "image": [str(i) for i in range(images)],
            "label": [i % 2 for i in range(images)],
            "patient_id": [str(i) for i in range(images)],
            **{LABEL_PREFIX + name: [i % 2 for i in range(images)] for name in data.targets},
        }
    )
    shard = Shard("timed", rng.integers(0, 256, shape, dtype=np.uint8), table)
    small = settings.replaced({"train.batch-size": images, "train.local-epochs": 3.0})
    fresh = models.without_weights(settings.model, data.image_size)
    built = models.build(
        fresh, data.image_size, seed=0, dimensions=data.dimensions, outputs=data.outputs
    )
    model = built.to(pick_device(settings.run.device))
    if isinstance(model, FeatureNetwork) and is_fixed(model, settings.train.augment):
        features = compute(model, shard.images, settings.model.channels, data.dimensions)
        shard = replace(shard, images=features)  # as a run has them after its first round
    plan = GradientPlan(
        unit="patient",
        units=images,
        expected_batch=images,
        steps_per_round=3,
        rounds=1,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        delta=1e-5,
    )
    elapsed = []
    for _ in range(2):  # the first one warms caches up
        started = time.perf_counter()
        if private:
            train_private(model, shard, small, plan, NoiseSource(), ("timed",))
        else:
            train_plain(model, shard, small, ("timed",))
        elapsed.append(time.perf_counter() - started)
    return elapsed[-1] / plan.steps_per_round


def patient_total(experiment: Experiment) -> tuple[float, float] | None:
    """Epsilon and delta of one patient over all arms and seeds that bound it.

    At the smallest delta of them, for the worst hospital; None where no arm bounds it. Arms without
    a guarantee per patient (no privacy, images alone) come on top and bound nothing.
    """
    per_member: dict[str, list[tuple[Mechanism, int]]] = {}
    delta = 1.0
    for settings in experiment.arms.values():
        for member in member_names(settings):
            own = _own(settings, member)
            plan = make_member_plan(own, member)
            step = plan.cost("patient")
            if step is not None:
                count = plan.steps * len(experiment.seeds)
                per_member.setdefault(member, []).append((step, count))
                delta = min(delta, settings.privacy.delta)
    pooled = per_member.pop(POOLED, [])
    everyone = [[*spent, *pooled] for spent in per_member.values()] or [pooled]
    if not any(everyone):
        return None
    return max(accounting.composed_epsilon(tuple(spent), delta) for spent in everyone), delta
