"""One hospital's share of a federated evaluation: score histograms, noised and paid for."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.hospital import Hospital, Refusal, ledger_failures, refusing
from fedmed import exchange, timing
from fedmed.data.network import evaluation_shard, load_network
from fedmed.data.shard import Shard
from fedmed.errors import RunError, UserError
from fedmed.evaluation.groups import UNKNOWN, age_band
from fedmed.evaluation.histograms import EVERYBODY, Spec, chosen, clustering, count
from fedmed.exchange import Histograms
from fedmed.privacy.evaluating import (
    EvaluationPlan,
    check_delta,
    evaluation_cap,
    evaluation_plan,
    evaluation_request,
    ledger_run,
    noise_for,
    noised,
)
from fedmed.privacy.policy import SIMULATION
from fedmed.training import predict

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
    image is scored, and the same request gets the stored bytes. Raises :class:`Refusal`.
    """
    settings, name = hospital.settings, hospital.name
    if hospital.policy.evaluation == "refuse":
        raise Refusal("policy")
    with refusing("plan", name):
        if len(edges) > MOST_EDGES:
            raise UserError(f"{len(edges)} edges are more than {MOST_EDGES}")
        spec = Spec(
            edges=tuple(edges),
            attributes=settings.evaluation.grouped_by,
            cap=evaluation_cap(settings),
        )
        plan = evaluation_plan(settings)
    with refusing("data", name):
        shard = evaluation_shard(settings.data, name, spec.cap)
    arrays = {**frozen, **parameters}
    if plan is None:
        if hospital.policy is not SIMULATION:
            with ledger_failures(hospital.ledger, name):
                hospital.ledger.note("evaluated without a guarantee", arm=settings.privacy.arm)
        counts = _counts(hospital, arrays, shard, spec)
        table = shard.table[chosen(shard.table["image"], shard.table["patient_id"], spec.cap)]
        return Histograms(name, counts, clustering(table["patient_id"]))
    return _noised(hospital, run, arrays, shard, spec, plan)


def _noised(
    hospital: Hospital,
    run: str,
    arrays: dict[str, Tensor],
    shard: Shard,
    spec: Spec,
    plan: EvaluationPlan,
) -> Histograms:
    settings, ledger, policy = hospital.settings, hospital.ledger, hospital.policy
    with refusing("plan", hospital.name):
        check_delta(plan, int(shard.table["patient_id"].nunique()), hospital.name)
    charge = evaluation_request(
        settings,
        ledger.path.stem,
        plan,
        policy,
        fixed_split=load_network(settings.data).fixed_split,
        cohort=shard.fingerprint(),
    )
    request, account = exchange.request_fingerprint(arrays, spec), ledger_run(run)
    with ledger_failures(ledger, hospital.name):
        stored = ledger.answered(account, 0, request)
        if stored is not None:
            return Histograms(hospital.name, _arrays(exchange.unpack(stored)))
        ledger.open_plan(account, charge, policy.limit)
        entry = ledger.reserve(
            account,
            0,
            request,
            1,
            limit=policy.limit,
            repeatable=hospital.source.reproducible,
        )
    exact = _counts(hospital, arrays, shard, spec)
    normals = noise_for(hospital.source, hospital.name, request)
    released = noised(exact, plan.deviation(spec), normals)
    packed = exchange.pack({family: torch.from_numpy(c) for family, c in released.items()})
    with ledger_failures(ledger, hospital.name):
        ledger.commit(entry, packed, cohort=shard.fingerprint())
    return Histograms(hospital.name, released)


def _counts(hospital: Hospital, arrays: dict[str, Tensor], shard: Shard, spec: Spec) -> Counts:
    """Exact counts: nothing that may leave under an arm that protects anything."""
    table = shard.table
    try:
        with timing.measured("evaluation"):
            settings = hospital.settings
            channels, dimensions = settings.model.channels, settings.data.dimensions
            model = hospital.model_with(arrays)
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
    except (RunError, UserError) as error:
        log.error("%s: %s", hospital.name, error)
        raise Refusal("not-finite") from error


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
