"""One hospital's share of a federated evaluation: score histograms, noised and paid for."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.base import timing
from fedmed.base.errors import UserError
from fedmed.data.network import evaluation_shard, load_network
from fedmed.data.shard import Shard
from fedmed.evaluation.pooled.histograms import EVERYBODY, Spec, chosen, clustering, count
from fedmed.evaluation.tables.groups import UNKNOWN, age_band
from fedmed.federation import exchange
from fedmed.federation.answers import Histograms
from fedmed.hospital.hospital import Hospital, model_for
from fedmed.hospital.refusals import Refusal, ledger_failures, refusing
from fedmed.hospital.terms import Terms, fixed_split
from fedmed.privacy.ledger.filtering import Charge
from fedmed.privacy.ledger.policy import SIMULATION
from fedmed.privacy.plans.evaluation import (
    EvaluationPlan,
    check_delta,
    evaluation_cap,
    evaluation_plan,
    evaluation_request,
    ledger_run,
    noise_for,
    noised,
)
from fedmed.training.local import predict

log = logging.getLogger("fedmed.hospital")

MOST_EDGES = 4095  # each bin is memory, and a line of what is sent

Counts = dict[str, NDArray[np.float64]]


def evaluate(
    hospital: Hospital,
    run: str,
    parameters: dict[str, Tensor],
    frozen: dict[str, Tensor],
    edges: Sequence[float],
) -> Histograms:
    """Histograms of the hospital's evaluation images under the model of ``run``.

    Under an arm that protects anything they are noised, always: the release is reserved before an
    image is scored, and the same request gets the stored bytes; what goes wrong with the images
    after that changes no more than numbers under the noise. Raises :class:`Refusal`.
    """
    settings, name, policy = hospital.settings, hospital.name, hospital.policy
    spec, plan = asked_for(hospital, edges)
    model = model_for(settings, parameters, frozen)
    if plan is not None:
        arrays = {**frozen, **parameters}
        return _noised(hospital, run, model, exchange.request_fingerprint(arrays, spec), spec, plan)
    with refusing("data", name):
        shard = evaluation_shard(settings.data, name, spec.cap)
    if policy is not SIMULATION:
        with ledger_failures(hospital.ledger, name):
            hospital.ledger.note("evaluated without a guarantee", arm=settings.privacy.arm)
    with refusing("not-finite", name):
        counts = _counts(hospital, model, shard, spec)
    table = shard.table[chosen(shard.table["image"], shard.table["patient_id"], spec.cap)]
    return Histograms(name, counts, clustering(table["patient_id"]))


def asked_for(of: Hospital | Terms, edges: Sequence[float]) -> tuple[Spec, EvaluationPlan | None]:
    """The cells and the noise of a request, from settings and policy; raises :class:`Refusal`.

    Where the policy declares a size, that stands for the number of evaluation patients: the exact
    one could be found by asking for one delta after the other.
    """
    if of.policy.evaluation == "refuse":
        raise Refusal("policy")
    with refusing("plan", of.name):
        if len(edges) > MOST_EDGES:
            raise UserError(f"{len(edges)} edges are more than {MOST_EDGES}")
        evaluation = of.settings.evaluation
        spec = Spec(
            edges=tuple(edges), attributes=evaluation.grouped_by, cap=evaluation_cap(of.settings)
        )
        plan = evaluation_plan(of.settings)
        if plan is not None and of.policy.public_size:
            check_delta(plan, of.policy.public_size, of.name)
    return spec, plan


def charge_for(of: Hospital | Terms, plan: EvaluationPlan, cohort: str | None = None) -> Charge:
    """The release as the account of the hospital's evaluation patients sees it.

    Before the data are read (no ``cohort``) the site's word on its split is taken. What is charged
    rests on the table: where it does not hold the split, a request's labels could move patients.
    """
    fixed = fixed_split(of.settings)
    if cohort is not None:
        fixed = fixed and load_network(of.settings.data).fixed_split
    return evaluation_request(
        of.settings, of.ledger.path.stem, plan, of.policy, fixed_split=fixed, cohort=cohort
    )


def _noised(
    hospital: Hospital, run: str, model: nn.Module, request: str, spec: Spec, plan: EvaluationPlan
) -> Histograms:
    ledger, policy, name = hospital.ledger, hospital.policy, hospital.name
    account = ledger_run(run)
    with refusing("data", name):
        shard = evaluation_shard(hospital.settings.data, name, spec.cap)
    with refusing("plan", name):
        if not policy.public_size:  # else nothing that is asked may rest on the exact number
            check_delta(plan, int(shard.table["patient_id"].nunique()), name)
    with ledger_failures(ledger, name):
        stored = ledger.answered(account, 0, request)
        if stored is not None:
            return Histograms(name, _arrays(exchange.unpack(stored)))
        ledger.open_plan(account, charge_for(hospital, plan, shard.fingerprint()), policy.limit)
        entry = ledger.reserve(
            account,
            0,
            request,
            1,
            limit=policy.limit,
            repeatable=hospital.source.reproducible,
        )
    try:
        exact = _counts(hospital, model, shard, spec)
    except Exception as error:
        # What fails now fails by the data: noise alone leaves, in the same form.
        log.error("%s: an evaluation failed: %s", name, type(error).__name__)
        exact = {family: np.zeros(spec.shape(family)) for family in spec.families}
    normals = noise_for(hospital.source, name, request)
    released = noised(exact, plan.deviation(spec), normals)
    packed = exchange.pack({family: torch.from_numpy(c) for family, c in released.items()})
    with ledger_failures(ledger, name):
        ledger.commit(entry, packed, cohort=shard.fingerprint())
    return Histograms(name, released)


def _counts(hospital: Hospital, model: nn.Module, shard: Shard, spec: Spec) -> Counts:
    """Exact counts: nothing that may leave under an arm that protects anything."""
    table, settings = shard.table, hospital.settings
    channels, dimensions = settings.model.channels, settings.data.dimensions
    with timing.measured("evaluation"):
        # Whether one image's score is finite must not decide what leaves.
        scores = predict(model, shard.images, channels, dimensions=dimensions, unscored=0.0)
    return count(
        spec,
        splits=table["split"],
        labels=table["label"],
        scores=scores,
        images=table["image"],
        patients=table["patient_id"],
        groups={name: _groups(table, name) for name in spec.families if name != EVERYBODY},
    )


def _groups(table: pd.DataFrame, attribute: str) -> NDArray[Any]:
    """Each image's group, in the words of the public lists; unknown where the column is absent."""
    known = pd.Series(UNKNOWN, index=table.index, dtype="string")
    if attribute == "sex_age":
        sex, age = _groups(table, "sex"), _groups(table, "age")
        both = (sex != UNKNOWN) & (age != UNKNOWN)
        return np.where(both, sex + " " + age, UNKNOWN)
    if attribute in table:
        known = table[attribute]
        if attribute == "age":
            known = age_band(known)
        elif attribute == "comorbidities":
            known = known.clip(upper=3).astype("string").replace("3", "3+")
    return known.astype("string").fillna(UNKNOWN).to_numpy(dtype=object)


def _arrays(stored: dict[str, Tensor]) -> Counts:
    return {family: cells.numpy() for family, cells in stored.items()}
